"""The graphs of a stage beside the standard one: optimized for a runtime on CPUs, and of one output alone."""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_export.check import check_stage, label
from sdic_export.golden import Chain
from sdic_export.graphs.exporter import beside, export_alone, export_variant
from sdic_export.half.stages import Graphs
from sdic_export.inspect import multiplications
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, OPENVINO, parts
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.program import Method, Stage
from sdic_runtime.tools.compare import Difference

if TYPE_CHECKING:
    from torch import nn

    from sdic_export.methods import Arrange, ExportCode

FORMS = {ONNXRUNTIME_CPU: "cpu", OPENVINO: "openvino"}  # variant -> how its files are called: dicn.cpu.onnx
SAVING = 0.05  # of a stage's multiplications, from which an output that programs ask for alone gets a graph of its own


def arrangements_of(export: ExportCode) -> dict[str, dict[str, Arrange]]:
    """Stage -> variant -> how it is arranged, those of ONNX Runtime first: others may have the same weights."""
    found: dict[str, dict[str, Arrange]] = {name: {ONNXRUNTIME_CPU: arrange} for name, arrange in export.cpu.items()}
    for name, arrange in export.openvino.items():
        if arrange is not None:
            found.setdefault(name, {})[OPENVINO] = arrange
    return found


def arranged(module: nn.Module, arrange: Arrange, method: Method, stage: Stage) -> list[nn.Module]:
    """The bands of a variant, of a copy of `module` that has the same tensors; none where nothing is gained."""
    import torch

    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    with torch.no_grad():
        return list(arrange(copy.deepcopy(module, tensors), *(torch.zeros(method.shape(name, 1)) for name in stage.inputs)) or [])


def add_variant(
    folder: Path,
    method: Method,
    name: str,
    variant: str,
    bands: list[nn.Module],
    graphs: Graphs,
    single: Chain,
    opset: int,
    shares: Sequence[str],
) -> list[Difference]:
    """Export the bands of a variant and check them, into `graphs` of the stage; the worst differences."""
    if not bands:
        return []
    stage, example, (whole,) = method.stage(name), single.examples[name], graphs[name][STANDARD]
    files = [beside(whole, FORMS[variant] if len(bands) == 1 else f"{FORMS[variant]}.{band}") for band in range(len(bands))]
    keys = [key for key in graphs if key != name and len(files) == 1]
    others = [whole, *shares, *(file for variants in graphs[name].values() for file in variants)]
    for index, file in enumerate(files):  # bands share weights with the stage and each other; each is freed before the next
        held = [folder / other for other in (*others, *files[:index])]
        export_variant(bands.pop(0), stage, method, folder / file, held, opset, len(files) > 1, share_weights=bool(keys))
        gc.collect()
    found = [check_stage([folder / file for file in files], label(name, variant), stage.outputs, method, example)]
    graphs[name][variant] = tuple(files)
    for key in keys:
        output = parts(key)[1]
        file = beside(files[0], output)
        export_alone(folder / files[0], output, folder / file)
        found.append(check_stage([folder / file], label(key, variant), [output], method, example))
        graphs[key][variant] = (file,)
    return found


def shared(graphs: Graphs) -> Graphs:
    """The graphs of a stage, those optimized for ONNX Runtime on CPUs also as OpenVINO's where they are whole: the same files."""
    whole = {key: files for key, variants in graphs.items() if len(files := variants.get(ONNXRUNTIME_CPU, ())) == 1}
    return {key: {**variants, **({OPENVINO: whole[key]} if key in whole else {})} for key, variants in graphs.items()}


def asked_alone(method: Method, stage: str) -> tuple[str, ...]:
    """The outputs of `stage`, which has several, that some step asks for alone."""
    steps = [step for program in method.programs.values() for step in program.steps if step.stage == stage]
    outputs = method.stage(stage).outputs
    return tuple(output for output in outputs if len(outputs) > 1 and any(list(step.outputs) == [output] for step in steps))


def saves(graph: Path, whole: Path) -> bool:
    """Whether the graph of one output has so much less work than that of the stage that it is worth its file."""
    less, all_of_it = multiplications(graph), multiplications(whole)
    return less is not None and all_of_it is not None and less <= (1 - SAVING) * all_of_it
