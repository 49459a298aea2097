"""What edits alone need: the program "prepare", run once per inversion, and extras that the caller gives in place of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime import ArgumentError, BundleError, Inversion, Pipeline
from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.manifest import FileEntry, Input, Manifest
from sdic_runtime.program import Method, Move, Program, Stage, Step, check

SIDE, ROWS, WIDTH = 8, 2, 3
CODE = ("N", "L", "C")
MANIFEST = Manifest(
    method="prepared",
    sizes={"R": SIDE, "S": SIDE, "L": ROWS, "C": WIDTH},
    tensors={"image": ("N", 3, "S", "S"), "picture": ("N", 3, "R", "R"), "code": CODE, "second": CODE, "mask": ("N", 1, "S", "S")},
    stages={
        "read": Stage(("image",), ("code",)),
        "look": Stage(("image",), ("second",)),
        "paint": Stage(("code",), ("picture",)),
        "blend": Stage(("code", "second", "mask"), ("picture",)),
    },
    programs={
        "invert": Program(
            ("image",),
            (Step("read", {"image": "image"}, {"code": "code"}), Step("paint", {"code": "code"}, {"picture": "picture"})),
            {"code": "code", "picture": "picture"},
        ),
        "prepare": Program(("image",), (Step("look", {"image": "image"}, {"second": "second"}),), {"second": "second"}),
        "edit": Program(
            ("second", "mask", "code"),
            (Step("blend", {"code": "code", "second": "second", "mask": "mask"}, {"picture": "picture"}),),
            {"picture": "picture"},
            ("mask",),
        ),
    },
    keeps=("image", "code", "picture"),
    moves={"both": Move("edit", ("second", "code")), "one": Move("edit", ("code",))},
    name="prepared",
    domain="numbers",
    input=Input((0, SIDE)),
    graphs={stage: {"fp32": (f"{stage}.onnx",)} for stage in ("read", "look", "paint", "blend")},
    default_precision="fp32",
    files={f"{stage}.onnx": FileEntry("0" * 64, 1) for stage in ("read", "look", "paint", "blend")},
)


class Numbers(Backend):
    """The stages in NumPy. `looked`: pictures that each run of "look" was given, which it sees `ten` times as large."""

    description = "numbers"

    def __init__(self, method: Method, ten: float = 10) -> None:
        super().__init__(method)
        self.looked: list[int] = []
        self.ten, self.closed = ten, False

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, np.float32)

    def download(self, tensor: np.ndarray) -> np.ndarray:
        assert not self.closed
        return tensor

    def close(self) -> None:
        self.closed = True

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        if stage in ("read", "look"):
            means = inputs["image"].mean((1, 2, 3))[:, None, None] * np.ones((1, ROWS, WIDTH), np.float32)
            if stage == "look":
                self.looked.append(len(means))
            return {outputs[0]: means * (1 if stage == "read" else self.ten)}
        picture = np.ones((1, 3, SIDE, SIDE), np.float32) * inputs["code"].sum((1, 2))[:, None, None, None]
        if stage == "blend":
            picture = picture + (1 - inputs["mask"]) * inputs["second"].sum((1, 2))[:, None, None, None]
        return {"picture": picture}


@pytest.fixture
def pipeline() -> Pipeline:
    bundle: Any = SimpleNamespace(manifest=MANIFEST, path=Path("prepared"))
    return Pipeline(bundle, Numbers(MANIFEST))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 3, SIDE, SIDE)).astype(np.float32)


def looked(pipeline: Pipeline) -> list[int]:
    backend: Any = pipeline.backend
    return backend.looked  # type: ignore[no-any-return]


def test_what_edits_need_is_made_once_and_only_for_an_edit(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image, batch=2)
    assert looked(pipeline) == [] and "second" not in inversion.tensors
    edited = pipeline.edit(inversion, np.ones((ROWS, WIDTH), np.float32), [0.0, 2.0], batch=2)
    assert looked(pipeline) == [2, 1]
    sums = image.mean((1, 2, 3)) * ROWS * WIDTH
    expected = np.stack([11 * sums, 11 * sums + 2 * 2 * ROWS * WIDTH], 1).reshape(-1)
    np.testing.assert_allclose(edited.pixels[:, 0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(edited.latent[1], inversion.code[0] + 2)
    pipeline.edit(inversion, np.ones((ROWS, WIDTH), np.float32))
    pipeline.edit(inversion[1], np.ones((ROWS, WIDTH), np.float32))
    assert looked(pipeline) == [2, 1]


def test_every_pipeline_makes_what_its_own_edits_need(pipeline: Pipeline, image: np.ndarray) -> None:
    """Another one rounds in another way, or was closed."""
    bundle: Any = pipeline.bundle
    other, direction = Pipeline(bundle, Numbers(MANIFEST, 10.5)), np.ones(WIDTH, np.float32)
    inversion = pipeline.invert(image)
    for name in MANIFEST.keeps:  # brought to the host
        inversion.tensors[name].host()
    expected = other.edit(pipeline.invert(image), direction).pixels
    first = pipeline.edit(inversion, direction).pixels
    pipeline.close()
    np.testing.assert_array_equal(other.edit(inversion, direction).pixels, expected)
    assert not np.array_equal(first, expected)


def test_pipelines_in_threads_do_not_exchange_what_they_made(
    pipeline: Pipeline, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins its edit between another's preparation and its drawing."""
    bundle: Any = pipeline.bundle
    other, direction = Pipeline(bundle, Numbers(MANIFEST, 10.5)), np.ones(WIDTH, np.float32)
    inversion = pipeline.invert(image)
    for name in MANIFEST.keeps:
        inversion.tensors[name].host()
    expected = {maker: maker.edit(maker.invert(image), direction, move="one").pixels for maker in (pipeline, other)}
    plain, others = pipeline._begin, []

    def begin(*given: Any) -> Any:
        others.append(Thread(target=lambda: other.edit(inversion, direction, move="one")))
        others[-1].start()
        others[-1].join()
        return plain(*given)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "_begin", begin)
        np.testing.assert_array_equal(pipeline.edit(inversion, direction, move="one").pixels, expected[pipeline])
    assert len(others) == 1 and set(inversion.tensors) == set(MANIFEST.keeps)

    makers = [pipeline, other] * 20
    with ThreadPoolExecutor(4) as threads:
        edits = threads.map(lambda maker: maker.edit(inversion, direction, move="one").pixels, makers)
        for maker, pixels in zip(makers, edits, strict=True):
            np.testing.assert_array_equal(pixels, expected[maker])


