"""What `sdic-run doctor` finds out about this machine, about bundles and about the checkpoint files that a user holds."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from sdic_runtime.backends.onnxruntime import GPU_HINT
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import MissingExtraError, SdicError, printable
from sdic_runtime.files import open_regular, sha256
from sdic_runtime.json_text import LARGEST, JsonError, convert, parse_json
from sdic_runtime.tools.public_files import DIRECTION, PublicFile, candidates, known, same_size

OK, NOTE, PROBLEM = "ok", "note", "problem"
HTML_SIGNS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
PYTORCH_SIGNS = (b"PK\x03\x04", b"\x80\x02")  # what torch.save writes: an archive, and in earlier versions a pickle
# What saved inversions, directions and PCA bases say of themselves: files without weights.
RESULT_METADATA = {"format": ("sdic-inversion",), "kind": ("direction", "pca")}
METADATA = "__metadata__"  # of a safetensors header
SHOWN = 8  # tensors of a file
LONGEST_SUBJECT, LONGEST_FINDING = 120, 1000  # characters
DOCTOR_GROUP = "sdic.doctor"
DRIVER_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader")
DRIVER_SECONDS = 20

# Package -> what it is for, and what installs it; "" for a package that is always needed.
PACKAGES: dict[str, tuple[str, str]] = {
    "numpy": ("arrays", ""),
    "pillow": ("pictures", ""),
    "safetensors": ("tensor files", ""),
    "onnxruntime": ("the onnxruntime backend on a CPU", ""),
    "onnxruntime-gpu": ("the onnxruntime backend on an NVIDIA GPU", GPU_HINT),
    "torch": ("the torch backend, training and export", 'pip install "sdic-toolkit[train]"'),
    "onnx": ("export", 'pip install "sdic-toolkit[export]"'),
    "onnxscript": ("export", 'pip install "sdic-toolkit[export]"'),
    "tensorrt": ("the tensorrt backend", 'pip install "sdic-toolkit[tensorrt]"'),
    "tensorrt-rtx": ("the tensorrt-rtx backend", 'pip install "sdic-toolkit[tensorrt-rtx]"'),
    "cuda-bindings": ("GPU memory and streams", 'pip install "sdic-toolkit[tensorrt]"'),
    "pycuda": ("GPU memory and streams, instead of cuda-bindings", "pip install pycuda"),
}
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")  # each fills the folder "onnxruntime"


class TensorEntry(msgspec.Struct):
    """What the header of a safetensors file says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Finding:
    """One line of the report: a level (ok, note or problem), what it is about, and one sentence."""

    level: str
    subject: str
    text: str

    def __post_init__(self) -> None:  # names and metadata are of whoever wrote the file
        object.__setattr__(self, "subject", printable(self.subject, LONGEST_SUBJECT))
        object.__setattr__(self, "text", printable(self.text, LONGEST_FINDING))


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
    python = f"{platform.python_version()} at {sys.executable}"
    machine = f"{platform.system()} {platform.release()} {platform.machine()}"
    system = f"{machine}, {available_cpus()} of {os.cpu_count()} CPUs for this process"
    environment = (Finding(OK, "python", python), Finding(OK, "system", system), *packages())
    return [Section("environment", environment), Section("gpu", tuple(gpus())), Section("backends", tuple(backends()))]


def packages() -> Iterator[Finding]:
    """Every package that some part uses: its version, or what is missing without it."""
    runtimes = [name for name in ONNX_RUNTIMES if _version(name)]
    for name, (purpose, install) in PACKAGES.items():
        found = _version(name)
        if found:
            yield Finding(OK, name, found)
        else:
            needed = not install and not (name == "onnxruntime" and runtimes)
            yield Finding(PROBLEM if needed else NOTE, name, f"not installed; for {purpose}: {install or f'pip install {name}'}")
    if len(runtimes) > 1:
        text = f"{' and '.join(runtimes)} are both installed, in the same folder, so that one has replaced files of the other"
        yield Finding(PROBLEM, "onnxruntime", f"{text}; keep one: pip uninstall {' '.join(runtimes)}, then install that one again")


