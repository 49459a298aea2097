"""A program in two: what an edit cannot change, and the rest. The tables that say so are checked."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime.bundle.bundle import DEMO_FOLDER, Bundle
from sdic_runtime.edits import Direction
from sdic_runtime.errors import BundleError
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import Cut, Method, Move, Program, Stage, Step, check, run
from sdic_runtime.tools.wrapper import Wrapper
from sdic_runtime.unmoved import first_row, pays, split

CODE, MAP = ("N", "L", "C"), ("N", "C", 4)
METHOD = Method(
    method="small",
    sizes={"R": 4, "S": 4, "L": 4, "C": 2},
    tensors={"image": ("N", 3, "S", "S"), "picture": ("N", 3, "R", "R"), "code": CODE, "mask": ("N", 1, "S", "S")}
    | dict.fromkeys(("map", "blended", "half"), MAP),
    stages={
        "encode": Stage(("image",), ("code",)),
        "start": Stage(("code",), ("map",)),
        "blend": Stage(("map", "mask"), ("blended",)),
        "finish": Stage(("blended", "code"), ("picture",)),
    },
    programs={
        "invert": Program(
            ("image",),
            (
                Step("encode", {"image": "image"}, {"code": "code"}),
                Step("start", {"code": "code"}, {"map": "map"}),
                Step("finish", {"blended": "map", "code": "code"}, {"picture": "picture"}),
            ),
            {"code": "code", "picture": "picture"},
        ),
        "edit": Program(
            ("code", "mask"),
            (
                Step("start", {"code": "code"}, {"map": "map"}),
                Step("blend", {"map": "map", "mask": "mask"}, {"blended": "blended"}),
                Step("finish", {"blended": "blended", "code": "code"}, {"picture": "picture"}),
            ),
            {"map": "map", "picture": "picture"},
            ("mask",),
        ),
    },
    keeps=("code", "picture"),
    moves={"code": Move("edit", ("code",))},
    rows={"start": 1, "first": 2},
    cuts={
        "finish": Cut(
            {"first": Stage(("blended", "code"), ("half",)), "last": Stage(("half", "code"), ("picture",))},
            (
                Step("first", {"blended": "blended", "code": "code"}, {"half": "half"}),
                Step("last", {"half": "half", "code": "code"}, {"picture": "picture"}),
            ),
        )
    },
)
METHOD = msgspec.structs.replace(METHOD, tensors={**METHOD.tensors, "blended": MAP})


class Sums:
    """Every stage adds up what it reads, codes up to the row that the method says; and writes down its name."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        self.ran.append(stage)
        if stage == "finish":  # as its parts
            half = self.run("first", inputs, ["half"])
            return self.run("last", {**half, "code": inputs["code"]}, outputs)
        rows = METHOD.rows.get(stage, 4)
        total = sum(float(value[:, :rows].sum() if name == "code" else np.sum(value)) for name, value in inputs.items())
        return dict.fromkeys(outputs, total)


def steps(program: Program) -> list[str]:
    return [step.stage for step in program.steps]


@pytest.mark.parametrize(
    ("row", "moved", "cut", "still", "rest"),
    [
        (1, ("code",), (), ["start", "blend"], ["finish"]),
        (1, ("code", "mask"), (), ["start"], ["blend", "finish"]),
        (1, ("code",), ("finish",), ["start", "blend"], ["finish"]),
        (2, ("code",), ("finish",), ["start", "blend", "first"], ["last"]),
        (2, ("code",), (), ["start", "blend"], ["finish"]),
        (3, ("code", "mask"), ("finish",), ["start"], ["blend", "finish"]),
    ],
)
def test_both_parts_give_what_the_program_gives(
    row: int, moved: tuple[str, ...], cut: tuple[str, ...], still: list[str], rest: list[str]
) -> None:
    found = split(METHOD, "edit", moved, ("code",), row, cut)
    assert found is not None and steps(found.still) == still and steps(found.rest) == rest
    random = np.random.default_rng(row)
    kept = {"code": random.random((1, 4, 2)), "mask": np.zeros((1, 1, 4, 4))}
    changed = {"code": kept["code"].copy(), "mask": kept["mask"] + ("mask" in moved)}
    changed["code"][:, row:] += 1
    held = run(found.still, Sums(), kept)
    assert run(found.rest, Sums(), {**changed, **held}) == pytest.approx(run(METHOD.programs["edit"], Sums(), changed))
    assert set(found.rest.zeros) <= {"mask"} and set(found.still.takes) <= {"code", "mask"}


def test_a_stage_runs_in_parts_where_enough_of_them_stay_away() -> None:
    found = split(METHOD, "edit", ("code",), ("code",), 2, ("finish",))
    assert found is not None
    cut = METHOD.cuts["finish"]
    assert pays(cut, found.still, 0.25)  # one of two
    longer = msgspec.structs.replace(cut, stages={**cut.stages, **{f"more {index}": cut.stages["last"] for index in range(3)}})
    assert not pays(longer, found.still, 0.25) and pays(longer, found.still, 0.2)  # one of five


