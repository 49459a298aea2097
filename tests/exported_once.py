"""Graphs of small stages without doing again what is the same for many of them."""

from __future__ import annotations

import gc
import hashlib
import io
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from built_once import built_once

from sdic_export import build as building
from sdic_export.graphs import exporter
from sdic_export.graphs.exporter import export_stage
from sdic_runtime.program import Method, Stage

EXPORTED = exporter._exported  # which remembers nothing
TABLES: dict[int, Any] = {}  # opset -> PyTorch's table of operators


@contextmanager
def quick_exporter() -> Iterator[None]:
    """In the block what PyTorch's exporter and its optimizer do again for every graph, to the same end, is done once: a good part of the
    time of a small one. With another PyTorch or optimizer the tests are slower."""
    with pytest.MonkeyPatch.context() as patch:
        for quicken in (_one_table, _operators_once, _no_hopeless_match):
            with suppress(ImportError, AttributeError):
                quicken(patch)
        yield


def _one_table(patch: pytest.MonkeyPatch) -> None:
    """The table of operators is made once; a build collects garbage after every stage, and the libraries' own objects are none."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make = ONNXRegistry.from_torchlib

    def table(opset_version: int) -> Any:
        if opset_version not in TABLES:
            TABLES[opset_version] = make(opset_version)
            gc.collect()
            gc.freeze()
        return TABLES[opset_version]

    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(table))


def _operators_once(patch: pytest.MonkeyPatch) -> None:
    """PyTorch looks through all its operators at every step, lest somebody registered one in between."""
    from torch._export import utils

    patch.setattr(utils, "_materialize_cpp_cia_ops", cache(utils._materialize_cpp_cia_ops))


def _no_hopeless_match(patch: pytest.MonkeyPatch) -> None:
    """A rewrite rule of several outputs lists the whole graph before it looks at the operator of the node that it is asked about."""
    from onnxscript.rewriter._basics import MatchResult
    from onnxscript.rewriter._matcher import SimplePatternMatcher

    match = SimplePatternMatcher.match

    def quick(self: Any, model: Any, graph: Any, node: Any, **named: Any) -> Any:
        if not self.pattern.output_nodes[0].op.matches(node.op_type):
            return MatchResult().fail("another operator")
        return match(self, model, graph, node, **named)

    patch.setattr(SimplePatternMatcher, "match", quick)


@contextmanager
def remembering() -> Iterator[None]:
    """In the block a module that this process exported already, with the same weights, is not traced again: several tests build variants of
    one stage, and look at what is written beside it."""
    import onnx_ir as ir

    known: dict[str, bytes] = {}

    def exported(module: Any, stage: Stage, method: Method, *options: Any, **named: Any) -> Any:
        try:
            key = _key(module, stage, method, options, named)
        except (pickle.PicklingError, AttributeError):  # a class inside a function
            return EXPORTED(module, stage, method, *options, **named)
        if key not in known:
            model = EXPORTED(module, stage, method, *options, **named)
            known[key] = ir.to_proto(model).SerializeToString()
            return model
        return ir.from_proto(onnx.ModelProto.FromString(known[key]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_exported", exported)
        yield


def _key(module: Any, stage: Stage, method: Method, *others: Any) -> str:
    """What the module computes and holds, and the stage's table and shapes."""
    shapes = {name: method.shape(name, 1) for name in (*stage.inputs, *stage.outputs)}
    held = io.BytesIO()
    torch.save(module, held)
    return hashlib.sha256(held.getvalue() + repr((stage, shapes, others)).encode()).hexdigest()[:16]


@contextmanager
def exporting_once(factory: pytest.TempPathFactory) -> Iterator[None]:
    """In the block a build copies the graph of a stage that was exported already in one of the processes of the test run. What the module
    computes and holds, the stage's table and shapes, the options and the file's name tell graphs apart."""

    def export(module: Any, stage: Stage, method: Method, path: Path, *options: Any, **named: Any) -> None:
        key = _key(module, stage, method, path.name, options, sorted(named.items()), exporter.EXTERNAL_FROM, exporter.EXTERNAL_TENSOR_FROM)

        def fill(folder: Path) -> None:
            export_stage(module, stage, method, folder / path.name, *options, **named)

        for file in built_once(factory, f"{path.stem}-{key}", fill).iterdir():
            shutil.copy(file, path.parent)

    with quick_exporter(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "export_stage", export)
        yield
