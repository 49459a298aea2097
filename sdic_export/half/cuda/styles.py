"""All styles of a generator's stage at once, and its pictures' matrices.

Every styled layer computes its style and demodulation from its row of the code, in sixteen operators on a few hundred numbers each. On a
GPU each is a kernel that takes as long to start as to run, ten layers have a hundred and fifty of them, and they lie between the
convolutions. The layers are computed side by side instead, padded to the widest one, in as many kernels as one layer needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import TOGETHER, Rewriting, attribute, attributes, set_attributes

if TYPE_CHECKING:
    import onnx

SINGLE = "batched_styles"  # the layer that stays in float32
HALF = "batched_modulation"  # and what is made of it, which does not
FEWEST = 2  # layers for which it pays
LINEAR = ("Mul", "Conv", "ConvTranspose", "Reshape", "Transpose")  # between a style and its demodulation
SCALE = 4.0  # of the mean square's root: about the largest of some hundred numbers
LEAST = 1e-9  # that styles are divided by, as in `sdic_export.graphs.folded`; graphs of before have no such limit


@dataclass(frozen=True)
class Row:
    """A linear layer on a row of the code: its row, weight [C, K] and bias [C], and its output's name."""

    code: str
    row: int
    weight: np.ndarray
    bias: np.ndarray
    output: str


@dataclass(frozen=True)
class Styled:
    """A row whose style is scaled, and its demodulation: magnitude, energy [O, C], epsilon and gain; see
    `sdic_export.graphs.folded`. `style`, `demodulation`: the nodes that give both the axes of a picture."""

    row: Row
    magnitude: float
    energy: np.ndarray
    epsilon: float
    gain: float
    style: onnx.NodeProto
    demodulation: onnx.NodeProto


@dataclass(frozen=True)
class Matrix:
    """A row that becomes the matrix [N, 3, C] that makes a picture of a feature: `weight` [3, C]."""

    row: Row
    weight: np.ndarray
    product: onnx.NodeProto


def batch_styles(rewriting: Rewriting) -> None:
    """Compute the styles of all layers that read the same code together, and all their matrices, but for those that stay float32."""
    rows = [row for node in rewriting.nodes if node.op_type == "Gemm" and (row := _row(rewriting, node))]
    rows = [row for row in rows if not rewriting.keeps(row.output)]
    styled = [style for row in rows if (style := _styled(rewriting, row))]
    styled = [each for each in styled if not rewriting.keeps(each.style.output[0], each.demodulation.output[0])]
    matrices = [matrix for row in rows if (matrix := _matrix(rewriting, row)) and not rewriting.keeps(matrix.product.output[0])]
    for code in dict.fromkeys(row.code for row in rows):
        own = [each for each in styled if each.row.code == code]
        if len(own) >= FEWEST:
            _batch_styled(rewriting, own, f"{SINGLE}.{code}")
        made = [each for each in matrices if each.row.code == code]
        if len(made) >= FEWEST:
            _batch_matrices(rewriting, made, code)


def _row(rewriting: Rewriting, node: onnx.NodeProto) -> Row | None:
    picked = rewriting.makers.get(node.input[0])
    arrays = [rewriting.array(name) for name in node.input[1:]]
    plain = [attribute(node, name) for name in ("alpha", "beta")] == [1.0, 1.0] and attributes(node).get("transB") == 1
    if picked is None or picked.op_type != "Gather" or attributes(picked).get("axis") != 1 or not plain or len(arrays) != 2:
        return None
    index = rewriting.array(picked.input[1])
    weight, bias = arrays
    if index is None or index.ndim or weight is None or bias is None or node.output[0] in rewriting.outputs:
        return None
    return Row(picked.input[0], int(index), weight, bias, node.output[0])


def _styled(rewriting: Rewriting, row: Row) -> Styled | None:
    """The chain behind a linear layer, if every operator of it is the expected one."""
    follow = _Chain(rewriting)
    style = follow.reader(row.output, "Div")
    largest = follow.behind(row.output, "Abs", "ReduceMax")
    if largest is not None:
        largest = follow.behind(largest, "Clip") or largest
    if style is None or largest is None or list(style.input) != [row.output, largest] or len(rewriting.readers[row.output]) != 2:
        return None
    magnitude, inverse = follow.scaled(largest), None
    if magnitude is not None:
        squared = follow.squared(magnitude[1])
        inverse = None if squared is None else follow.behind(squared, "Reciprocal")
    epsilon = None if inverse is None else follow.scaled(inverse)
    power = follow.squared(style.output[0])
    energies = None if power is None else follow.reader(power, "Gemm")
    if magnitude is None or epsilon is None or energies is None:
        return None
    energy, total = rewriting.array(energies.input[1]), follow.reader(energies.output[0], "Add")
    if energy is None or len(energies.input) != 2 or total is None or epsilon[1] not in total.input:
        return None
    root = follow.behind(total.output[0], "Sqrt", "Reciprocal")
    gain = None if root is None else follow.scaled(root)
    if gain is None:
        return None
    places = [follow.reader(name, "Unsqueeze") for name in (style.output[0], gain[1])]
    first, second = places
    if first is None or second is None or any(follow.axes(place) != [2, 3] for place in (first, second)):
        return None
    return Styled(row, magnitude[0], energy, epsilon[0], gain[0], first, second)


