"""Edits that leave the first style rows alone: what they skip changes nothing, for every method that says which rows its stages read."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_methods
import small_parts
import torch

from sdic_runtime.edits import Direction, GanSpaceEdit, Pca
from sdic_runtime.inversion import Edited
from sdic_runtime.pipeline import Pipeline
from sdic_train.config import FACES, TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC
from sdic_train.pipelines import pipeline_of

NAMES = [name for name, code in METHODS.items() if name not in ("hyperstyle", "restyle-psp", "psp")]


class Spy:
    """Writes down which stages a backend runs."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.ran: list[str] = []
        inner = pipeline.backend.run

        def run(stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            self.ran.append(stage)
            return inner(stage, inputs, outputs)

        pipeline.backend.run = run  # type: ignore[method-assign]

    def seen(self) -> list[str]:
        seen, self.ran = self.ran, []
        return seen


def made(name: str) -> Pipeline:
    if name == "sdic":
        torch.manual_seed(1)
        model: Any = SDIC(TINY).eval().requires_grad_(False)
    else:
        model = (small_parts if name in small_parts.BUILDERS else small_methods).small_model(name)
    code = METHODS[name]
    return pipeline_of(code.iterating(1) if code.unrolled else code, model, Path(name))


@pytest.fixture(scope="module", params=NAMES)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    torch.set_num_threads(1)
    return made(request.param)


@pytest.fixture(scope="module")
def sdic() -> Pipeline:
    return made("sdic")


def pictures(pipeline: Pipeline, count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, pipeline.bundle.manifest.shape("image", count)).astype(np.float32)


def direction(pipeline: Pipeline, row: int) -> Direction:
    rows, width = pipeline.sizes["L"], pipeline.sizes["C"]
    return Direction(np.random.default_rng(1).standard_normal((rows, width)), rows=(row, rows))


def component(pipeline: Pipeline, row: int) -> GanSpaceEdit:
    rows, width = pipeline.sizes["L"], pipeline.sizes["C"]
    return GanSpaceEdit(Pca(np.zeros((1, width)), np.eye(2, width)[:, None], np.ones(2)), 1, row, rows, 3.0)


def test_what_is_skipped_changes_no_edit(pipeline: Pipeline) -> None:
    inversion, spy = pipeline.invert(pictures(pipeline, 1)), Spy(pipeline)
    skipped = 0
    for name, move in pipeline.moves.items():
        for row in (5, 8, 9, 11):
            edit = (direction if "direction" in move.kinds else component)(pipeline, row)
            pipeline.backend.skips = False
            expected = pipeline.edit(inversion, edit, move=name).pixels
            whole = spy.seen()
            pipeline.backend.skips = True
            for _ in range(2):
                pipeline.edit(inversion, edit, move=name)
            spy.seen()
            assert np.abs(pipeline.edit(inversion, edit, move=name).pixels - expected).max() <= 1e-6 * expected.std()
            skipped += spy.seen() != whole
    assert skipped


def test_stages_read_the_rows_that_they_say(pipeline: Pipeline) -> None:
    method, backend = pipeline.bundle.manifest, pipeline.backend
    random = np.random.default_rng(2)
    for stage, rows in method.rows.items():
        table = method.stage(stage)
        inputs = {tensor: random.standard_normal(method.shape(tensor, 1)).astype(np.float32) for tensor in table.inputs}
        for end, same in ((rows, True), (rows - 1, False)):
            moved = {**inputs, "latent": inputs["latent"].copy()}
            moved["latent"][:, end:] += 1
            results = []
            for given in (inputs, moved):
                made = backend.run(stage, {tensor: backend.upload(array) for tensor, array in given.items()}, table.outputs)
                results.append([backend.download(made[output]) for output in table.outputs])
            assert all(map(np.array_equal, *results)) is same


def test_an_edit_starts_at_the_first_moved_row(sdic: Pipeline) -> None:
    inversion, spy = sdic.invert(pictures(sdic, 1)), Spy(sdic)
    seen = {}
    for row in range(7, 12):
        ran = []
        for strength in (1.0, 2.0, -1.0):
            sdic.edit(inversion, direction(sdic, row), strength)
            ran.append(spy.seen())
        seen[row] = ran
    head, tail, parts = ["generator_head"] * 2, ["generator_tail"], ["generator_64", "generator_128"]
    assert seen[7] == [head + tail] * 3
    assert seen[8] == [head + tail, tail, tail]
    assert seen[9] == [tail, head + parts, parts[1:]]  # the chain is loaded for the second edit of a kind
    assert seen[10] == seen[11] == [tail, parts[1:], parts[1:]]


def test_several_strengths_are_worth_the_chain(sdic: Pipeline) -> None:
    inversion, spy = sdic.invert(pictures(sdic, 1)), Spy(sdic)
    sdic.edit(inversion, direction(sdic, 9), [1.0, 2.0])
    assert spy.seen() == ["generator_head", "generator_head", "generator_64", "generator_128"]


def test_ganspace_edits_skip_too(sdic: Pipeline) -> None:
    inversion, spy = sdic.invert(pictures(sdic, 1)), Spy(sdic)
    for _ in range(2):
        sdic.edit(inversion, component(sdic, 8))
    assert spy.seen() == ["generator_head", "generator_head", "generator_tail", "generator_tail"]


def test_nothing_moved_is_the_inversion_by_the_same_steps(sdic: Pipeline) -> None:
    inversion, spy = sdic.invert(pictures(sdic, 1)), Spy(sdic)
    assert np.array_equal(sdic.edit(inversion, direction(sdic, 9), 0.0).pixels, inversion.pixels)
    assert spy.seen() == ["generator_head", "generator_head", "generator_tail"]


def test_memory_is_bounded(sdic: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    inversion, spy = sdic.invert(pictures(sdic, 1)), Spy(sdic)
    monkeypatch.setattr(sdic.stills, "limit", 4 * (8 * 64 * 64 + 3 * 32 * 32))  # one feature with its RGB sum
    for row in (8, 9, 9, 8):
        sdic.edit(inversion, direction(sdic, row))
        assert inversion.still.common.bytes <= sdic.stills.limit and len(inversion.still.common.values) == 2
    monkeypatch.setattr(sdic.stills, "limit", 1000)
    inversion = sdic.invert(pictures(sdic, 1))
    spy.seen()
    sdic.edit(inversion, direction(sdic, 9), [1.0, 2.0])
    assert spy.seen() == ["generator_head", "generator_head", "generator_tail"] and not inversion.still.common.values


def test_what_edits_share_is_not_saved_but_goes_with_a_part(sdic: Pipeline) -> None:
    inversion = sdic.invert(pictures(sdic, 2))
    sdic.edit(inversion, direction(sdic, 8))
    assert len(inversion.still.common.values) == 2
    assert not pickle.loads(pickle.dumps(inversion)).still.common.values and not copy.copy(inversion).still.common.values
    spy, expected = Spy(sdic), sdic.edit(inversion, direction(sdic, 8)).pixels
    spy.seen()
    part = sdic.edit(inversion[1], direction(sdic, 8))
    assert spy.seen() == ["generator_tail"]
    assert np.abs(part.pixels - expected[1:]).max() < 1e-5 * expected.std()


def test_the_inversions_edited_last_share_the_memory(sdic: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (sdic.invert(pictures(sdic, 1)) for _ in range(3))
    monkeypatch.setattr(sdic.stills, "limit", 2 * 4 * (8 * 64 * 64 + 3 * 32 * 32))  # two features with their RGB sums
    for inversion in (first, second, first, third):
        sdic.edit(inversion, direction(sdic, 8))
    assert [len(inversion.still.common.values) for inversion in (first, second, third)] == [2, 0, 2]
    assert not second.still.common.bytes
    spy, expected = Spy(sdic), sdic.edit(first, direction(sdic, 8)).pixels
    assert np.array_equal(sdic.edit(second, direction(sdic, 8)).pixels, expected)
    assert spy.seen() == ["generator_tail", "generator_head", "generator_head", "generator_tail"]


def test_an_edit_keeps_what_it_began_with(sdic: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    inversion, render = sdic.invert(pictures(sdic, 1)), sdic._render
    expected = sdic.edit(inversion, direction(sdic, 8)).pixels
    monkeypatch.setattr(sdic.stills, "limit", 4 * (8 * 64 * 64 + 3 * 32 * 32))  # what one edit needs drives out what others do
    others: list[np.ndarray] = []

    def interrupted(*arguments: Any) -> Edited:
        """As when another thread edits the same inversion at the worst time."""
        monkeypatch.setattr(sdic, "_render", render)
        others.append(sdic.edit(inversion, direction(sdic, 10), [1.0, 2.0], move="released").pixels)
        return render(*arguments)

    monkeypatch.setattr(sdic, "_render", interrupted)
    assert np.array_equal(sdic.edit(inversion, direction(sdic, 8)).pixels, expected) and others


def test_threads_edit_one_inversion(sdic: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, inversion = (8, 9, 10, 11), sdic.invert(pictures(sdic, 2))
    expected = {row: sdic.edit(inversion, direction(sdic, row)).pixels for row in rows}
    monkeypatch.setattr(sdic.stills, "limit", 2 * 4 * (8 * 64 * 64 + 3 * 32 * 32))  # what one edit needs drives out what others do
    interval = sys.getswitchinterval()

    def work(number: int) -> float:
        worst = 0.0
        for turn in range(4):
            row = rows[(number + turn) % len(rows)]
            whole, part = sdic.edit(inversion, direction(sdic, row)), sdic.edit(inversion[1], direction(sdic, row))
            worst = max(worst, *(float(np.abs(a - b).max()) for a, b in ((whole.pixels, expected[row]), (part.pixels, expected[row][1:]))))
        return worst

    try:
        sys.setswitchinterval(1e-4)
        with ThreadPoolExecutor(4) as threads:
            worst = max(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert worst <= 1e-4 * expected[8].std()


def test_the_plain_generator_skips_nothing() -> None:
    torch.manual_seed(1)
    from sdic_train.backend import TorchBackend

    backend = TorchBackend(method_of(METHODS["sdic"], TINY), SDIC(TINY).eval(), plain=True)
    assert not backend.skips and not backend.runs("generator_64")


def test_the_cut_of_the_released_face_model() -> None:
    method = method_of(METHODS["sdic"], FACES)
    assert {name: method.rows[name] for name in method.parts if name in method.rows} == {
        "generator_64": 9, "generator_128": 11, "generator_256": 13, "generator_512": 15,
    }  # fmt: skip
    assert method.parts["generator_1024"].inputs == ("feature_512", "rgb_256", "latent")
    assert method.shape("feature_512", 1) == (1, 64, 512, 512)
