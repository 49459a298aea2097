"""The OpenVINO backend: float32 on any CPU, and bfloat16, about twice as fast, on CPUs that multiply in it."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.forks import leave, register
from sdic_runtime.backends.options import check_threads
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import OPENVINO, Graph, files_in
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.cpus import available_cpus, has_bfloat16
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, MissingExtraError, OutOfMemoryError
from sdic_runtime.program import Stage

CPU = "CPU"
BF16 = "bf16"
PRECISIONS = {STANDARD: "f32", BF16: "bf16"}  # ours -> OpenVINO's, which takes bf16 by itself where the CPU has it
MOST_LOADERS = 2  # stages that are loaded at the same time; each needs memory for its own weights twice
MEMORY_SIGNS = ("bad allocation", "bad_alloc", "cannot allocate memory", "out of memory", "failed to allocate", "not enough memory")
LARGE = 1 << 20  # bytes of a constant, above which it matters whether it is in memory twice
MAPPINGS = Path("/proc/self/maps")
DONT_NEED = 4  # Linux's number for MADV_DONTNEED
NO_BF16 = "this CPU does not multiply in bfloat16 (it has neither avx512_bf16 nor amx_bf16)"
REPORTS = "openvino_telemetry"
BUILD_AGAIN = "build it again with: sdic-export build"


def unavailable(bundle: Bundle | None = None, precision: str | None = None) -> str | None:
    """Why OpenVINO cannot be used here, or should not be chosen for `precision`; None when it can."""
    try:
        _imported()
    except ImportError:
        return 'it needs the package "openvino"; install it with: pip install "sdic-toolkit[openvino]"'
    if precision == BF16 and not has_bfloat16():
        return NO_BF16
    if precision == BF16 and bundle is not None and BF16 not in bundle.manifest.psnr:
        return f"{bundle.path} does not say what bf16 costs; measure it with: sdic-export bf16 {bundle.path}"
    return None


def precisions(bundle: Bundle, options: Mapping[str, Any]) -> list[str]:
    """Those that it runs any bundle in, beginning with the one that runs when none is named."""
    return list(PRECISIONS)


def load(bundle: Bundle, *, precision: str | None = None, threads: int | None = None, lazy: bool = False) -> OpenVino:
    """The stages of `bundle` as networks of OpenVINO on the CPU.

    `precision`: fp32, also when None and whatever the bundle's default, or bf16: the same graphs with products of bfloat16 and sums of
    float32. `threads`: CPU threads, all cores when None. `lazy=True` loads each stage on its first use instead of now. Raises SdicError.
    """
    backend = OpenVino(bundle, precision or STANDARD, threads)
    if not lazy:
        bundle.check(files_in(bundle.manifest, backend.variants))
        with ThreadPoolExecutor(min(MOST_LOADERS, available_cpus())) as pool:
            list(pool.map(backend.load_stage, bundle.manifest.stages))
    return backend


class Network:
    """A compiled graph for one picture and the memory of one run, which callers take in turn: a run has all threads anyway."""

    def __init__(self, request: Any) -> None:
        self._request, self._lock = request, threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """Fill `results`, arrays [N, ...], from `inputs` [N, ...]: one picture after the other is as fast as all at once."""
        with self._lock:
            for picture in range(len(next(iter(inputs.values())))):
                one = slice(picture, picture + 1)
                self._request.infer({name: array[one] for name, array in inputs.items()}, share_inputs=True)
                for name, result in results.items():
                    result[one] = self._request.get_tensor(name).data


class OpenVino(Backend):
    """One network per graph: OpenVINO computes every output of a graph, asked for or not. A tensor is a numpy array."""

    name = "openvino"
    least_away = 0.25  # by measurement: what lies between two parts is copied, and changes its layout
    variants: tuple[str, ...] = (OPENVINO, STANDARD)  # those that it runs, best first

    def __init__(self, bundle: Bundle, precision: str = STANDARD, threads: int | None = None) -> None:
        super().__init__(bundle.manifest)
        if precision not in PRECISIONS:
            raise ArgumentError(f'OpenVINO runs in {" or ".join(PRECISIONS)} and not in "{precision}"; name one of them')
        check_threads(threads)
        self._core = _core()
        if precision == BF16 and not has_bfloat16():
            raise BackendError(f"{NO_BF16}, so that bf16 would not be faster; use precision fp32")
        bundle.precision(STANDARD)  # the graphs of either precision
        self.bundle, self.precision, self._threads = bundle, precision, threads
        self._networks: dict[Graph, Network] = {}
        self._locks = {stage: threading.Lock() for stage in (*bundle.manifest.stages, *bundle.manifest.parts)}
        self._closed = False
        register(self)

    def after_fork(self) -> None:
        """In a new process: see `OnnxRuntime.after_fork`."""
        leave(self._networks)
        self._core, self._networks = _core(), {}
        self._locks = {stage: threading.Lock() for stage in self._locks}

    @property
    def description(self) -> str:
        import openvino

        psnr = self.bundle.manifest.psnr.get(BF16)
        cost = f"{psnr:.1f} dB" if psnr is not None else "not measured on this bundle"
        return f"OpenVINO {openvino.__version__.partition('-')[0]}, CPU, {self.precision}" + (
            f" (against fp32: {cost})" if self.precision == BF16 else ""
        )

    def load_stage(self, stage: str) -> None:
        """Load every network that `stage` can be asked for."""
        outputs = self.method.stages[stage].outputs
        for asked in (outputs, *((output,) for output in outputs)):
            self._network(stage, asked)

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        graph, _ = self.bundle.graph(stage, outputs, self.variants)
        return graph.key, graph.variant

    def standard(self) -> OpenVino | None:
        if not any(OPENVINO in choices for choices in self.bundle.manifest.graphs.values()):
            return None
        again = OpenVino(self.bundle, self.precision, self._threads)
        again.variants = (STANDARD,)
        return again

    def runs(self, stage: str) -> bool:
        manifest, own = self.bundle.manifest, self.variants[0]
        if stage in manifest.stages:
            return True
        whole, parts = next(((name, cut.stages) for name, cut in manifest.cuts.items() if stage in cut.stages), ("", {}))
        graphs = [manifest.part_graphs.get(part, {}) for part in parts]
        # Parts that are not in the form of the whole stage would be slower, and round in another way.
        alike = own not in manifest.graphs.get(whole, {}) or any(own in variants for variants in graphs)
        return alike and any(variant in self.variants for variant in manifest.part_graphs.get(stage, ()))

    def close(self) -> None:
        self._closed = True
        with ExitStack() as loading:  # what other threads load now would come after this
            for lock in self._locks.values():
                loading.enter_context(lock)
            self._networks.clear()

    def _network(self, stage: str, outputs: Sequence[str]) -> Network:
        """What computes `outputs` of `stage` with the least work, made on first use."""
        graph, paths = self.bundle.graph(stage, outputs, self.variants)
        with self._locks[stage]:
            if self._closed:
                raise BackendError("the pipeline was closed; load the bundle again")
            if graph not in self._networks:
                if len(paths) > 1:
                    raise BundleError(f'the variant "{graph.variant}" of {graph.key} is in bands of rows, which OpenVINO does not run')
                whole = self.method.stage(stage)
                table = Stage(whole.inputs, (graph.alone,)) if graph.alone else whole
                self._networks[graph] = self._load(stage, table, paths[0])
            return self._networks[graph]

    def _load(self, name: str, stage: Stage, path: Path) -> Network:
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision],
            "INFERENCE_NUM_THREADS": self._threads or available_cpus(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # processes side by side would share the first cores and leave the others idle
        }
        self.bundle.refuse_links("OpenVINO", path)
        with self._readable(f'the stage "{name}" could not be loaded from {path}'):
            model = self._core.read_model(str(path))
            self._check(name, path, model, stage)
            model.reshape({tensor: list(self.method.shape(tensor, 1)) for tensor in stage.inputs})
            compiled = self._core.compile_model(model, CPU, options)
            _unmap_weights(model)
            return Network(compiled.create_infer_request())

    def _check(self, name: str, path: Path, model: Any, stage: Stage) -> None:
        """The graph's tensors are those of the stage table, in float32 at the borders, in shapes that the bundle's sizes allow."""
        from openvino import PartialShape

        for role, names, ports in (("inputs", stage.inputs, model.inputs), ("outputs", stage.outputs, model.outputs)):
            found = {port.get_any_name(): port for port in ports}
            if set(found) != set(names) or any(port.get_element_type().get_type_name() != "f32" for port in ports):
                listed = ", ".join(f"{tensor} {port.get_element_type().get_type_name()}" for tensor, port in found.items())
                raise BundleError(
                    f'{path} has the {role} {listed} where the stage "{name}" has {", ".join(names)} in float32; {BUILD_AGAIN}'
                )
            for tensor, port in found.items():
                expected = self.method.shape(tensor, 1)
                if not port.get_partial_shape().compatible(PartialShape(list(expected))):
                    sizes = ", ".join(map(str, expected[1:]))
                    raise BundleError(
                        f"{path} has {tensor} as {port.get_partial_shape()} where the bundle's sizes say [N, {sizes}]; {BUILD_AGAIN}"
                    )

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, np.float32)

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        network = self._network(stage, outputs)
        counts = {len(array) for array in inputs.values()}
        with self._readable(f'the stage "{stage}" failed'):
            if len(counts) != 1:
                raise ValueError(f"the inputs are for {' and '.join(map(str, sorted(counts)))} pictures")
            count = counts.pop()
            results = {name: np.empty(self.method.shape(name, count), np.float32) for name in outputs}
            network.run({name: np.ascontiguousarray(array) for name, array in inputs.items()}, results)
        return results

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Turn what OpenVINO raises into one sentence; running out of memory is named as such."""
        try:
            yield
        except BundleError:
            raise
        except (RuntimeError, MemoryError, ValueError) as error:
            lines = [line for line in str(error).splitlines() if not line.startswith("Exception from ")]
            text = " ".join(" ".join(lines).split())
            if isinstance(error, MemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
                raise OutOfMemoryError(f"{what}: not enough memory; use a smaller batch, or close other programs") from error
            raise BackendError(f"{what}: {text[:300]}; see: sdic-export verify {self.bundle.path}") from error


def _unmap_weights(model: Any) -> None:
    """Take the weights that `model` maps from files out of this process's memory, on Linux: OpenVINO keeps the mapping beside its packed
    copy and does not read it again. What is mapped read-only from a file comes back from there if it is read after all."""
    addresses = [op.data.ctypes.data for op in model.get_ops() if op.get_type_name() == "Constant" and op.get_byte_size() >= LARGE]
    try:
        lines = [line.split() for line in MAPPINGS.read_text(encoding="utf-8", errors="replace").splitlines()]
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    for area, rights, *_ in (line for line in lines if len(line) > 5 and line[5].startswith("/")):
        first, end = (int(part, 16) for part in area.split("-"))
        if rights.startswith("r--") and any(first <= address < end for address in addresses):
            advise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), DONT_NEED)


def _core() -> Any:
    """OpenVINO itself, once per process."""
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:
    try:
        core = _imported().Core()
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", 'the backend "openvino"') from error
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(leave, core))
    return core


def _imported() -> Any:
    """The package, without its reports: it tells its maker of every import, unless the package that does so is missing. Raises
    ImportError."""
    missing = REPORTS not in sys.modules
    if missing:
        sys.modules[REPORTS] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if missing:
            del sys.modules[REPORTS]
