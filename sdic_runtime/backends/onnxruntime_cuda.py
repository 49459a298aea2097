"""ONNX Runtime on an NVIDIA GPU: half precision where the bundle has it, one stream, each program as one CUDA graph.

ONNX Runtime starts a thousand small kernels for an inversion. They are recorded once for each shape and then started together, so its
sessions get the stream of this backend, and every tensor that they read or write lies in memory that the backend plans.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.bands import for_one
from sdic_runtime.backends.cuda.device import DeviceBackend
from sdic_runtime.backends.cuda.dlpack import CUDA as CUDA_DEVICE
from sdic_runtime.backends.cuda.driver import Gpu, open_gpu
from sdic_runtime.backends.cuda.tensors import DeviceTensor
from sdic_runtime.backends.sessions import CPU, CUDA, PROVIDERS, QUIET, check_shapes, check_tensors, readable, session_of
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CUDA, Graph
from sdic_runtime.bundle.manifest import HALF, STANDARD
from sdic_runtime.errors import BackendError
from sdic_runtime.program import PICTURE, Stage

# No extra can ask for it: both packages fill the same folder, and whichever is removed takes the other's files along.
GPU_HINT = "in place of onnxruntime: pip uninstall --yes onnxruntime && pip install --force-reinstall onnxruntime-gpu cuda-bindings"
SETTINGS = {"arena_extend_strategy": "kSameAsRequested"}  # of the provider: memory grows by what is asked for instead of doubling
WORK = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "Resize", "GridSample"}  # operators that belong on the GPU
# Before it, kernels gave memory back that a recorded graph would read again: the tables in host memory of a Split into unequal sizes, a
# Concat of such or a MatMul that repeats a side (to 1.29), and the ones by which Gemm spread its bias (to 1.30).
CAPTURES_FROM = (1, 31)
TO_BYTES = Path(__file__).with_name("cuda") / "to_bytes.onnx"  # a picture of any size as sdic_export.graphs.bytes_graph makes it


def open_cuda(bundle: Bundle, precision: str | None, index: int, threads: int | None, tf32: bool, graphs: bool) -> OnnxRuntimeCuda:
    """The backend, its stages not loaded yet. Raises SdicError that says what is missing."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # finds the libraries that came as wheels
        onnxruntime.preload_dlls()
    if PROVIDERS[CUDA] not in onnxruntime.get_available_providers():
        raise BackendError(f'the device "cuda" needs the package "onnxruntime-gpu"; {GPU_HINT}')
    # Every session would warn that CUDA is no plug-in here. ONNX Runtime says so by its default logger alone.
    onnxruntime.set_default_logger_severity(QUIET)
    half = HALF if HALF in bundle.manifest.precisions else None
    return OnnxRuntimeCuda(bundle, bundle.precision(precision or half), open_gpu(index), index, threads, tf32, graphs)


