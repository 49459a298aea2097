"""Makes the face models of `sdic_runtime/faces/models` from the wheel of mediapipe 0.10.21, the last that carries them:

    pip download --no-deps --python-version 3.11 --only-binary :all: --platform manylinux_2_28_x86_64 mediapipe==0.10.21
    python -m sdic_export.face_models mediapipe-0.10.21-*.whl sdic_runtime/faces/models

A .tflite file is a flatbuffer; its operators become ONNX operators one by one, its axes NCHW with any batch, its float16 weights stay so.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sdic_runtime.errors import FileError
from sdic_runtime.files import replacing

RECORD = "models.json"
OPSET, IR_VERSION = 17, 8
TYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # TensorType of the .tflite schema
ACTIVATIONS = {0: None, 1: "Relu"}
SAME = 0  # Padding of the .tflite schema; the other is VALID
CUSTOM = 32


@dataclass(frozen=True)
class Source:
    """A model inside the wheel, by the hash of its file, and what its inputs and outputs are called here."""

    file: str
    sha256: str
    outputs: tuple[str, ...]


SOURCES = {
    "short_range": Source(
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        ("boxes", "scores"),
    ),
    "full_range": Source(
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        ("boxes", "scores"),
    ),
    "mesh": Source(
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        ("points", "score"),
    ),
    "person": Source(
        "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        ("mask",),
    ),
}


class Table:
    """A table of a flatbuffer: its fields by their number in the schema, absent ones as the default."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - self._read("i", at)
        self.size = self._read("H", self.fields)

    @staticmethod
    def root(data: bytes) -> Table:
        return Table(data, struct.unpack_from("<I", data)[0])

    def _read(self, kind: str, at: int) -> Any:
        return struct.unpack_from("<" + kind, self.data, at)[0]

    def _place(self, number: int) -> int | None:
        slot = 4 + 2 * number
        offset = self._read("H", self.fields + slot) if slot < self.size else 0
        return self.at + offset if offset else None

    def _vector(self, number: int) -> tuple[int, int]:
        """Where a vector's items start, and how many there are."""
        place = self._place(number)
        if place is None:
            return 0, 0
        start = place + self._read("I", place)
        return start + 4, self._read("I", start)

    def number(self, number: int, kind: str = "i", default: int = 0) -> int:
        place = self._place(number)
        return default if place is None else self._read(kind, place)

    def table(self, number: int) -> Table:
        place = self._place(number)
        assert place is not None, f"the flatbuffer lacks field {number}"
        return Table(self.data, place + self._read("I", place))

    def has(self, number: int) -> bool:
        return self._place(number) is not None

    def tables(self, number: int) -> list[Table]:
        start, count = self._vector(number)
        places = (start + 4 * index for index in range(count))
        return [Table(self.data, place + self._read("I", place)) for place in places]

    def array(self, number: int, kind: Any = np.int32) -> np.ndarray:
        """A vector of numbers; of bytes, read as numbers of `kind`."""
        start, count = self._vector(number)
        return np.frombuffer(self.data, kind, count, start)

    def text(self, number: int) -> str:
        return self.array(number, np.uint8).tobytes().decode()


def convert(data: bytes, name: str, outputs: tuple[str, ...]) -> onnx.ModelProto:
    """The ONNX model of a .tflite file's bytes: input "image" float32 [N, 3, H, W]; `outputs` name its outputs in their order."""
    return _Converter(Table.root(data), name, outputs).model()


@dataclass
class _Operator:
    """One operator of the file: tensor numbers of its inputs and outputs, and its options."""

    inputs: list[int]
    outputs: list[int]
    table: Table
    options: Table | None

    def option(self, number: int, kind: str = "i", default: int = 0) -> int:
        return default if self.options is None else self.options.number(number, kind, default)


