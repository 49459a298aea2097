"""A checkpoint as a pipeline, without a bundle: the programs of its method on its networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import STANDARD, Input, Manifest
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import Program, Step
from sdic_train.backend import TorchBackend
from sdic_train.methods import method_of_file
from sdic_train.methods.base import MethodCode
from sdic_train.methods.trace import method_of


@dataclass(frozen=True)
class Weights:
    """A checkpoint, the further `others` files of its model, and its `method` where it does not say."""

    path: Path
    others: Sequence[Path] = ()
    method: str | None = None

    def read(self) -> tuple[MethodCode, Any]:
        """The method, and its networks in evaluation mode. Raises CheckpointError, BundleError for an unknown method."""
        code = method_of_file(self.path, self.method)
        return code, code.read(self.path, None, self.others)


def pipeline_of(code: MethodCode, model: Any, path: Path, device: str = "cpu") -> Pipeline:
    """A pipeline of the networks that `path` was read into. It has no directions, and its inversions are for this pipeline alone."""
    method = method_of(code, model.config)
    manifest = Manifest(
        **{name: getattr(method, name) for name in msgspec.structs.asdict(method)},
        name=path.name,
        domain=model.config.domain,
        input=Input(model.config.visible_rows),
        graphs={stage: {STANDARD: ()} for stage in method.stages},
        default_precision=STANDARD,
        files={},
    )
    return Pipeline(Bundle(path, manifest), TorchBackend(manifest, model.to(device), device))


def only(program: Program, tensors: Iterable[str]) -> Program:
    """The steps of `program` that those of `tensors` which it gives need."""
    gives = {name: program.gives[name] for name in tensors if name in program.gives}
    steps: list[Step] = []
    wanted = set(gives.values())
    for step in reversed(program.steps):
        if wanted & set(step.outputs.values()):
            steps.insert(0, step)
            wanted |= set(step.inputs.values())
    return msgspec.structs.replace(program, steps=tuple(steps), gives=gives)
