"""ONNX Runtime's CUDA provider on a fake GPU: sessions of the CPU that read and write its memory; a capture puts their work down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gpu import DEVICE, FakeGpu

from sdic_runtime.backends import onnxruntime_cuda
from sdic_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda

ASSIGNED = "CUDAExecutionProvider"


class FakeSession:
    """An ONNX Runtime session whose "cuda" is the host. `on_cpu`: operators that it says run on the CPU."""

    def __init__(self, gpu: FakeGpu, real: Any, providers: Any, on_cpu: tuple[str, ...]) -> None:
        self.gpu, self.real, self.providers, self.on_cpu = gpu, real, providers, on_cpu
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs
        self.runs = 0

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [SimpleNamespace(op_type=name) for name in self.on_cpu]
        return [SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)] if nodes else []

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.real.io_binding())

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.runs += 1
        self.gpu.work(lambda: self.real.run_with_iobinding(binding.real))


class FakeBinding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        assert device == "cuda"
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        assert device == "cuda"
        self.real.bind_output(name, "cpu", 0, dtype, shape, address)


@contextmanager
def fake_cuda(gpu: FakeGpu, on_cpu: tuple[str, ...] = ()) -> Iterator[list[FakeSession]]:
    """ONNX Runtime as if it had CUDA, and `gpu` for the only GPU; gives the sessions that are made meanwhile."""
    import onnxruntime

    made: list[FakeSession] = []
    real = onnxruntime.InferenceSession

    class Session:
        get_provider_graph_assignment_info = None  # there, as in later versions

        def __new__(cls, path: str | Path, options: Any, providers: Any, **rest: Any) -> Any:
            if providers[0][0] != ASSIGNED:
                return real(path, options, providers=providers, **rest)
            plain = onnxruntime.SessionOptions()
            made.append(FakeSession(gpu, real(path, plain, providers=["CPUExecutionProvider"]), providers, on_cpu))
            return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", Session)
        patch.setattr(onnxruntime, "get_available_providers", lambda: [ASSIGNED, "CPUExecutionProvider"])
        patch.setattr(onnxruntime, "__version__", "1.31.0")  # what is installed may be too old for recorded programs
        patch.setattr(onnxruntime_cuda, "open_gpu", lambda index: gpu)
        patch.setattr(onnxruntime_cuda, "CUDA_DEVICE", DEVICE[0])
        yield made


__all__ = ["FakeSession", "OnnxRuntimeCuda", "fake_cuda"]
