"""What `sdic-run doctor` finds out about this machine, about bundles and about the checkpoint files that a user holds."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sdic_runtime.backends.onnxruntime import GPU_HINT
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.files import sha256
from sdic_runtime.tools.public_files import DIRECTION, PublicFile, candidates, known, same_size

OK, NOTE, PROBLEM = "ok", "note", "problem"
HTML_SIGNS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
PYTORCH_SIGNS = (b"PK\x03\x04", b"\x80\x02")
# What saved inversions, directions and PCA bases say of themselves: files without weights.
RESULT_METADATA = {"format": ("sdic-inversion",), "kind": ("direction", "pca")}
DOCTOR_GROUP = "sdic.doctor"
DRIVER_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader")
DRIVER_SECONDS = 20

# Package -> what it is for, and the extra that brings it; None for a package that is always needed.
PACKAGES: dict[str, tuple[str, str | None]] = {
    "numpy": ("arrays", None),
    "pillow": ("pictures", None),
    "safetensors": ("tensor files", None),
    "onnxruntime": ("the onnxruntime backend on a CPU", None),
    "onnxruntime-gpu": ("the onnxruntime backend on an NVIDIA GPU", None),
    "torch": ("the torch backend, training and export", "train"),
    "onnx": ("export", "export"),
    "onnxscript": ("export", "export"),
    "tensorrt": ("the tensorrt backend", "tensorrt"),
    "tensorrt-rtx": ("the tensorrt-rtx backend", "tensorrt-rtx"),
    "cuda-bindings": ("GPU memory and streams", "tensorrt"),
    "pycuda": ("GPU memory and streams, instead of cuda-bindings", None),
}
OPTIONAL = frozenset({"pycuda", "onnxruntime-gpu"})
ADVICE = {"onnxruntime-gpu": GPU_HINT}
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")  # each fills the folder "onnxruntime"


@dataclass(frozen=True)
class Finding:
    """One line of the report: a level (ok, note or problem), what it is about, and one sentence."""

    level: str
    subject: str
    text: str


@dataclass(frozen=True)
class Section:
    """The findings about one thing."""

    title: str
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return all(finding.level != PROBLEM for finding in self.findings)


def examine_machine() -> list[Section]:
    """Sections on Python and packages, on the GPU and on the backends."""
    return [Section("environment", (*environment(), *packages())), Section("gpu", tuple(gpus())), Section("backends", tuple(backends()))]


def environment() -> Iterator[Finding]:
    """The interpreter and the machine."""
    yield Finding(OK, "python", f"{platform.python_version()} at {sys.executable}")
    yield Finding(
        OK,
        "system",
        f"{platform.system()} {platform.release()} {platform.machine()}, {available_cpus()} of {os.cpu_count()} CPUs for this process",
    )


def packages() -> Iterator[Finding]:
    """Every package that some part uses: its version, or what is missing without it."""
    for name, (purpose, extra) in PACKAGES.items():
        try:
            yield Finding(OK, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            advice = f'pip install "sdic-toolkit[{extra}]"' if extra else ADVICE.get(name, f"pip install {name}")
            needed = extra is None and name not in OPTIONAL and not (name == "onnxruntime" and any(map(_installed, ONNX_RUNTIMES)))
            yield Finding(PROBLEM if needed else NOTE, name, f"not installed; for {purpose}: {advice}")
    both = [name for name in ONNX_RUNTIMES if _installed(name)]
    if len(both) > 1:
        text = f"{' and '.join(both)} are both installed, in the same folder, so that one has replaced files of the other"
        yield Finding(PROBLEM, "onnxruntime", f"{text}; keep one: pip uninstall {' '.join(both)}, then install that one again")


def _installed(package: str) -> bool:
    """Whether a distribution package is there, without importing it."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def gpus() -> Iterator[Finding]:
    """The NVIDIA GPUs that the driver shows."""
    if shutil.which(DRIVER_QUERY[0]) is None:
        yield Finding(NOTE, "nvidia", "no NVIDIA driver seen (nvidia-smi is not on the path); the CPU backends work without one")
        return
    try:
        answer = subprocess.run(DRIVER_QUERY, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(NOTE, "nvidia", f"nvidia-smi does not answer: {error}")
        return
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not lines:
        words = (answer.stdout + answer.stderr).strip().splitlines()
        yield Finding(NOTE, "nvidia", f"nvidia-smi shows no GPU: {words[0] if words else 'it says nothing'}")
        return
    for index, line in enumerate(lines):
        name, driver, memory, capability = (part.strip() for part in line.split(",", 3))
        yield Finding(OK, f"gpu {index}", f"{name}, driver {driver}, {memory}, compute capability {capability}")


def backends() -> Iterator[Finding]:
    """Every registered backend, usable here or why not, and the execution providers of ONNX Runtime."""
    from sdic_runtime.backends.registry import available_backends

    for name, entry in available_backends().items():
        obstacle = entry.unavailable()
        yield Finding(OK if obstacle is None else NOTE, name, "usable" if obstacle is None else f"not usable here: {obstacle}")
    try:
        import onnxruntime
    except ImportError:
        return
    yield Finding(OK, "execution providers", ", ".join(onnxruntime.get_available_providers()))


def examine(path: Path) -> Section:
    """A section on one path: a bundle folder, or any file that a user may take for weights."""
    if not path.exists():
        return Section(str(path), (Finding(PROBLEM, "path", f'there is no "{path}"; check the path'),))
    return Section(str(path), tuple(bundle_findings(path) if path.is_dir() else file_findings(path)))


def bundle_findings(path: Path) -> Iterator[Finding]:
    """A bundle's manifest, and every file of it compared with its size and hash."""
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.progress import progress

    try:
        bundle = Bundle.open(path)
    except SdicError as error:
        yield Finding(PROBLEM, "bundle", str(error))
        return
    manifest = bundle.manifest
    sizes = ", ".join(f"{name} {value}" for name, value in manifest.sizes.items())
    yield Finding(OK, "bundle", f"{manifest.name}: {manifest.method}, domain {manifest.domain}, {sizes}")
    sound = 0
    for name in progress(sorted(manifest.files), "files of the bundle", unit="file"):
        try:
            bundle.file(name)
            sound += 1
        except SdicError as error:
            yield Finding(PROBLEM, "file", str(error))
    whole = sum(entry.bytes for entry in manifest.files.values())
    level = OK if sound == len(manifest.files) else PROBLEM
    yield Finding(level, "files", f"{sound} of {len(manifest.files)} are as the manifest says, {whole:,} bytes")
    yield Finding(OK, "precisions", f"{', '.join(manifest.precisions)}; {manifest.default_precision} when none is named")
    yield Finding(OK if manifest.directions else NOTE, "directions", ", ".join(sorted(manifest.directions)) or "none in this bundle")
    if manifest.golden is None:
        yield Finding(NOTE, "golden", "no golden tensors, so sdic-export verify has nothing to check this bundle against")
    yield Finding(OK, "tools", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items())) or "not recorded")
    licence = manifest.licence or "the bundle says nothing about the licence of its weights"
    yield Finding(OK if manifest.licence else NOTE, "licence", licence)