@dataclass
class _Converter:
    root: Table
    name: str
    output_names: tuple[str, ...]
    constants: dict[int, np.ndarray] = field(default_factory=dict)  # tensor number -> value, axes as in the .tflite file
    names: dict[int, str] = field(default_factory=dict)  # tensor number -> name in the ONNX graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def model(self) -> onnx.ModelProto:
        graph = self.root.tables(2)[0]
        self.tensors, buffers = graph.tables(0), self.root.tables(4)
        for number, tensor in enumerate(self.tensors):
            values = buffers[tensor.number(2, "I")].array(0, np.uint8)
            if len(values):
                kind = TYPES[tensor.number(1, "b")]
                flat = np.frombuffer(values.tobytes(), kind)
                self.constants[number] = _dense(tensor, flat) if tensor.has(6) else flat.reshape(self.shape(number))
        (start,) = graph.array(1)
        self.names[start] = "image"
        inputs = [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", *_channels_first(self.shape(start))[1:]])]
        codes = [(max(code.number(0, "b"), code.number(3)), code.text(1)) for code in self.root.tables(1)]
        for table in graph.tables(3):
            code, custom = codes[table.number(0, "I")]
            convert_one = _CONVERTERS.get(custom if code == CUSTOM else code)
            if convert_one is None:
                raise FileError(f"{self.name} has the operator {custom or code}, which this script does not convert")
            options = table.table(4) if table.has(4) else None
            convert_one(self, _Operator(table.array(1).tolist(), table.array(2).tolist(), table, options))
        results = []
        for number, name in zip(graph.array(2), self.output_names, strict=True):
            shape = self.shape(number)
            self.nodes.append(helper.make_node("Identity", [self.names[number]], [name]))
            results.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *_channels_first(shape)[1:]]))
        body = helper.make_graph(self.nodes, self.name, inputs, results, self.initializers)
        model = helper.make_model(
            body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="sdic_export.face_models"
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def shape(self, number: int) -> list[int]:
        return self.tensors[number].array(0).tolist()

    def add(self, kind: str, inputs: list[str], operator: _Operator, activation: int = 0, **attributes: Any) -> None:
        """A node for the operator's first output, and one for the activation that is fused into it."""
        (output,) = operator.outputs
        name = f"t{output}"
        function = ACTIVATIONS[activation]
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_raw" if function else name], **attributes))
        if function:
            self.nodes.append(helper.make_node(function, [f"{name}_raw"], [name]))
        self.names[output] = name

    def weight(self, name: str, value: np.ndarray) -> str:
        """An initializer, cast to float32 behind a float16 one."""
        self.initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(value), f"{name}_half" if value.dtype == np.float16 else name)
        )
        if value.dtype == np.float16:
            self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
        return name

    def constant(self, operator: _Operator, axes: tuple[int, ...] | None = None, which: int = 1) -> str:
        """The operator's input `which`, which is constant, its axes in the order `axes`."""
        value = self.constants[operator.inputs[which]]
        return self.weight(f"t{operator.outputs[0]}_{which}", value if axes is None else value.transpose(axes))

    def activations(self, operator: _Operator) -> list[str]:
        return [self.names[number] for number in operator.inputs]

    def dequantize(self, operator: _Operator) -> None:
        self.constants[operator.outputs[0]] = self.constants[operator.inputs[0]]

    def convolution(self, operator: _Operator) -> None:
        self._convolve(operator, (0, 3, 1, 2), 1, activation=3, dilations=(5, 4))

    def depthwise(self, operator: _Operator) -> None:
        self._convolve(operator, (3, 0, 1, 2), self.shape(operator.inputs[0])[3], activation=4, dilations=(6, 5))

    def _convolve(self, operator: _Operator, axes: tuple[int, ...], group: int, activation: int, dilations: tuple[int, int]) -> None:
        strides, spread = [operator.option(2), operator.option(1)], [operator.option(number, default=1) for number in dilations]
        kernel = self.shape(operator.inputs[1])[1:3]
        extent = [(size - 1) * step + 1 for size, step in zip(kernel, spread, strict=True)]
        self.add(
            "Conv",
            [self.names[operator.inputs[0]], self.constant(operator, axes), self.constant(operator, which=2)],
            operator,
            operator.option(activation, "b"),
            group=group,
            kernel_shape=kernel,
            strides=strides,
            dilations=spread,
            pads=self._pads(operator, extent, strides),
        )

    def _pads(self, operator: _Operator, kernel: list[int], strides: list[int]) -> list[int]:
        """TensorFlow's padding: what SAME lacks goes to both sides, the odd pixel to the end."""
        totals = [0, 0]
        if operator.option(0, "b") == SAME:
            sizes = self.shape(operator.inputs[0])[1:3]
            totals = [max((-(-size // step) - 1) * step + k - size, 0) for size, k, step in zip(sizes, kernel, strides, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]

    def transposed_convolution(self, operator: _Operator) -> None:
        _padding, *strides = np.frombuffer(operator.table.array(5, np.uint8).tobytes(), np.int32, 3).tolist()
        kernel = self.shape(operator.inputs[1])[1:3]
        if strides != kernel:
            raise FileError(f"{self.name} has a transposed convolution {kernel} with stride {strides}, which this script does not convert")
        weights = [self.constant(operator, (3, 0, 1, 2)), self.constant(operator, which=2)]
        self.add("ConvTranspose", [self.names[operator.inputs[0]], *weights], operator, kernel_shape=kernel, strides=strides)

    def pool(self, operator: _Operator, kind: str) -> None:
        kernel, strides = [operator.option(4), operator.option(3)], [operator.option(2), operator.option(1)]
        pads = self._pads(operator, kernel, strides)
        self.add(kind, self.activations(operator), operator, operator.option(5, "b"), kernel_shape=kernel, strides=strides, pads=pads)

    def arithmetic(self, operator: _Operator, kind: str) -> None:
        self.add(kind, self.activations(operator), operator, operator.option(0, "b"))

    def function(self, operator: _Operator, kind: str) -> None:
        self.add(kind, self.activations(operator), operator)

    def prelu(self, operator: _Operator) -> None:
        self.add("PRelu", [self.names[operator.inputs[0]], self.constant(operator, (2, 0, 1))], operator)

    def pad(self, operator: _Operator) -> None:
        amounts = self.constants[operator.inputs[1]][[0, 3, 1, 2]].T.reshape(-1).astype(np.int64)
        self.add("Pad", [self.names[operator.inputs[0]], self.weight(f"t{operator.outputs[0]}_pads", amounts)], operator)

    def resize(self, operator: _Operator) -> None:
        mode = "align_corners" if operator.option(2, "b") else "half_pixel" if operator.option(3, "b") else "asymmetric"
        larger = self.constants[operator.inputs[1]] / np.array(self.shape(operator.inputs[0])[1:3])
        scales = self.weight(f"t{operator.outputs[0]}_scales", np.array([1, 1, *larger], np.float32))
        self.add("Resize", [self.names[operator.inputs[0]], "", scales], operator, mode="linear", coordinate_transformation_mode=mode)

    def depth_to_space(self, operator: _Operator) -> None:
        self.add("DepthToSpace", self.activations(operator), operator, blocksize=operator.option(0), mode="DCR")

    def reshape(self, operator: _Operator) -> None:
        source, name = self.names[operator.inputs[0]], f"t{operator.outputs[0]}"
        self.nodes.append(helper.make_node("Transpose", [source], [f"{name}_last"], perm=[0, 2, 3, 1]))
        shape = np.array([0, *self.shape(operator.outputs[0])[1:]], np.int64)
        self.add("Reshape", [f"{name}_last", self.weight(f"{name}_shape", shape)], operator)

    def concatenation(self, operator: _Operator) -> None:
        self.add("Concat", self.activations(operator), operator, axis=operator.option(0))


# By the number that the .tflite schema gives an operator, or by its own name.
_CONVERTERS: dict[int | str, Callable[[_Converter, _Operator], None]] = {
    0: partial(_Converter.arithmetic, kind="Add"),
    1: partial(_Converter.pool, kind="AveragePool"),
    2: _Converter.concatenation,
    3: _Converter.convolution,
    4: _Converter.depthwise,
    5: _Converter.depth_to_space,
    6: _Converter.dequantize,
    14: partial(_Converter.function, kind="Sigmoid"),
    17: partial(_Converter.pool, kind="MaxPool"),
    18: partial(_Converter.arithmetic, kind="Mul"),
    19: partial(_Converter.function, kind="Relu"),
    22: _Converter.reshape,
    23: _Converter.resize,
    34: _Converter.pad,
    54: _Converter.prelu,
    117: partial(_Converter.function, kind="HardSwish"),
    124: _Converter.dequantize,  # DENSIFY: `_dense` has done it
    "Convolution2DTransposeBias": _Converter.transposed_convolution,
}


def _channels_first(shape: list[int]) -> list[int]:
    """NHWC as NCHW; shapes of fewer axes as they are."""
    return [shape[0], shape[3], shape[1], shape[2]] if len(shape) == 4 else shape


def _dense(tensor: Table, values: np.ndarray) -> np.ndarray:
    """The array of a sparse tensor: its levels are walked from the outermost, each a full range or a list of indices (CSR)."""
    sparsity, shape = tensor.table(6), tensor.array(0)
    order, blocks = sparsity.array(0), sparsity.array(1)
    index = np.zeros((1, len(order)), np.int64)  # per value that is stored: its place in every level
    for level, dimension in zip(order, sparsity.tables(2), strict=True):
        if dimension.number(0, "b") == 0:
            count = dimension.number(1)
            index = np.repeat(index, count, axis=0)
            index[:, level] = np.tile(np.arange(count), len(index) // count)
        else:
            segments, places = _indices(dimension, 2), _indices(dimension, 4)
            index = np.repeat(index, np.diff(segments), axis=0)
            index[:, level] = places
    coordinates = index[:, : len(shape)].copy()
    for number, axis in enumerate(blocks):
        size = max(index[:, len(shape) + number]) + 1
        coordinates[:, axis] = coordinates[:, axis] * size + index[:, len(shape) + number]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates.T)] = values[: len(coordinates)]
    return dense


def _indices(dimension: Table, number: int) -> np.ndarray:
    kind = {1: np.int32, 2: np.uint16, 3: np.uint8}[dimension.number(number, "B")]
    return dimension.table(number + 1).array(0, kind).astype(np.int64)


def make(wheel: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Write the models of `wheel` and their record into `folder`. Raises FileError where the wheel is another one."""
    try:
        archive = zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read {wheel}: {error}") from error
    record: dict[str, dict[str, str]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with archive:
        for name, source in SOURCES.items():
            try:
                data = archive.read(source.file)
            except KeyError:
                raise FileError(f"{wheel} holds no {source.file}; use the wheel of mediapipe 0.10.21") from None
            if sha256(data).hexdigest() != source.sha256:
                raise FileError(f"{source.file} in {wheel} is another version; use the wheel of mediapipe 0.10.21")
            model = convert(data, name, source.outputs).SerializeToString(deterministic=True)
            with replacing(folder / f"{name}.onnx") as temporary:
                temporary.write_bytes(model)
            record[name] = {"sha256": sha256(model).hexdigest(), "source": source.file, "source_sha256": source.sha256}
        licence = next(name for name in archive.namelist() if name.endswith(".dist-info/LICENSE"))
        with replacing(folder / "LICENSE") as temporary:
            temporary.write_bytes(archive.read(licence))
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