def test_saved_and_joined_inversions_hold_what_is_kept_alone(pipeline: Pipeline, image: np.ndarray, tmp_path: Path) -> None:
    first, second = pipeline.invert(image[:1]), pipeline.invert(image[1:])
    edited = pipeline.edit(first, np.ones(WIDTH, np.float32), 2.0).pixels
    first.save(tmp_path / "a.safetensors")
    loaded = Inversion.load(tmp_path / "a.safetensors")
    assert set(loaded.tensors) == set(MANIFEST.keeps)
    np.testing.assert_array_equal(pipeline.edit(loaded, np.ones(WIDTH, np.float32), 2.0).pixels, edited)
    joined = Inversion.join([first, second])
    assert set(joined.tensors) == set(MANIFEST.keeps)
    np.testing.assert_allclose(pipeline.edit(joined, np.ones(WIDTH, np.float32), 2.0).pixels[:1], edited, rtol=1e-6)


def test_a_picture_becomes_the_mask_of_an_edit(pipeline: Pipeline) -> None:
    gray = np.zeros((40, 30, 3), np.uint8)
    gray[:, :15] = 255
    (mask,) = (masks := pipeline.masks(gray)).values()
    assert list(masks) == ["mask"] and mask.shape == (1, 1, SIDE, SIDE) and mask.dtype == np.float32
    np.testing.assert_array_equal(mask[0, 0, :, : SIDE // 2 - 1], 1)
    np.testing.assert_array_equal(mask[0, 0, :, SIDE // 2 + 1 :], 0)
    np.testing.assert_allclose(pipeline.masks(np.full((9, 9), 51, np.uint8))["mask"], 0.2, atol=1e-6)
    with Pipeline.load(backend="onnxruntime", threads=1) as demo, pytest.raises(ArgumentError, match=r"\(sdic\) take no mask; omit it"):
        demo.masks(gray)


def test_extras_take_the_place_of_zeros(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion, direction = pipeline.invert(image), np.ones(WIDTH, np.float32)
    mask = np.zeros((1, 1, SIDE, SIDE), np.float32)
    mask[..., : SIDE // 2] = 1
    plain = pipeline.edit(inversion, direction, [1.0, 3.0]).pixels
    masked = pipeline.edit(inversion, direction, [1.0, 3.0], extras={"mask": mask}).pixels
    alone = np.repeat(inversion.pixels, 2, 0) + np.array([1, 3] * 3, np.float32)[:, None, None, None] * ROWS * WIDTH
    np.testing.assert_array_equal(masked[..., SIDE // 2 :], plain[..., SIDE // 2 :])
    np.testing.assert_allclose(masked[..., : SIDE // 2], alone[..., : SIDE // 2], rtol=1e-5, atol=1e-5)
    own = np.stack([np.full((1, SIDE, SIDE), value, np.float32) for value in (0, 1, 0)])
    chosen = pipeline.edit(inversion, direction, [1.0, 3.0], extras={"mask": own}, batch=4).pixels
    np.testing.assert_array_equal(chosen[[0, 1, 4, 5]], plain[[0, 1, 4, 5]])
    np.testing.assert_allclose(chosen[2:4], alone[2:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"veil": np.zeros((1, 1, SIDE, SIDE))}, '^this edit takes no extra "veil"; it takes: mask$'),
        ({"mask": np.zeros((1, 1, 4, 4))}, r'^the extra "mask" has shape \[1, 1, 4, 4\]; expected finite numbers of shape \[3, 1, 8, 8\]$'),
        ({"mask": np.full((1, 1, SIDE, SIDE), np.nan)}, "expected finite numbers"),
    ],
)
def test_extras_that_do_not_fit_are_one_sentence(extras: dict[str, Any], message: str, pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image)
    with pytest.raises(ArgumentError, match=message):
        pipeline.edit(inversion, np.ones(WIDTH, np.float32), extras=extras)


def test_the_tables_of_a_prepared_method_are_checked() -> None:
    check(MANIFEST)

    def changed(**programs: Program | None) -> Method:
        kept = {name: program for name, program in {**MANIFEST.programs, **programs}.items() if program is not None}
        return msgspec.structs.replace(MANIFEST, programs=kept)

    with pytest.raises(BundleError, match='the program "edit" takes second, which an inversion does not keep'):
        check(changed(prepare=None))
    steps = (Step("read", {"image": "image"}, {"code": "code"}),)
    with pytest.raises(BundleError, match='the program "prepare" gives code, which an inversion keeps already'):
        check(changed(prepare=Program(("image",), steps, {"code": "code"})))
    with pytest.raises(BundleError, match='the program "prepare" takes mask, which an inversion does not keep'):
        check(changed(prepare=msgspec.structs.replace(MANIFEST.programs["prepare"], takes=("image", "mask"))))