def _version(package: str) -> str | None:
    """Of a distribution package, without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
    lines = [line for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not lines:
        words = (answer.stdout + answer.stderr).strip() or "it says nothing"
        yield Finding(NOTE, "nvidia", f"nvidia-smi shows no GPU: {words.splitlines()[0]}")
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
    with suppress(ImportError):
        import onnxruntime

        yield Finding(OK, "execution providers", ", ".join(onnxruntime.get_available_providers()))


def examine(path: Path) -> Section:
    """A section on one path: a bundle folder, or any file that a user may take for weights."""
    if path.exists() and not (path.is_dir() or path.is_file()):
        return Section(str(path), (Finding(PROBLEM, "path", "it is a pipe or a device and not a file; name a file or a folder"),))
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
    count = sound = len(manifest.files)
    for name in progress(sorted(manifest.files), "files of the bundle", unit="file"):
        try:
            bundle.file(name)
        except SdicError as error:
            sound -= 1
            yield Finding(PROBLEM, "file", str(error))
    whole = sum(entry.bytes for entry in manifest.files.values())
    yield Finding(OK if sound == count else PROBLEM, "files", f"{sound} of {count} are as the manifest says, {whole:,} bytes")
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
    header = safetensors_header(path, size)[0] if path.suffix == ".safetensors" else None
    if header is not None:
        yield from safetensors_findings(header)
        if any(header.get(METADATA, {}).get(key) in values for key, values in RESULT_METADATA.items()):
            return
    if public is not None and public.licence == DIRECTION:
        return
    if header is not None or _beginning(path).startswith(PYTORCH_SIGNS):
        yield from deeper(path)
    elif public is None:
        yield Finding(NOTE, "content", "neither a PyTorch file nor safetensors, so there is nothing more to say about it")


def identity(path: Path, size: int, digest: str, public: PublicFile | None) -> Iterator[Finding]:
    """Size and hash against the table of public files."""
    yield Finding(OK, "size", f"{size:,} bytes, SHA-256 {digest}")
    by_name, by_size = candidates(path.name), same_size(size)
    if public is not None:
        yield Finding(OK, "known as", f"{public.what} ({public.names[0]})")
        yield Finding(NOTE, "licence", public.licence)
    elif by_size:
        yield Finding(PROBLEM, "identity", f"as large as {by_size[0].what} but with another hash: damaged or altered, so download it again")
    elif by_name:
        sizes = sorted({entry.bytes for entry in by_name if entry.bytes})
        expected = f"; the known ones have {' or '.join(f'{value:,}' for value in sizes)} bytes" if sizes else ""
        yield Finding(NOTE, "identity", f"called like {by_name[0].what}, with a hash that is in no public listing{expected}")
        yield Finding(NOTE, "licence", by_name[0].licence)
    else:
        yield Finding(NOTE, "identity", "not one of the publicly known files")


def _beginning(path: Path, count: int = 4096) -> bytes:
    with open_regular(path) as stream:
        return stream.read(count)


def damaged(path: Path, size: int) -> str | None:
    """Why the file cannot be weights at all, from its first bytes and its structure; None when nothing speaks against it."""
    if size == 0:
        return "the file is empty; download it again"
    beginning = _beginning(path)
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_SIGNS):
        quota = " (it speaks of a download quota)" if b"quota" in _beginning(path, 200_000).lower() else ""
        return f"this is a web page, not weights{quota}; open the link in a browser, or download the file again later"
    if beginning.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if beginning.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"the archive ends early after {size:,} bytes: the download was cut off, so download it again"
    if path.suffix == ".safetensors":
        header, announced = safetensors_header(path, size)
        if header is None:
            return "this is no safetensors file: its header cannot be read; write or download it again"
        if announced != size:
            return f"the file has {size:,} bytes where its header announces {announced:,}: cut off, so write or download it again"
    return None


def safetensors_header(path: Path, size: int) -> tuple[dict[str, Any] | None, int]:
    """The header of a safetensors file, None when there is none that fits into the file; and how many bytes the file should have."""
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 8 + length <= size and length <= LARGEST else b""
    try:
        header = parse_json(text, dict[str, Any])
        convert(header.get(METADATA, {}), dict[str, str])
        entries = convert({name: entry for name, entry in header.items() if name != METADATA}, dict[str, TensorEntry])
    except JsonError:
        return None, size
    return header, 8 + length + max((entry.data_offsets[1] for entry in entries.values()), default=0)


def safetensors_findings(header: dict[str, Any]) -> Iterator[Finding]:
    """The tensors of a safetensors file and its metadata."""
    tensors = [f"{name} {entry['dtype']}{entry['shape']}" for name, entry in header.items() if name != METADATA]
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    yield Finding(OK, "tensors", f"{len(tensors)}: {', '.join(tensors[:SHOWN])}{more}")
    for key, value in header.get(METADATA, {}).items():
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
