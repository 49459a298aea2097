"""Convolutions whose weights are read where they lie, against plain ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sdic_export.cpu import mapped
from sdic_export.cpu.convolutions import optimized
from sdic_export.cpu.mapped import MappedConv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (1, 1, 0), ((1, 2), (1, 2), (0, 1)), ((3, 1), (2, 1), (1, 0))]
)
def test_the_same_as_the_convolution(kernel: int, stride: int, padding: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 5, kernel, stride, padding, bias=bias), torch.randn(2, 6, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(MappedConv(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_only_large_weights_of_few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "HEAVY", 8 * 8 * 9)
    monkeypatch.setattr(mapped, "MOST_PIXELS", 64)
    layers = [nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=2)]
    network, x = nn.Sequential(*layers), torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        want = network(x)
        got = optimized(network, x)
        torch.testing.assert_close(got(x), want, rtol=1e-5, atol=1e-6)
    assert [isinstance(layer, MappedConv) for layer in got] == [False, False, True, False]  # light, many pixels, both, groups


def test_onnxruntime_leaves_the_weights_of_a_3d_convolution_as_they_are(tmp_path: Path) -> None:
    """What the form is for: no copy of them in another layout."""
    import onnxruntime

    weight = np.random.default_rng(0).standard_normal((32, 32, 1, 3, 3)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "weight"], ["y"], strides=[1, 2, 2], pads=[0, 1, 1, 0, 1, 1])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 1, side, side]) for name, side in (("x", 8), ("y", 4)))
    graph = onnx.helper.make_graph([node], "graph", [x], [y], [onnx.numpy_helper.from_array(weight, "weight")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (kept,) = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    assert kept.name == "weight"
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), weight)