def _matrix(rewriting: Rewriting, row: Row) -> Matrix | None:
    follow = _Chain(rewriting)
    added = rewriting.only_reader(row.output, "Unsqueeze")
    product = rewriting.only_reader(added.output[0], "Mul") if added is not None and follow.axes(added) == [1] else None
    weight = rewriting.array(product.input[0]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or weight.shape[1] != len(row.weight):
        return None
    return Matrix(row, weight, product)


class _Chain:
    """Questions about what follows a tensor."""

    def __init__(self, rewriting: Rewriting) -> None:
        self.rewriting, self.reader = rewriting, rewriting.reader

    def behind(self, name: str, *kinds: str) -> str | None:
        """The tensor behind operators of these kinds, each reading the one before."""
        for kind in kinds:
            node = self.reader(name, kind)
            if node is None:
                return None
            name = node.output[0]
        return name

    def scaled(self, name: str) -> tuple[float, str] | None:
        """The number that a tensor is multiplied by, and the product."""
        node = self.reader(name, "Mul")
        other = [each for each in node.input if each != name] if node is not None else []
        array = self.rewriting.array(other[0]) if len(other) == 1 else None
        return None if node is None or array is None or array.size != 1 else (float(array.ravel()[0]), node.output[0])

    def squared(self, name: str) -> str | None:
        node = self.reader(name, "Pow")
        power = self.rewriting.array(node.input[1]) if node is not None else None
        return node.output[0] if node is not None and power is not None and power.size == 1 and power.ravel()[0] == 2 else None

    def axes(self, node: onnx.NodeProto) -> list[int]:
        array = self.rewriting.array(node.input[1]) if len(node.input) > 1 else None
        return [] if array is None else array.ravel().tolist()


def _padded(arrays: Sequence[np.ndarray], fill: float = 0.0) -> np.ndarray:
    """All in one array, `fill` behind each."""
    shape = np.max([array.shape for array in arrays], axis=0)
    gaps = [[(0, int(most) - size) for most, size in zip(shape, array.shape, strict=True)] for array in arrays]
    return np.stack([np.pad(array, gap, constant_values=fill) for array, gap in zip(arrays, gaps, strict=True)])


class _Batch:
    """Nodes of a batch: `name` is the layer whose weights they read."""

    def __init__(self, rewriting: Rewriting, name: str) -> None:
        self.rewriting, self.name = rewriting, name

    def weight(self, name: str, array: np.ndarray) -> str:
        return self.rewriting.weight(f"{self.name}.{name}", array)

    def node(self, kind: str, inputs: Sequence[str], name: str, **options: object) -> str:
        output = f"{self.name}.{name}"
        self.rewriting.node(kind, inputs, output, **options)
        return output

    def linear(self, rows: Sequence[Row]) -> str:
        """[L, N, C] of all rows."""
        picked = self.node("Gather", [rows[0].code, self.weight("rows", np.array([row.row for row in rows]))], "picked", axis=1)
        turned = self.node("Transpose", [picked], "turned", perm=[1, 0, 2])
        product = self.node("MatMul", [turned, self.weight("weight", _padded([row.weight.T for row in rows]))], "product")
        return self.node("Add", [product, self.weight("bias", _padded([row.bias[None] for row in rows]))], "linear")


def _rename_scaled(rewriting: Rewriting, layer: Styled) -> None:
    """Other names for what lies between a style and its demodulation: another scale, and checks compare tensors by their names."""
    waiting, seen, end = [layer.style.output[0]], [layer.demodulation.output[0]], layer.demodulation.output[0]
    while waiting:
        name = waiting.pop()
        seen.append(name)
        for reader in rewriting.readers.get(name, []):
            if reader.op_type in LINEAR and end not in reader.input and reader.output[0] not in (*seen, *waiting):
                waiting.append(reader.output[0])
    for name in seen:
        rewriting.rename_made(name, f"{name}.scaled")


def _batch_styled(rewriting: Rewriting, layers: Sequence[Styled], name: str) -> None:
    batch = _Batch(rewriting, name)
    linear = batch.linear([layer.row for layer in layers])
    # Any scale of a style does, for its demodulation makes up for it. The largest number would need a reduction, which cuDNN takes ten
    # times as long for; so four times the mean square's root, which a product gives, and which is about as much.
    shares = _padded([np.full((len(layer.row.weight), 1), SCALE**2 / len(layer.row.weight), np.float32) for layer in layers])
    squares = batch.node("MatMul", [batch.node("Mul", [linear, linear], "squares"), batch.weight("shares", shares)], "mean_squares")
    squared = batch.node("Max", [squares, batch.weight("least", np.array(LEAST**2, np.float32))], "scale_squared")
    style = batch.node("Div", [linear, batch.node("Sqrt", [squared], "scale")], "style")
    # epsilon / (magnitude * scale) ** 2
    floors = np.array([layer.epsilon / layer.magnitude**2 for layer in layers], np.float64).astype(np.float32)[:, None, None]
    floor = batch.node("Div", [batch.weight("floors", floors), squared], "floor")
    power = batch.node("Mul", [style, style], "power")
    # With zeros a demodulation that nothing reads would reach beyond half precision.
    energy = batch.node("MatMul", [power, batch.weight("energy", _padded([layer.energy.T for layer in layers], 1.0))], "energies")
    root = batch.node("Sqrt", [batch.node("Add", [energy, floor], "total")], "root")
    gains = np.array([layer.gain for layer in layers], np.float32)[:, None, None]
    demodulation = batch.node("Div", [batch.weight("gains", gains), root], "demodulation")
    for made, what in ((style, "style"), (demodulation, "demodulation")):
        turned = batch.node("Transpose", [made], f"{what}_turned", perm=[1, 0, 2])
        placed = _Batch(rewriting, f"{HALF}.{name}.{what}")
        nodes = [layer.style if what == "style" else layer.demodulation for layer in layers]
        channels = [len(layer.row.weight) if what == "style" else len(layer.energy) for layer in layers]
        shape = placed.weight("shape", np.array([0, 1, 1, len(layers) * max(channels)]))
        flat = placed.node("Reshape", [turned, shape], "flat")
        for node, part in zip(nodes, _parts(placed, flat, channels, 3), strict=True):
            # With channels last, as the feature that it is for: ONNX Runtime would copy each of them there.
            node.op_type = "Transpose"
            del node.input[:]
            node.input.extend([part])
            set_attributes(node, {"perm": [0, 3, 1, 2]})
    for layer in layers:
        _rename_scaled(rewriting, layer)


def _batch_matrices(rewriting: Rewriting, layers: Sequence[Matrix], code: str) -> None:
    batch, placed = _Batch(rewriting, f"{SINGLE}.pictures.{code}"), _Batch(rewriting, f"{HALF}.{code}")
    turned = batch.node("Transpose", [batch.linear([layer.row for layer in layers])], "rows_turned", perm=[1, 0, 2])
    spread = batch.node("Unsqueeze", [turned, batch.weight("axes", np.array([2]))], "spread")  # [N, L, 1, C]
    weight = batch.weight("weights", _padded([layer.weight for layer in layers])[None])
    product = batch.node("Mul", [weight, spread], "products")  # [N, L, 3, C]
    for layer, part in zip(layers, _parts(placed, product, [layer.weight.shape[1] for layer in layers], 1), strict=True):
        node = layer.product
        node.op_type = "Squeeze"
        del node.input[:], node.attribute[:]
        node.input.extend([part, placed.weight("layer", np.array([1]))])


def _parts(placed: _Batch, source: str, channels: Sequence[int], axis: int) -> list[str]:
    """Every layer's own of `source`, [N, L, 3, C] with the layers along axis 1, or [N, 1, 1, L * C] with all in axis 3."""
    most, count = max(channels), len(channels)
    names = [f"{placed.name}.part_{index}" for index in range(count)]
    if set(channels) == {most} and FEWEST <= count <= TOGETHER:
        sizes = placed.weight("sizes", np.full(count, 1 if axis == 1 else most, np.int64))
        split = placed.rewriting.node("Split", [source, sizes], names[0], axis=axis)
        split.output.extend(names[1:])
        placed.rewriting.makers.update(dict.fromkeys(names, split))
        return names
    for index, own in enumerate(channels):
        bounds = {"starts": [index, 0], "ends": [index + 1, own], "axes": [1, 3]}
        if axis == 3:
            bounds = {"starts": [index * most], "ends": [index * most + own], "axes": [3]}
        words = [placed.weight(f"{name}_{index}", np.array(values)) for name, values in bounds.items()]
        placed.rewriting.node("Slice", [source, *words], names[index])
    return names
