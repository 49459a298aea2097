"""Graphs whose weights are stored in half precision and cast back when they are loaded: the arithmetic stays float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_export.graphs.fusion import HALF_FROM
from sdic_runtime.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Largest magnitudes that float16 stores as they are. Other weights are scaled by a power of two, so that few become subnormal and none
# infinite.
STORED_AS_THEY_ARE = (2.0**-6, 2.0**15)
SCALED_TO = 14  # a power of two


class HalfWriter:
    """Writes graphs anew, one after the other. Weights that graphs share in a file stay shared: `places` says where each went."""

    def __init__(self, halve: bool = True) -> None:
        self.halve = halve
        self.places: dict[
            tuple[Path, str, str], tuple[str, int, int, int]
        ] = {}  # old file, offset, length -> new file, offset, length, power

    def write(self, source: Path, target: Path) -> None:
        """Write the graph `source` as `target`; its external weights go to files of the same names beside that. Raises BundleError."""
        import onnx

        model = onnx.load(str(source), load_external_data=False)
        for tensor in list(model.graph.initializer):
            self._store(model.graph, tensor, source, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(model.SerializeToString(deterministic=True))

    def _store(self, graph: onnx.GraphProto, tensor: onnx.TensorProto, source: Path, target: Path) -> None:
        import numpy as np
        from onnx import TensorProto, numpy_helper

        external = {item.key: item.value for item in tensor.external_data}
        if math.prod(tensor.dims) < HALF_FROM and not external:
            return
        place = (source.parent / external.get("location", ""), external.get("offset", "0"), external.get("length", ""))
        known = self.places.get(place) if external else None
        halves = self.halve and tensor.data_type == TensorProto.FLOAT
        power, stored = (known[3], None) if known else (0, numpy_helper.to_array(tensor, base_dir=str(source.parent)))
        if stored is not None and halves:
            power = scale_of(stored)
            stored = np.ldexp(stored, power).astype(np.float16)
            if not np.isfinite(stored).all():
                raise BundleError(f'the weight "{tensor.name}" of {source} holds NaN or infinite values; build the bundle again')
        name, kind = tensor.name, TensorProto.FLOAT16 if halves else tensor.data_type
        made = TensorProto(name=f"{name}_half" if halves else name, data_type=kind, dims=tensor.dims)
        if external:
            made.data_location = TensorProto.EXTERNAL
            self.places[place] = file, offset, length, _ = known or (*_appended(target.parent / external["location"], stored), power)
            for key, value in (("location", file), ("offset", offset), ("length", length)):
                made.external_data.add(key=key, value=str(value))
        elif stored is not None:
            made.raw_data = stored.tobytes()
        if halves:
            _cast_back(graph, made.name, name, power)
        tensor.CopyFrom(made)


def scale_of(weight: np.ndarray) -> int:
    """The power of two by which `weight` is multiplied before it is rounded to float16."""
    largest = float(abs(weight).max(initial=0))
    low, high = STORED_AS_THEY_ARE
    return 0 if largest == 0 or not math.isfinite(largest) or low <= largest <= high else SCALED_TO - math.frexp(largest)[1]


def _appended(path: Path, array: Any) -> tuple[str, int, int]:
    """Write the bytes of `array` at the end of the file `path`: its name, their offset and length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        offset, content = stream.tell(), array.tobytes()
        stream.write(content)
    return path.name, offset, len(content)


def _cast_back(graph: onnx.GraphProto, stored: str, name: str, power: int) -> None:
    """Nodes at the beginning of `graph` that make the float32 weight `name` of the stored one; folded when the graph is loaded."""
    from onnx import TensorProto, helper

    cast = name if power == 0 else f"{name}_scaled"
    nodes = [helper.make_node("Cast", [stored], [cast], f"cast_{name}", to=TensorProto.FLOAT)]
    if power != 0:
        graph.initializer.append(helper.make_tensor(f"{name}_scale", TensorProto.FLOAT, [], [math.ldexp(1.0, -power)]))
        nodes.append(helper.make_node("Mul", [cast, f"{name}_scale"], [name], f"scale_{name}"))
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
