"""ONNX Runtime sessions: how one is made, what it must have, and its errors in one sentence."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdic_runtime.backends.bands import REBUILD
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import BackendError, BundleError, OutOfMemoryError
from sdic_runtime.files import open_regular
from sdic_runtime.program import Method, Stage

CPU, CUDA = "cpu", "cuda"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
MEMORY_SIGNS = ("bad allocation", "bad_alloc", "failed to allocate memory", "out of memory", "bfcarena")
QUIET = 3  # ONNX Runtime's log level for errors only
FLOAT = "tensor(float)"
NEEDED_FOR_LINKS = "add_external_initializers_from_files_in_memory"  # of its options, in later versions


def session_of(bundle: Bundle, name: str, path: Path, options: Any, providers: Sequence[tuple[str, Mapping[str, str]]], device: str) -> Any:
    """The session of the graph `path`, of the stage `name`, on the first of `providers`. Raises SdicError where that does not start."""
    import onnxruntime

    with readable(f'the stage "{name}" could not be loaded from {path}', f"see: sdic-export verify {bundle.path}", device):
        own = path.is_relative_to(bundle.path)
        read = _bring_outside(options, bundle.outside(path) if own else {})  # must be there until the session is
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
        del read
    # ONNX Runtime goes on with the CPU when CUDA cannot start, and only logs it.
    if providers[0][0] not in session.get_providers():
        why = f'ONNX Runtime could not start on "{device}"'
        raise BackendError(f'{why}; check the NVIDIA driver and the CUDA and cuDNN libraries, or use device="cpu"')
    return session


@contextmanager
def readable(what: str, remedy: str, device: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into one sentence; running out of memory is named as such."""
    expected: tuple[type[Exception], ...] = (*error_types(), MemoryError, ValueError)
    try:
        yield
    except expected as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
            raise OutOfMemoryError(f"{what}: not enough memory on {device}; use a smaller batch") from error
        raise BackendError(f"{what}: {text[:300]}; {remedy}") from error


def _bring_outside(options: Any, weights: Mapping[str, Path]) -> list[mmap.mmap]:
    """Hand over weights whose files are links out of their folder, which ONNX Runtime does not follow; their hashes were compared. What is
    returned must be kept until the session is made. Raises BundleError."""
    maps: list[mmap.mmap] = []
    if not weights:
        return maps
    if not hasattr(options, NEEDED_FOR_LINKS):
        first = next(iter(weights.values()))
        raise BundleError(f"{first} is a link out of its folder, which this ONNX Runtime does not follow; update it, or use: cp -rL")
    for path in weights.values():
        with open_regular(path) as stream:
            maps.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    getattr(options, NEEDED_FOR_LINKS)(list(weights), maps, [len(data) for data in maps])
    return maps


def error_types() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime defines; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def check_tensors(name: str, stage: Stage, session: Any, path: Path) -> None:
    """The graph's tensors are those of the stage table, in float32 at the borders."""
    for role, names, infos in (("inputs", stage.inputs, session.get_inputs()), ("outputs", stage.outputs, session.get_outputs())):
        found = {info.name: info.type for info in infos}
        if set(found) != set(names) or set(found.values()) != {FLOAT}:
            listed = ", ".join(f"{name} {kind}" for name, kind in found.items())
            raise BundleError(f'{path} has the {role} {listed} where the stage "{name}" has {", ".join(names)} in float32; {REBUILD}')


def check_shapes(method: Method, session: Any, path: Path) -> None:
    """What a graph says of its shapes agrees with the sizes of the bundle."""
    for info in (*session.get_inputs(), *session.get_outputs()):
        found, expected = info.shape[1:], method.shape(info.name, 1)[1:]
        known = {axis: size for axis, size in enumerate(found) if isinstance(size, int)}
        if len(found) != len(expected) or any(expected[axis] != size for axis, size in known.items()):
            sizes = f"[N, {', '.join(map(str, expected))}]"
            raise BundleError(f"{path} has {info.name} as {list(info.shape)} where the bundle's sizes say {sizes}; {REBUILD}")