def file_findings(path: Path) -> Iterator[Finding]:
    """What a file is: its identity among the public files, whether it is whole, its licence, and what is inside."""
    size = path.stat().st_size
    damage = damaged(path, size)
    if damage is not None:
        yield Finding(PROBLEM, "content", damage)
        return
    digest = sha256(path)
    public = known(size, digest)
    yield from identity(path, size, digest, public)
    made_here = False
    if path.suffix == ".safetensors":
        metadata = (safetensors_header(path, size) or {}).get("__metadata__", {})
        made_here = any(metadata.get(key) in values for key, values in RESULT_METADATA.items())
        yield from safetensors_findings(path)
    if made_here or (public is not None and public.licence == DIRECTION):
        return
    if path.suffix == ".safetensors" or is_pytorch(path):
        yield from deeper(path)
    elif public is None:
        yield Finding(NOTE, "content", "neither a PyTorch file nor safetensors, so there is nothing more to say about it")


def is_pytorch(path: Path) -> bool:
    """Whether the file begins like one that torch.save wrote, in its present form (an archive) or its earlier one (a pickle)."""
    with path.open("rb") as stream:
        return stream.read(4).startswith(PYTORCH_SIGNS)


def identity(path: Path, size: int, digest: str, public: PublicFile | None) -> Iterator[Finding]:
    """Size and hash against the table of public files."""
    yield Finding(OK, "size", f"{size:,} bytes, SHA-256 {digest}")
    if public is not None:
        yield Finding(OK, "known as", f"{public.what} ({public.names[0]})")
        yield Finding(NOTE, "licence", public.licence)
        return
    by_name, by_size = candidates(path.name), same_size(size)
    if by_size:
        yield Finding(PROBLEM, "identity", f"as large as {by_size[0].what} but with another hash: damaged or altered, so download it again")
    elif by_name:
        sizes = sorted({entry.bytes for entry in by_name if entry.bytes})
        expected = f"; the known ones have {' or '.join(f'{value:,}' for value in sizes)} bytes" if sizes else ""
        yield Finding(NOTE, "identity", f"called like {by_name[0].what}, with a hash that is in no public listing{expected}")
        yield Finding(NOTE, "licence", by_name[0].licence)
    else:
        yield Finding(NOTE, "identity", "not one of the publicly known files")


