"""PyTorch as the reference for exported stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.program import Method

if TYPE_CHECKING:
    from torch import nn


class TorchStages(Backend):
    """A backend on the modules that are exported: their inputs and outputs stand in the order of the stage table.

    The networks themselves are the reference (`sdic_train.backend`) unless weights were rounded: then these modules are, which hold
    exactly the rounded weights.
    """

    name = "torch"

    def __init__(self, method: Method, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(method)
        self.modules = modules

    @property
    def description(self) -> str:
        import torch

        return f"PyTorch {torch.__version__}, CPU, fp32, rounded weights"

    def upload(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    def download(self, tensor: Any) -> np.ndarray:
        array: np.ndarray = tensor.numpy()
        return array

    def runs(self, stage: str) -> bool:
        return stage in self.modules

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        import torch

        table = self.method.stage(stage)
        with torch.inference_mode():
            results = self.modules[stage](*(inputs[name] for name in table.inputs))
        named = dict(zip(table.outputs, results if isinstance(results, tuple) else (results,), strict=True))
        return {name: named[name] for name in outputs}