@pytest.mark.parametrize(("least", "expected"), [(0.0, ["generator_128"]), (0.5, ["generator_128"]), (1.1, ["generator_tail"])])
def test_a_pipeline_runs_parts_where_enough_of_them_stay_away(least: float, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail of the demo has two parts, and an edit of its last row runs the second one."""
    ran: list[str] = []
    with Pipeline.load(backend="onnxruntime:threads=1") as pipeline:
        monkeypatch.setattr(pipeline.backend, "least_away", least)
        inversion = pipeline.invert(DEMO_FOLDER / "pictures/portrait_1.png")
        last = Direction(np.ones((1, pipeline.sizes["C"]), np.float32), rows=(pipeline.sizes["L"] - 1, pipeline.sizes["L"]))
        for _ in range(2):  # from the second edit on it begins at its first row
            pipeline.edit(inversion, last, strength=1.0)
        run_stage = pipeline.backend.run

        def watched(stage: str, *given: Any) -> Any:
            ran.append(stage)
            return run_stage(stage, *given)

        monkeypatch.setattr(pipeline.backend, "run", watched)
        pipeline.edit(inversion, last, strength=1.0).pixels  # noqa: B018 - computed when it is looked at
    assert ran == expected


def test_nothing_is_still_where_every_step_reads_what_moves() -> None:
    assert split(METHOD, "edit", ("code", "mask"), ("code",), 0, ("finish",)) is None


def test_the_first_row_that_moves() -> None:
    before = np.zeros((2, 4, 3), np.float32)
    after = before.copy()
    assert first_row(before, after) == 4
    after[1, 2, 0] = 1
    assert first_row(before, after) == 2
    after[0, 0, 2] = -1
    assert first_row(before, after) == 0


def cut(**changes: Any) -> dict[str, Cut]:
    return {"finish": msgspec.structs.replace(METHOD.cuts["finish"], **changes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"warp": 1}}, 'rows has "warp", which is no stage'),
        ({"rows": {"start": 5}}, 'rows["start"] is 5, expected 0 to 4'),
        ({"rows": {"start": -1}}, 'rows["start"] is -1, expected 0 to 4'),
        ({"cuts": {"warp": METHOD.cuts["finish"]}, "rows": {}}, 'cuts has "warp", which is no stage'),
        (
            {"cuts": cut(stages={**METHOD.cuts["finish"].stages, "blend": METHOD.stages["blend"]})},
            'the cut of "finish" has the stage "blend", which is there already',
        ),
        (
            {"cuts": cut(steps=METHOD.cuts["finish"].steps[:1])},
            'the program "cut of finish" gives "picture" from "picture", which it does not make or has other axes',
        ),
        (
            {"cuts": cut(steps=METHOD.cuts["finish"].steps[1:])},
            'step 1 of the program "cut of finish" binds "half" to "half", which was not made before it or has other axes',
        ),
        (
            {"cuts": cut(steps=(Step("start", {"code": "code"}, {"map": "map"}),))},
            'step 1 of the program "cut of finish" runs "start", which is no stage',
        ),
        (
            {"cuts": cut(stages={**METHOD.cuts["finish"].stages, "more": Stage(("fog",), ("half",))})},
            'the stage "more" has the tensor "fog", which the table of tensors lacks',
        ),
    ],
)
def test_tables_that_do_not_fit_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    check(METHOD)
    with pytest.raises(BundleError) as caught:
        check(msgspec.structs.replace(METHOD, **changes))
    assert str(caught.value) == message


def test_what_an_inversion_holds_is_of_the_pipeline_that_edits() -> None:
    """Another backend rounds in another way: its edits must not begin with what this one made."""

    class Rough(Wrapper):
        def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            return {name: tensor + np.float32(0.01) for name, tensor in super().run(stage, inputs, outputs).items()}

    bundle = Bundle.open()
    with Pipeline.load(backend="onnxruntime:threads=1") as exact, Pipeline.load(backend="onnxruntime:threads=1") as inner:
        rough = Pipeline(bundle, Rough(inner.backend))
        inversion = exact.invert(DEMO_FOLDER / "pictures/portrait_1.png")
        last = Direction(np.ones((1, exact.sizes["C"]), np.float32), rows=(exact.sizes["L"] - 1, exact.sizes["L"]))
        fresh = pickle.loads(pickle.dumps(inversion))
        alone = [rough.edit(fresh, last, 1.0).pixels for _ in range(3)]
        for _ in range(3):
            exact.edit(inversion, last, 1.0).pixels  # noqa: B018 - computed when it is looked at
        for expected in alone:
            np.testing.assert_array_equal(rough.edit(inversion, last, 1.0).pixels, expected)
