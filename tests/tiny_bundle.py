"""A tiny bundle with the names and shapes of a real one, and the same arithmetic written again in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU
from sdic_runtime.bundle.manifest import Input, Manifest, file_entries, first_schema, write_manifest
from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.program import Method

SIZES = {"R": 128, "S": 64, "L": 12, "C": 8, "K": 4}
SDIC = msgspec.convert({**first_schema(), "method": "sdic", "sizes": SIZES}, Method)  # the tables of the tiny bundle


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


class Reference:
    """The tiny model: weights, and every stage in numpy."""

    sizes = SIZES
    to_latent = noise(3, SIZES["L"] * SIZES["C"])
    to_feature = noise(SIZES["C"], SIZES["K"])
    feature_map = noise(1, SIZES["K"], 64, 64)
    to_rgb = noise(SIZES["C"], 3)
    rgb_map = noise(1, 3, 32, 32)
    preview = noise(3, SIZES["K"], seed=1)
    enhance = noise(3, SIZES["C"])
    compensate = noise(SIZES["K"], 3)
    last = noise(3, SIZES["K"], seed=2) * np.float32(0.1)

    def e4e(self, image: np.ndarray) -> np.ndarray:
        return np.tanh(image.mean((2, 3)) @ self.to_latent).reshape(len(image), SIZES["L"], SIZES["C"])

    def head(self, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = latent.mean(1)
        return (np.sin(mean @ self.to_feature)[:, :, None, None] * self.feature_map, (mean @ self.to_rgb)[:, :, None, None] * self.rgb_map)

    def mix(self, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.einsum("oi,nihw->nohw", weight, x)

    def tail(self, feature: np.ndarray, residual: np.ndarray, rgb: np.ndarray, latent: np.ndarray) -> np.ndarray:
        small = self.mix(self.last, np.tanh(feature + residual)) + rgb.repeat(2, 2).repeat(2, 3) * np.float32(0.1)
        return (small + latent.mean((1, 2))[:, None, None, None]).repeat(2, 2).repeat(2, 3)

    def invert(self, image: np.ndarray) -> dict[str, np.ndarray]:
        latent = self.e4e(image)
        feature, rgb = self.head(latent)
        reconstruction = np.clip(self.mix(self.preview, feature) + rgb.repeat(2, 2).repeat(2, 3), -1, 1)
        discrepancy = (image - reconstruction) / 2
        enhanced = latent + np.tanh(discrepancy.mean((2, 3)) @ self.enhance)[:, None]
        residual = self.mix(self.compensate, discrepancy) / (1 + np.exp(-feature))
        picture = self.tail(feature, residual, self.head(enhanced)[1], enhanced)
        return {
            "latent": latent,
            "feature": feature,
            "reconstruction": reconstruction,
            "discrepancy": discrepancy,
            "latent_enhanced": enhanced,
            "residual": residual,
            "picture": picture,
        }


def stage_nodes(stage: str, model: Reference) -> tuple[list[Any], dict[str, np.ndarray]]:
    """The nodes and the constants of one stage of the tiny model."""
    from onnx import helper

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)

    axes = np.array([2, 3], np.int64)
    double = np.array([1, 1, 2, 2], np.float32)
    nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    unsqueeze = np.array([2, 3], np.int64)
    table: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
        "e4e": (
            [
                node("ReduceMean", "image axes", "m", keepdims=0),
                node("MatMul", "m w", "l"),
                node("Tanh", "l", "t"),
                node("Reshape", "t shape", "latent"),
            ],
            {"axes": axes, "w": model.to_latent, "shape": np.array([-1, SIZES["L"], SIZES["C"]], np.int64)},
        ),
        "generator_head": (
            [
                node("ReduceMean", "latent one", "m", keepdims=0),
                node("MatMul", "m wf", "f"),
                node("Sin", "f", "s"),
                node("Unsqueeze", "s u", "fu"),
                node("Mul", "fu fm", "feature"),
                node("MatMul", "m wr", "r"),
                node("Unsqueeze", "r u", "ru"),
                node("Mul", "ru rm", "rgb"),
            ],
            {
                "one": np.array([1], np.int64),
                "u": unsqueeze,
                "wf": model.to_feature,
                "fm": model.feature_map,
                "wr": model.to_rgb,
                "rm": model.rgb_map,
            },
        ),
        "generator_preview": (
            [
                node("Conv", "feature w", "c"),
                node("Resize", "rgb  double", "r", **nearest),
                node("Add", "c r", "a"),
                node("ReduceMean", "latent all", "unused"),
                node("Clip", "a low high", "reconstruction"),
            ],
            {
                "w": model.preview[..., None, None],
                "double": double,
                "all": np.array([1, 2], np.int64),
                "low": np.array(-1, np.float32),
                "high": np.array(1, np.float32),
            },
        ),
        "dipn": ([node("Sub", "image reconstruction", "d"), node("Mul", "d half", "discrepancy")], {"half": np.array(0.5, np.float32)}),
        "dicn": (
            [
                node("ReduceMean", "discrepancy axes", "m", keepdims=0),
                node("MatMul", "m we", "e"),
                node("Tanh", "e", "t"),
                node("Unsqueeze", "t one", "tu"),
                node("Add", "latent tu", "latent_enhanced"),
                node("Conv", "discrepancy wc", "c"),
                node("Sigmoid", "feature", "g"),
                node("Mul", "g c", "residual"),
            ],
            {"axes": axes, "one": np.array([1], np.int64), "we": model.enhance, "wc": model.compensate[..., None, None]},
        ),
        "generator_tail": (
            [
                node("Add", "feature residual", "fr"),
                node("Tanh", "fr", "t"),
                node("Conv", "t w", "c"),
                node("Resize", "rgb  double", "r", **nearest),
                node("Mul", "r tenth", "rt"),
                node("Add", "c rt", "small"),
                node("ReduceMean", "latent rows", "m", keepdims=0),
                node("Unsqueeze", "m u", "mu"),
                node("Add", "small mu", "sum"),
                node("Resize", "sum  double", "picture", **nearest),
            ],
            {
                "w": model.last[..., None, None],
                "double": double,
                "tenth": np.array(0.1, np.float32),
                "rows": np.array([1, 2], np.int64),
                "u": np.array([1, 2, 3], np.int64),
            },
        ),
    }
    nodes, constants = table[stage]
    for item in nodes:  # "a  b" omits an optional input
        if item.op_type == "Resize":
            item.input.insert(1, "")
    return nodes, constants


def write_stage(path: Path, stage: str, nodes: list[Any], constants: dict[str, np.ndarray]) -> None:
    """One stage as an ONNX file with the borders of the stage table."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def border(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *SDIC.shape(name, 1)[1:]])

    inputs, outputs = ([border(name) for name in names] for names in (SDIC.stages[stage].inputs, SDIC.stages[stage].outputs))
    graph = helper.make_graph(nodes, stage, inputs, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def write_bundle(folder: Path, visible_rows: tuple[int, int] = (0, SIZES["R"]), **changes: Any) -> Path:
    """A whole tiny bundle in `folder`; `changes` are fields of its manifest."""
    model = Reference()
    (folder / "onnx/fp32").mkdir(parents=True)
    (folder / "directions").mkdir()
    graphs = {stage: {"fp32": (f"onnx/fp32/{stage}.onnx",)} for stage in SDIC.stages}
    for stage in SDIC.stages:
        write_stage(folder / graphs[stage]["fp32"][0], stage, *stage_nodes(stage, model))
    directions = {
        "smile": Direction(noise(SIZES["C"], seed=5), "smile", "random", (-3, 3)),
        "age": Direction(noise(SIZES["L"], SIZES["C"], seed=6), "age", "random", rows=(2, 5)),
        "basis": Pca(noise(1, 8, seed=7), noise(6, 1, 8), np.arange(6, 0, -1), "basis", "random"),
    }
    files = {name: f"directions/{name}.safetensors" for name in directions}
    for name, direction in directions.items():
        save_direction(folder / files[name], direction)
    manifest = Manifest(
        **{name: getattr(SDIC, name) for name in Method.__struct_fields__},
        name="tiny",
        domain="test",
        input=Input(visible_rows),
        graphs=graphs,
        files=file_entries(folder, [*files.values(), *(choices["fp32"][0] for choices in graphs.values())]),
        default_precision="fp32",
        directions=files,
        tolerances={"fp32": 1e-4},
        licence="none",
    )
    write_manifest(folder, msgspec.structs.replace(manifest, **changes))
    return folder


def change_manifest(folder: Path, files: Sequence[str] = (), **changes: Any) -> Path:
    """Change fields of the manifest in `folder`, and list the new or changed `files` as they are now."""
    manifest = Bundle.open(folder).manifest
    changes["files"] = {**changes.get("files", manifest.files), **file_entries(folder, files)}
    return write_manifest(folder, msgspec.structs.replace(manifest, **changes))


def add_cpu_graph(folder: Path, key: str, **factors: float) -> Path:
    """A CPU-optimized graph that can be told from that of the stage: the constants named in `factors` are multiplied by them.

    `key` is a stage, or "stage:output" for a graph of that output alone.
    """
    name = own_graph(folder, key).replace(".onnx", cpu_ending(key))
    onnx_save(changed_graph(folder, key, factors), folder / name)
    set_cpu(folder, key, [name])
    return folder / name


def add_bands(folder: Path, key: str, rows: Sequence[tuple[int, int]], batch: int | str = 1, **factors: float) -> list[Path]:
    """The same as bands of rows: each is the graph of `key` for `batch` pictures, its 4D outputs cut down to `rows` (first, end)."""
    from onnx import helper, numpy_helper

    names = [own_graph(folder, key).replace(".onnx", cpu_ending(key, f".{index}")) for index in range(len(rows))]
    for name, (first, end) in zip(names, rows, strict=True):
        model = changed_graph(folder, key, factors)
        outputs = [value.name for value in model.graph.output]
        for role, number in (("first", first), ("end", end), ("axis", 2)):
            model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), f"band_{role}"))
        for node in model.graph.node:
            node.output[:] = [f"whole_{output}" if output in outputs else output for output in node.output]
            node.input[:] = [f"whole_{value}" if value in outputs else value for value in node.input]
        for output in outputs:
            model.graph.node.append(helper.make_node("Slice", [f"whole_{output}", "band_first", "band_end", "band_axis"], [output]))
        for value in (*model.graph.input, *model.graph.output):
            axes = value.type.tensor_type.shape.dim
            axes[0].CopyFrom(type(axes[0])(**{"dim_param" if isinstance(batch, str) else "dim_value": batch}))
            if value.name in outputs:
                axes[2].dim_value = end - first
        onnx_save(model, folder / name)
    set_cpu(folder, key, names)
    return [folder / name for name in names]


