"""What the seeds share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.targets import _list_again, sound_bundle
from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.errors import SdicError

HUGE = "1" + "0" * 400
SECONDS = 5.0


def make_copy(folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(sound_bundle(), folder / "bundle"))


def refused(kind: type[SdicError], sentence: str, work: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        work(*arguments)
    said = str(caught.value)
    assert len(said) <= 400 and said.isprintable()


def reading(bundle: Path, location: str, content: bytes | None = None, listed: bool = False) -> Path:
    """Have a graph of the bundle read its weights from `location`, and list that file or not."""
    import onnx

    name = "onnx/fp32/generator_tail.onnx"
    model = onnx.load(bundle / name)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    raw = onnx.numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        tensor.external_data.add(key=key, value=value)
    (bundle / name).write_bytes(model.SerializeToString())
    data = json.loads((bundle / MANIFEST_NAME).read_text())
    place = bundle / "onnx/fp32" / location
    if not place.exists():
        place.write_bytes(raw if content is None else content)
    weights = [os.path.normpath(f"onnx/fp32/{location}")] if listed else []
    data["weights"] |= {name: weights} if listed else {}
    _list_again(bundle, data, name, *weights)
    return place


def put_dipn(bundle: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> Path:
    from tiny_bundle import write_stage

    name = "onnx/fp32/dipn.onnx"
    write_stage(bundle / name, "dipn", nodes, constants)
    _list_again(bundle, json.loads((bundle / MANIFEST_NAME).read_text()), name)
    return bundle


def endless(bundle: Path) -> Path:
    from onnx import TensorProto, helper

    values = [("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, None)]
    made = [("co", TensorProto.BOOL, []), ("xo", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["x", "x"], ["xo"])]
    body = helper.make_graph(nodes, "body", *([helper.make_tensor_value_info(*value) for value in some] for some in (values, made)))
    loop = helper.make_node("Loop", ["", "yes", "d"], ["discrepancy"], body=body)
    return put_dipn(bundle, [helper.make_node("Sub", ["image", "reconstruction"], ["d"]), loop], {"yes": np.array(True)})
