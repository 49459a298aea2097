"""Pictures beside the features are upsampled by a Resize that gives the same, also at the border."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of, kinds
from onnx import helper

from sdic_export.half.cuda.form import CUDA_FORM, cuda_form
from sdic_export.half.cuda.skips import TAPS
from sdic_export.half.precision import to_half


def picture(groups: int = 3, taps: np.ndarray = TAPS, **changes: Any) -> onnx.ModelProto:
    options = {"group": groups, "kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]} | changes
    kernel = np.tile(np.outer(taps, taps).astype(np.float32), (groups, 1, 1, 1))
    nodes = [helper.make_node("ConvTranspose", ["x", "skip.kernel"], ["y"], "node", **options)]
    return graph_of(nodes, {"skip.kernel": kernel}, ("N", groups, 5, 7))


@pytest.mark.parametrize("groups", [1, 3])
def test_an_upsampled_picture_is_resized(groups: int) -> None:
    model = picture(groups)
    made = cuda_form(model)
    assert made is not None and kinds(made) == ["Pad", "Resize", "Slice"]
    assert_same_numbers(model, made, batch=2)


def test_a_picture_stays_float32_as_a_policy_says() -> None:
    model = cuda_form(picture())
    assert model is not None and kinds(to_half(model, "generator_tail", "fp16", CUDA_FORM)) == ["Pad", "Resize", "Slice"]


@pytest.mark.parametrize(
    "changes",
    [{"taps": np.array([1, 2, 2, 1]) / 3}, {"pads": [0, 0, 0, 0]}, {"strides": [1, 1]}, {"strides": [2, 2], "output_padding": [1, 1]}],
)
def test_another_map_stays_a_convolution(changes: dict[str, Any]) -> None:
    made = cuda_form(picture(**changes))
    assert made is not None and kinds(made) == ["ConvTranspose"]


def test_features_are_not_resized() -> None:
    assert cuda_form(picture(groups=4)) is None  # a convolution of that many groups keeps channels first