def break_band(folder: Path, stage: str, band: int) -> None:
    """Let one band of `stage` load and fail in every run: it reads a picture that is not there."""
    import onnx
    from onnx import helper, numpy_helper

    names = Bundle.open(folder).manifest.graphs[stage][ONNXRUNTIME_CPU]
    model = onnx.load(folder / names[band])
    for output in SDIC.stages[stage].outputs:
        last = next(node for node in model.graph.node if output in node.output)
        last.output[:] = [f"sound_{output}"]
        model.graph.node.append(helper.make_node("Gather", [f"sound_{output}", "absent"], [output], axis=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([7], np.int64), "absent"))
    onnx_save(model, folder / names[band])
    set_cpu(folder, stage, names)


def own_graph(folder: Path, key: str) -> str:
    return Bundle.open(folder).manifest.graphs[key.partition(":")[0]]["fp32"][0]


def cpu_ending(key: str, band: str = "") -> str:
    output = key.partition(":")[2]
    return f".cpu{band}{output and f'.{output}'}.onnx"


def changed_graph(folder: Path, key: str, factors: Mapping[str, float]) -> Any:
    import onnx
    from onnx.utils import Extractor

    model = onnx.load(folder / own_graph(folder, key))
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor) * np.float32(factors.get(tensor.name, 1))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name) if tensor.name in factors else tensor)
    output = key.partition(":")[2]
    return Extractor(model).extract_model([value.name for value in model.graph.input], [output]) if output else model


def onnx_save(model: Any, path: Path) -> None:
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, path)


def set_cpu(folder: Path, key: str, names: Sequence[str]) -> None:
    graphs = Bundle.open(folder).manifest.graphs
    change_manifest(folder, names, graphs={**graphs, key: {**graphs.get(key, {}), ONNXRUNTIME_CPU: tuple(names)}})