class OnnxRuntimeCuda(DeviceBackend):
    """One session per graph, on the GPU number `index`."""

    name = "onnxruntime"
    runs_before_capture = 2  # the first finds convolution algorithms, the second their memory

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        gpu: Gpu,
        index: int = 0,
        threads: int | None = None,
        tf32: bool = False,
        graphs: bool = True,
        standard: bool = False,
    ) -> None:
        """`standard`: run no graphs that are for CUDA alone."""
        import onnxruntime

        super().__init__(bundle.manifest, (0, bundle.manifest.sizes["R"]), gpu, (CUDA_DEVICE, index), graphs)
        self.bundle, self.precision = bundle, precision
        own = precision == HALF and not standard
        self.variants = (ONNXRUNTIME_CUDA, precision) if own else (precision,)  # those that it runs, best first
        self._index, self._threads, self._tf32 = index, threads, tf32
        self._sessions: dict[Graph, Any] = {}
        self._answers: dict[tuple[str, ...], tuple[Graph, Any]] = {}  # (stage, outputs asked for) -> what computes them
        self._locks = {stage: threading.Lock() for stage in bundle.manifest.stages}
        self._host_work: dict[str, int] = {}  # graph -> how many of its operators run on the CPU
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the stream keeps the order

    @property
    def description(self) -> str:
        import onnxruntime

        rounded = " with TF32" if self._tf32 else ""
        cost = self.bundle.manifest.psnr.get(self.precision)
        against = f" ({cost:.1f} dB against fp32, measured on a CPU)" if cost is not None else ""
        where = f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[CUDA]}"
        return f"{where}, {self.precision}{rounded}{against}, {self.graphs_in_words}, {self.gpu.name}"

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        graph, _ = self.bundle.graph(stage, outputs, self.variants)
        return graph.key, graph.variant

    def standard(self) -> OnnxRuntimeCuda | None:
        if len(self.variants) == 1 or not any(ONNXRUNTIME_CUDA in choices for choices in self.bundle.manifest.graphs.values()):
            return None
        switches = (self._threads, self._tf32, self.graph_obstacle is None)
        return OnnxRuntimeCuda(self.bundle, self.precision, self.gpu, self._index, *switches, standard=True)

    def load_stage(self, stage: str, hashed: bool = True) -> None:
        """Load every session that `stage` can be asked for; `hashed`: see `Bundle.file`."""
        outputs = self.method.stages[stage].outputs
        for asked in (outputs, *((output,) for output in outputs)):
            self._answer(stage, asked, hashed)

    def enqueue_stage(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        session = self._answer(stage, outputs)
        batch = next(iter(inputs.values())).shape[0]
        if batch > 1 and for_one(session):
            each = [
                self._enqueue_outputs(stage, session, {name: tensor.part(index, index + 1) for name, tensor in inputs.items()}, outputs)
                for index in range(batch)
            ]
            return {name: self._joined([results[name] for results in each]) for name in outputs}
        return self._enqueue_outputs(stage, session, inputs, outputs)

    def enqueue_bytes(self, picture: DeviceTensor) -> tuple[DeviceTensor, DeviceTensor]:
        batch, side = picture.shape[0], self.method.sizes["R"]
        made, total = self.pool.tensor((batch, side, side, 3), np.uint8), self.pool.tensor((batch,))
        with readable("the picture could not be made", f"see: sdic-export verify {self.bundle.path}", self._place):
            self._enqueue(self._bytes_session, {PICTURE: picture}, {"bytes": made, "total": total})
        return made, total

    def capture_obstacle(self, batch: int) -> str | None:
        for graph, count in self._host_work.items():
            return f'{count} operators of "{graph}" run on the CPU'
        import onnxruntime

        version = onnxruntime.__version__
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < CAPTURES_FROM:
            return f"ONNX Runtime {version} does not keep the memory that they read; {'.'.join(map(str, CAPTURES_FROM))} does"
        return None

    def release(self) -> None:
        self.__dict__.pop("_bytes_session", None)
        self._answers.clear()
        self._sessions.clear()

    @property
    def _place(self) -> str:
        return f"{CUDA}:{self._index}"

    @cached_property
    def _bytes_session(self) -> Any:
        return self._create("to_bytes", TO_BYTES, channels_last=False)

    def _enqueue_outputs(
        self, stage: str, session: Any, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]
    ) -> dict[str, DeviceTensor]:
        batch = next(iter(inputs.values())).shape[0]
        results = {name: self.pool.tensor(self.method.shape(name, batch)) for name in outputs}
        with readable(f'the stage "{stage}" failed', f"see: sdic-export verify {self.bundle.path}", self._place):
            self._enqueue(session, inputs, results)
        return results

    def _enqueue(self, session: Any, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> None:
        binding = session.io_binding()
        read = {name: self.readable(tensor) for name, tensor in inputs.items()}  # copies stay until the run is put on the stream
        for name, tensor in read.items():
            binding.bind_input(name, CUDA, self._index, tensor.dtype, tensor.shape, tensor.address)
        for name, tensor in outputs.items():
            binding.bind_output(name, CUDA, self._index, tensor.dtype, tensor.shape, tensor.address)
        session.run_with_iobinding(binding, self._run_options)

    def _answer(self, stage: str, outputs: Sequence[str], hashed: bool = True) -> Any:
        """The session that computes `outputs` of `stage` with the least work, made on first use; `hashed`: see `Bundle.file`."""
        request = (stage, *outputs)
        if request not in self._answers:
            with self._locks[stage]:
                graph, (path,) = self.bundle.graph(stage, outputs, self.variants, hashed)
                if graph not in self._sessions:
                    self._sessions[graph] = self._load(graph, path)
                self._answers[request] = graph, self._sessions[graph]
        return self._answers[request][1]

    def _load(self, graph: Graph, path: Path) -> Any:
        """The session of a graph, with its tensors checked, and nothing of weight on the CPU."""
        name = graph.key.partition(":")[0]
        whole = self.method.stage(name)
        session = self._create(name, path, graph.variant == ONNXRUNTIME_CUDA)
        check_tensors(name, Stage(whole.inputs, (graph.alone,)) if graph.alone else whole, session, path)
        check_shapes(self.method, session, path)
        if for_one(session):
            self.largest_batch = 1  # unless somebody asks for more: the pictures of a batch would only wait for each other here
        on_cpu = _on_cpu(session)
        if heavy := sorted(WORK.intersection(on_cpu)):
            why = f'ONNX Runtime would run {", ".join(heavy)} of "{graph.key}" on the CPU'
            raise BackendError(f'{why}; check that cuDNN is installed for its CUDA version, or use device="cpu"')
        if on_cpu:
            self._host_work[graph.key] = len(on_cpu)
        return session

    def _create(self, name: str, path: Path, channels_last: bool) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.enable_mem_pattern = False  # would add a block of memory for each new batch size
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        told = hasattr(
            onnxruntime.InferenceSession, "get_provider_graph_assignment_info"
        )  # in later versions; before, the rule is stricter
        if not told:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # Without "TF32" ONNX Runtime keeps convolutions off the tensor cores in half precision too.
        switches = {"use_tf32": self._tf32 or self.precision != STANDARD, "prefer_nhwc": channels_last}
        own = {"device_id": str(self._index), "user_compute_stream": str(self.stream)}
        settings = {**SETTINGS, **own, **{key: str(int(on)) for key, on in switches.items()}}
        providers = [(PROVIDERS[CUDA], settings), *([(PROVIDERS[CPU], {})] if told else [])]
        return session_of(self.bundle, name, path, options, providers, self._place)


def _on_cpu(session: Any) -> list[str]:
    """The operators of a session that run on the CPU; none where this ONNX Runtime does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    placed = session.get_provider_graph_assignment_info()
    return [node.op_type for part in placed if part.ep_name == PROVIDERS[CPU] for node in part.get_nodes()]
