"""What the exporter knows of a method: its code, a module for every stage, and how stages are optimized for CPUs. All else is data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from sdic_export.cpu import encoded, sfe
from sdic_export.cpu.sdic import CPU, OPENVINO
from sdic_export.graphs.clcae import clcae_modules
from sdic_export.graphs.encoded import encoded_modules, hfgi_modules, restyle_modules
from sdic_export.graphs.fs import fs_modules
from sdic_export.graphs.hyperstyle import hyperstyle_modules
from sdic_export.graphs.parts import sdic_modules
from sdic_export.graphs.sfe import inverter_modules, sfe_modules
from sdic_export.graphs.style_space import styled_export
from sdic_runtime.errors import BundleError
from sdic_runtime.program import Method
from sdic_train.methods import METHODS
from sdic_train.methods.base import MethodCode
from sdic_train.methods.style_space import has_style_space

# (module of a stage, *example inputs [1, ...]) -> modules with the same inputs and outputs, for one runtime on CPUs; None where nothing is
# gained. Constants of the module are folded, and nobody uses it afterwards: it may be changed in place, but not its tensors. Several
# modules are bands of rows of every output (axis 2) from top to bottom, which are exported for one picture.
Arrange: TypeAlias = Callable[..., "Sequence[nn.Module] | None"]


@dataclass(frozen=True)
class ExportCode:
    """`modules`: what `code.load` gives -> stage, or part of one -> module that exports well, its inputs and outputs in the order of the
    stage table. `cpu`: stage -> how it is optimized for ONNX Runtime on CPUs. `openvino`: stage -> how it is for OpenVINO; None: in the
    same way, if that is no bands. `alone`: stages whose graphs are for one picture at a time."""

    code: MethodCode
    modules: Callable[[Any], Mapping[str, nn.Module]]
    cpu: Mapping[str, Arrange] = field(default_factory=dict)
    openvino: Mapping[str, Arrange | None] = field(default_factory=dict)
    alone: frozenset[str] = frozenset()


EXPORTS: dict[str, ExportCode] = {
    "sdic": ExportCode(METHODS["sdic"], sdic_modules, CPU, OPENVINO),
    **{name: ExportCode(METHODS[name], encoded_modules, encoded.ENCODED) for name in ("e4e", "psp")},
    **{name: ExportCode(METHODS[name], restyle_modules, encoded.RESTYLE) for name in ("restyle-e4e", "restyle-psp")},
    "hfgi": ExportCode(METHODS["hfgi"], hfgi_modules, encoded.HFGI),
    "hyperstyle": ExportCode(METHODS["hyperstyle"], hyperstyle_modules, encoded.HYPERSTYLE, alone=frozenset({"generator"})),
    "clcae": ExportCode(METHODS["clcae"], clcae_modules, encoded.CUT),
    "fs": ExportCode(METHODS["fs"], fs_modules, encoded.CUT),
    "sfe-inverter": ExportCode(METHODS["sfe-inverter"], inverter_modules, sfe.INVERTER),
    "sfe": ExportCode(METHODS["sfe"], sfe_modules, sfe.SFE),
}


def export_code(method: str) -> ExportCode:
    """How the method called `method` is exported. Raises BundleError for one that is not known here."""
    if method not in EXPORTS:
        raise BundleError(f'the method "{method}" cannot be exported here; known are: {", ".join(EXPORTS)}')
    return EXPORTS[method]


def export_of(method: Method) -> ExportCode:
    """How the method of a bundle is exported. Raises BundleError for one that is not known here."""
    export = export_code(method.method)
    return styled_export(export) if has_style_space(method) else export
