"""Offsets in style space, alone and in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime import Bundle, Pipeline
from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.manifest import FileEntry, Input, Manifest, manifest_text, parse_manifest
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError, BundleError
from sdic_runtime.program import Move, Program, Stage, Step
from sdic_runtime.styles import STYLE_PRESETS, StyleDirection

LAYERS = (3, 2, 4)
SIZES = {"R": 8, "S": 8, "L": 2, "C": 3, "M": 9}


def manifest(**changes: Any) -> Manifest:
    """A method whose generator reads the mean of code and styles."""
    stages = {
        "no_styles": Stage(("image",), ("styles",)),
        "encoder": Stage(("image",), ("latent",)),
        "generator": Stage(("latent", "styles"), ("picture",)),
    }
    render = Step("generator", {"latent": "latent", "styles": "styles"}, {"picture": "picture"})
    invert = (
        Step("no_styles", {"image": "image"}, {"styles": "styles"}),
        Step("encoder", {"image": "image"}, {"latent": "latent"}),
        render,
    )
    gives = {name: name for name in ("styles", "latent", "picture")}
    fields: dict[str, Any] = {
        "method": "styled",
        "sizes": SIZES,
        "tensors": {"image": ("N", 3, "S", "S"), "latent": ("N", "L", "C"), "styles": ("N", "M"), "picture": ("N", 3, "R", "R")},
        "stages": stages,
        "programs": {
            "invert": Program(("image",), invert, gives),
            "edit": Program(("latent", "styles"), (render,), {"picture": "picture"}),
        },
        "keeps": ("latent", "styles", "picture"),
        "moves": {"latent": Move("edit", ("latent",))},
        "name": "styled",
        "domain": "faces",
        "input": Input((0, 8)),
        "style_layers": LAYERS,
        "graphs": {stage: {"fp32": (f"{stage}.onnx",)} for stage in stages},
        "default_precision": "fp32",
        "files": {f"{stage}.onnx": FileEntry("0" * 64, 0) for stage in stages},
    }
    return Manifest(**{**fields, **changes})


class Numpy(Backend):
    """The stages in numpy."""

    description = "numpy"

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        count = len(next(iter(inputs.values())))
        if stage == "no_styles":
            return {"styles": np.zeros((count, SIZES["M"]), np.float32)}
        if stage == "encoder":
            return {"latent": inputs["image"].mean((2, 3))[:, None].repeat(2, 1)}
        value = inputs["latent"].sum((1, 2)) + inputs["styles"] @ np.arange(SIZES["M"], dtype=np.float32)
        return {"picture": np.broadcast_to(value[:, None, None, None], (count, 3, 8, 8)).astype(np.float32)}


@pytest.fixture
def pipeline() -> Pipeline:
    made = parse_manifest(manifest_text(manifest()).encode())
    return Pipeline(Bundle(Path("nowhere"), made), Numpy(made))


def test_style_edits_move_the_styles_alone_and_mix_with_others(pipeline: Pipeline) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    inversion = pipeline.invert(image)
    before = inversion.pixels[:, 0, 0, 0]
    style = StyleDirection.of_channels(LAYERS, [(1, 1, 1.0), (2, 0, 2.0)])  # the styles 4 and 5: 1 * 4 + 2 * 5
    edited = pipeline.edit(inversion, style, [0.0, 1.0, -2.0])
    np.testing.assert_allclose(edited.pixels[:, 0, 0, 0].reshape(2, 3), before[:, None] + [0, 14, -28], rtol=1e-6)
    np.testing.assert_array_equal(edited.latent, inversion.latent.repeat(3, 0))
    assert not inversion.styles.any()
    direction = Direction(np.ones(3))  # adds 1 to 6 numbers of the code
    mixed = pipeline.edit(inversion, [(direction, 0.5), (style, 2.0), (style, 1.0)])
    np.testing.assert_allclose(mixed.pixels[:, 0, 0, 0], before + 3 + 3 * 14, rtol=1e-6)
    np.testing.assert_array_equal(pipeline.edit(inversion, direction, 0).pixels, inversion.pixels)


def test_channels_and_presets_are_edits_by_name(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STYLE_PRESETS, "faces", {"glow": (((1, 1), (2, 0)), -3.0, (-4, 5))})
    bundle = pipeline.bundle
    inversion = pipeline.invert(np.zeros((1, 3, 8, 8), np.float32))
    for text, expected in (("2/0:2", 10), ("glow", -27), ("glow:-1,1/0:1", 30)):
        picture = pipeline.edit(inversion, EditOrder.parse(text).edit(bundle)).pixels
        np.testing.assert_allclose(picture, expected, err_msg=text)
    assert EditOrder.parse("glow:2").strength_range(bundle) == (-2, 2.5)
    prints = {EditOrder.parse(text).fingerprint(bundle) for text in ("2/0:2", "2/0", "2/1", "glow")}
    assert len(prints) == 4
    for text, sentence in {
        "3/0": "there is no layer 3 in style space; this model has the layers 0 to 2",
        "2/4": "the layer 2 has no channel 4; it has the channels 0 to 3",
        "2/x": '"2/x" is no channel in style space LAYER/CHANNEL, such as 9/6',
        "glo": 'there is no direction "glo"; .* has: none, and the presets glow; did you mean "glow"',
    }.items():
        with pytest.raises(ArgumentError, match=sentence):
            EditOrder.parse(text).edit(bundle)


def test_the_published_presets_are_channels_of_convolutions_of_their_models() -> None:
    widths = {"faces": [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2, "cars": [512] * 15 + [256] * 3 + [128] * 3 + [64] * 2}
    for domain, table in STYLE_PRESETS.items():
        for name, (channels, amount, useful) in table.items():
            assert all(layer % 3 != 1 for layer, _ in channels), name
            direction = StyleDirection.preset(widths[domain], domain, name)
            assert np.count_nonzero(direction.vector) == len(channels) and abs(amount) == 3
            assert useful is None or (direction.strength_range == useful and useful[0] < useful[1])


def test_style_directions_that_do_not_fit_are_refused(pipeline: Pipeline, tiny_bundle: Path) -> None:
    inversion = pipeline.invert(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ArgumentError, match="has 8 styles, and this model has 9"):
        pipeline.edit(inversion, StyleDirection(np.zeros(8)))
    with pytest.raises(ArgumentError, match="expected \\[M\\], a number for every style"):
        StyleDirection(np.zeros((3, 3)))
    with Pipeline.load(tiny_bundle, backend="onnxruntime", threads=1) as plain:
        image = np.zeros((1, 3, 64, 64), np.float32)
        with pytest.raises(ArgumentError, match="this bundle does not have; build it again with: sdic-export build --style-space"):
            plain.edit(plain.invert(image), StyleDirection(np.zeros(9)))
    with pytest.raises(ArgumentError, match="this bundle has no style space; build it again with"):
        EditOrder.parse("1/1").edit(Bundle.open(tiny_bundle))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"style_layers": (3, 2)}, "style_layers has 5 styles, and the sizes say 9"),
        ({"style_layers": (9, 0)}, "style_layers has 9 styles"),
        ({"keeps": ("latent", "picture")}, 'the tensor "styles" must have the axes .* and an inversion must keep it'),
    ],
)
def test_a_manifest_whose_styles_do_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        parse_manifest(manifest_text(manifest(**changes)).encode())


def test_a_preset_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(ArgumentError, match='there is no preset "nope" for models of "faces"; there are: '):
        StyleDirection.preset([4], "faces", "nope")
    with pytest.raises(ArgumentError, match='there is no preset "nope" for models of "cats"; there are: none'):
        StyleDirection.preset([4], "cats", "nope")