def damaged(path: Path, size: int) -> str | None:
    """Why the file cannot be weights at all, from its first bytes and its structure; None when nothing speaks against it."""
    if size == 0:
        return "the file is empty; download it again"
    with path.open("rb") as stream:
        beginning = stream.read(4096)
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_SIGNS):
        quota = " (it speaks of a download quota)" if b"quota" in path.read_bytes()[:200_000].lower() else ""
        return f"this is a web page, not weights{quota}; open the link in a browser, or download the file again later"
    if beginning.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if beginning.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"the archive ends early after {size:,} bytes: the download was cut off, so download it again"
    if path.suffix == ".safetensors":
        return safetensors_damage(path, size)
    return None


def safetensors_header(path: Path, size: int) -> dict[str, dict[str, object]] | None:
    """The header of a safetensors file; None when there is none that fits into the file."""
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            return None
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return None
    return header if isinstance(header, dict) else None


def safetensors_damage(path: Path, size: int) -> str | None:
    """Why a safetensors file cannot be read: no header, or fewer bytes than the header announces."""
    header = safetensors_header(path, size)
    if header is None:
        return "this is no safetensors file: its header cannot be read; write or download it again"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[index]
    with path.open("rb") as stream:
        announced = 8 + struct.unpack("<Q", stream.read(8))[0] + max(ends, default=0)
    if announced != size:
        return f"the file has {size:,} bytes where its header announces {announced:,}: cut off, so write or download it again"
    return None


def safetensors_findings(path: Path) -> Iterator[Finding]:
    """The tensors of a safetensors file and its metadata, read from the header alone."""
    header = safetensors_header(path, path.stat().st_size) or {}
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    shown = ", ".join(f"{name} {entry['dtype']}{entry['shape']}" for name, entry in list(tensors.items())[:8])
    more = f" and {len(tensors) - 8} more" if len(tensors) > 8 else ""
    yield Finding(OK, "tensors", f"{len(tensors)}: {shown}{more}")
    for key, value in header.get("__metadata__", {}).items():
        yield Finding(OK, f"metadata {key}", str(value)[:200])


def deeper(path: Path) -> Iterator[Finding]:
    """What installed packages can say about the inside of a checkpoint, through the entry points of group `sdic.doctor`."""
    for entry in metadata.entry_points(group=DOCTOR_GROUP):
        try:
            describe: Callable[[Path], list[tuple[str, str]]] = entry.load()
            for subject, text in describe(path):
                yield Finding(OK, subject, text)
        except (MissingExtraError, ImportError):
            yield Finding(NOTE, entry.name, 'keys, generator size and latent_avg can be read with: pip install "sdic-toolkit[train]"')
        except SdicError as error:
            yield Finding(PROBLEM, entry.name, str(error))
