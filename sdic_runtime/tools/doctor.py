"""What `sdic-run doctor` finds out about this machine, about bundles and about the checkpoint files that a user holds."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sdic_runtime.backends.onnxruntime_cuda import GPU_HINT
from sdic_runtime.cpus import available_cpus
from sdic_runtime.directions import KINDS
from sdic_runtime.errors import MissingExtraError, SdicError, printable
from sdic_runtime.files import sha256
from sdic_runtime.parsing.contents import METADATA, OTHER, SAFETENSORS, content_of, safetensors_header
from sdic_runtime.tools.public_files import DIRECTION, PublicFile, candidates, known, same_size

OK, NOTE, PROBLEM = "ok", "note", "problem"
# What saved inversions, directions and PCA bases say of themselves: files without weights.
RESULT_METADATA = {"format": ("sdic-inversion",), "kind": tuple(KINDS.values())}
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
    "pooch": ("sdic-run download", 'pip install "sdic-toolkit[download]"'),
    "tensorrt": ("the tensorrt backend", 'pip install "sdic-toolkit[tensorrt]"'),
    "tensorrt-rtx": ("the tensorrt-rtx backend", 'pip install "sdic-toolkit[tensorrt-rtx]"'),
    "cuda-bindings": ("GPU memory and streams", "pip install cuda-bindings"),
    "pycuda": ("GPU memory and streams, instead of cuda-bindings", "pip install pycuda"),
}
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")  # each fills the folder "onnxruntime"


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
    content, size = content_of(path), path.stat().st_size
    if content.wrong and content.broken:
        yield Finding(PROBLEM, "content", f"this {content.wrong}")
        return
    digest = sha256(path)
    public = known(size, digest)
    yield from identity(path, size, digest, public)
    if content.form == SAFETENSORS:
        header = safetensors_header(path, size)[0] or {}
        if path.suffix.lower() != ".safetensors":
            yield Finding(NOTE, "format", f"a safetensors file called *{path.suffix}, read as what it is")
        yield from safetensors_findings(header)
        if any(header.get(METADATA, {}).get(key) in values for key, values in RESULT_METADATA.items()):
            return
    elif path.suffix.lower() == ".safetensors":
        yield Finding(NOTE, "format", "a PyTorch file called *.safetensors, read as what it is")
    if public is not None and public.licence == DIRECTION:
        return
    if content.form != OTHER:
        yield from deeper(path, public)
    elif public is None:
        yield Finding(NOTE, "content", f"this {content.wrong}")


def identity(path: Path, size: int, digest: str, public: PublicFile | None) -> Iterator[Finding]:
    """Size and hash against the table of public files, and what that comparison can say."""
    yield Finding(OK, "size", f"{size:,} bytes, SHA-256 {digest}")
    by_name, by_size = candidates(path.name), same_size(size)
    if public is not None:
        yield Finding(OK, "known as", f"{public.what} ({public.names[0]})")
        if public.sha256 is not None and len(public.sha256) < len(digest):
            yield Finding(
                NOTE, "identity", f"size and the first {len(public.sha256)} digits of the hash are as published; no listing has more"
            )
        yield Finding(NOTE, "licence", public.licence)
    elif by_size and all(entry.sha256 for entry in by_size):
        yield Finding(PROBLEM, "identity", f"as large as {by_size[0].what} but with another hash: damaged or altered, so download it again")
    elif by_name:
        yield Finding(NOTE, "identity", f"called like {by_name[0].what}, {_compared(by_name, size)}")
        yield Finding(NOTE, "licence", by_name[0].licence)
    else:
        yield Finding(NOTE, "identity", "not one of the publicly known files, which are told by size and hash")


def _compared(entries: Sequence[PublicFile], size: int) -> str:
    """What could be compared of a file that goes by the name of `entries` and is none of them by its hash."""
    hashed = [entry for entry in entries if entry.sha256]
    sizes = sorted({entry.bytes for entry in entries if entry.bytes})
    expected = f"; the known ones have {' or '.join(f'{value:,}' for value in sizes)} bytes" if sizes else ""
    if hashed:
        return f"with a hash that is in no public listing{expected}"
    same = "; its size is the published one" if size in sizes else expected
    return (
        f"whose hash was never published, so that its content can be looked at, and not its origin{same}; compare the SHA-256 with that "
        "of someone who has the file from its authors"
    )


def safetensors_findings(header: dict[str, Any]) -> Iterator[Finding]:
    """The tensors of a safetensors file and its metadata."""
    tensors = [f"{name} {entry['dtype']}{entry['shape']}" for name, entry in header.items() if name != METADATA]
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    yield Finding(OK, "tensors", f"{len(tensors)}: {', '.join(tensors[:SHOWN])}{more}")
    for key, value in header.get(METADATA, {}).items():
        yield Finding(OK, f"metadata {key}", str(value)[:200])


def deeper(path: Path, public: PublicFile | None = None) -> Iterator[Finding]:
    """What installed packages can say about the inside of a checkpoint, through the entry points of group `sdic.doctor`: pairs of a topic
    and a sentence; a topic that ends in "?" is a question, which the user has to answer."""
    for entry in metadata.entry_points(group=DOCTOR_GROUP):
        try:
            describe: Callable[[Path], list[tuple[str, str]]] = entry.load()
            for subject, text in describe(path):
                yield Finding(NOTE if subject.endswith("?") else OK, subject, text)
        except (MissingExtraError, ImportError):
            yield Finding(NOTE, entry.name, 'keys, generator size and latent_avg can be read with: pip install "sdic-toolkit[train]"')
        except SdicError as error:
            # A network that judges pictures, say, is no checkpoint, and a public file all the same.
            yield Finding(PROBLEM if public is None else NOTE, entry.name, str(error))
