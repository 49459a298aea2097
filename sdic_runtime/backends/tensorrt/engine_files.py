"""Engines on disk: which settings and which GPU they were built for, and in words why one cannot be used here.

A bundle keeps them under `engines/<key>/`: one file per graph and the sidecar `engine.json`. The key names the target, its version, the
place the engines run on and the settings; the sidecar also holds the hash of every ONNX file, so an engine that fell behind its graph is
found before it is loaded. Nothing here loads TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import SdicError
from sdic_runtime.files import reason, replacing, sha256
from sdic_runtime.stages import STAGES

SCHEMA = 1
SIDECAR = "engine.json"
FOLDER = "engines"
ENGINE_SUFFIX = ".engine"
HASH_DIGITS = 8
TO_BYTES = "to_bytes"  # no stage: the graph that turns `picture` into bytes, made with the engines
TO_BYTES_VERSION = 1
RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")  # what a TensorRT-RTX engine is built for when nothing is said; it also runs on later ones
HARDWARE = ("exact", "same-capability", "ampere-plus")
WEIGHTS = ("included", "stripped")


@dataclass(frozen=True)
class Target:
    """One of the two libraries that build and run engines."""

    name: str  # the backend's name, and the --target
    module: str
    title: str
    needs_gpu: bool  # whether a build needs a GPU


TARGETS = {
    target.name: target
    for target in (Target("tensorrt", "tensorrt", "TensorRT", True), Target("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", False))
}


@dataclass(frozen=True)
class GpuAttributes:
    """What an engine depends on of a GPU; two cards of one name may differ in it."""

    compute_capability: str  # "8.9"
    multiprocessors: int
    memory_bus_bits: int
    l2_cache_bytes: int
    shared_memory_bytes: int  # per multiprocessor
    total_memory_bytes: int
    error_correction: bool
    name: str = field(default="", compare=False)  # for people only


@dataclass(frozen=True)
class Profile:
    """The batch sizes of an engine: the smallest and the largest it takes, and the one it is fastest at."""

    smallest: int = 1
    best: int = 1
    largest: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest:
            raise SdicError(f"the batch profile is {self}; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,1,4")

    def __str__(self) -> str:
        return f"{self.smallest},{self.best},{self.largest}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read "1,1,4". Raises SdicError."""
        try:
            smallest, best, largest = (int(part) for part in text.split(","))
        except ValueError:
            raise SdicError(f'the batch profile is "{text}"; give MIN,OPT,MAX such as 1,1,4') from None
        return cls(smallest, best, largest)


@dataclass(frozen=True)
class EngineSettings:
    """What was asked of the builder. `workspace_bytes` None leaves the limit to the builder."""

    precision: str = "fp16"
    profile: Profile = Profile()
    compute_capabilities: tuple[str, ...] = ()  # TensorRT-RTX alone; () is RTX_DEFAULT and later
    hardware: str = "exact"  # TensorRT alone: one of HARDWARE
    version_compatible: bool = False
    weights: str = "included"  # or "stripped": refitted from the ONNX files at load
    platform: str = "linux"  # or "windows"
    workspace_bytes: int | None = None
    optimization: int | None = None  # the builder's level 0 to 5

    def options(self) -> list[str]:
        """The command-line options that differ from the defaults, so that a command can be repeated."""
        default, names = EngineSettings(), []
        if self.precision != default.precision:
            names += ["--precision", self.precision]
        if self.profile != default.profile:
            names += ["--batch", str(self.profile)]
        for capability in self.compute_capabilities:
            names += ["--compute-capability", capability]
        if self.hardware != default.hardware:
            names += ["--hardware", self.hardware]
        if self.version_compatible:
            names.append("--version-compatible")
        if self.weights != default.weights:
            names.append("--strip-weights")
        if self.platform != default.platform:
            names += ["--platform", self.platform]
        if self.workspace_bytes is not None:
            names += ["--workspace", f"{self.workspace_bytes / 2**20:g}"]
        if self.optimization is not None:
            names += ["--optimization", str(self.optimization)]
        return names

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "profile": str(self.profile), "compute_capabilities": list(self.compute_capabilities)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineSettings:
        values = {**data, "profile": Profile.parse(data["profile"]), "compute_capabilities": tuple(data["compute_capabilities"])}
        return cls(**values)


@dataclass(frozen=True)
class Place:
    """Where engines are to run: the target, its version, the GPU (None where there is none) and the operating system."""

    target: Target
    version: str
    gpu: GpuAttributes | None = None
    system: str = ""

    @property
    def platform(self) -> str:
        return self.system or platform.system().lower()


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a sidecar. `census`: what the inspection of the built engine found."""

    file: str
    sha256: str
    bytes: int
    onnx: str  # hash of the graph and its weights
    seconds: float
    census: Mapping[str, Any]


@dataclass(frozen=True)
class Sidecar:
    """`engine.json`: the engines of one folder. `stages` has the graphs by name: a stage, or "stage:output" for a partial graph."""

    target: str
    version: str
    settings: EngineSettings
    gpu: GpuAttributes | None  # None for engines that are not bound to one GPU
    stages: Mapping[str, EngineEntry]


def graph_names(bundle: Bundle, precision: str) -> list[str]:
    """The graphs of a bundle that become engines: its stages, its partial graphs, and the one that makes bytes."""
    return [*STAGES, *(name for name, choices in bundle.manifest.partials.items() if precision in choices), TO_BYTES]


def graph_file(bundle: Bundle, graph: str, precision: str) -> Path:
    """The proven ONNX file of the stage or "stage:output" `graph`; that of TO_BYTES is written when engines are built. Raises SdicError."""
    if graph == TO_BYTES:
        return bundle.path / FOLDER / f"{TO_BYTES}.onnx"
    stage, _, output = graph.partition(":")
    path = bundle.partial_file(stage, output, precision) if output else bundle.stage_file(stage, precision)
    if path is None:
        raise SdicError(f'{bundle.path} has no partial graph "{graph}" in {precision}; build it again with: sdic-export build')
    return path


def onnx_hash(bundle: Bundle, graph: str, precision: str) -> str:
    """One hash over the files of a graph, weights included, as the manifest lists them."""
    if graph == TO_BYTES:
        content: list[Any] = [TO_BYTES_VERSION, bundle.sizes.resolution, list(bundle.manifest.visible_rows)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    stage, _, output = graph.partition(":")
    own = bundle.manifest.partials[graph][precision] if output else bundle.manifest.stages[stage][precision]
    main = bundle.manifest.stages[stage][precision]
    files = bundle.manifest.files
    names = sorted({own, *(name for name in files if name.startswith((own + ".", main + ".")))})
    return hashlib.sha256(json.dumps([[name, files[name].sha256] for name in names]).encode()).hexdigest()


def bound_gpu(place: Place, settings: EngineSettings) -> GpuAttributes | None:
    """What of the GPU the engines are bound to: nothing for TensorRT-RTX, and for TensorRT what `settings.hardware` leaves."""
    if not place.target.needs_gpu or place.gpu is None:
        return None
    if settings.hardware == "exact":
        return place.gpu
    capability = place.gpu.compute_capability if settings.hardware == "same-capability" else "8.0"
    return GpuAttributes(capability, 0, 0, 0, 0, 0, False, place.gpu.name)


def key(place: Place, settings: EngineSettings) -> str:
    """The name of the folder: readable in front, and a hash over all that matters behind."""
    gpu = bound_gpu(place, settings)
    capabilities = (gpu.compute_capability,) if gpu else settings.compute_capabilities or ("default",)
    where = "sm" + "-".join(capabilities).replace(".", "")
    content = [place.target.name, place.version, settings.as_dict(), asdict(replace(gpu, name="")) if gpu else None]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]
    profile = str(settings.profile).replace(",", "-")
    return f"{place.target.name}-{place.version}-{where}-{settings.precision}-b{profile}-{digest}"


def engine_folder(bundle: Bundle, place: Place, settings: EngineSettings) -> Path:
    return bundle.path / FOLDER / key(place, settings)


def engine_name(graph: str) -> str:
    """The file of a graph's engine."""
    return graph.replace(":", ".") + ENGINE_SUFFIX


def build_command(bundle: Bundle, target: str, settings: EngineSettings | None = None) -> str:
    """The command that builds engines of `bundle`."""
    options = (settings or EngineSettings()).options()
    return " ".join(["sdic-export engines", str(bundle.path), "--target", target, *options])


def write_sidecar(folder: Path, sidecar: Sidecar) -> Path:
    """Write `engine.json`, whole or not at all. Raises SdicError."""
    data = {
        "schema": SCHEMA,
        "target": sidecar.target,
        "version": sidecar.version,
        "settings": sidecar.settings.as_dict(),
        "gpu": asdict(sidecar.gpu) if sidecar.gpu else None,
        "stages": {name: {**asdict(entry), "census": dict(entry.census)} for name, entry in sidecar.stages.items()},
    }
    path = folder / SIDECAR
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def read_sidecar(folder: Path) -> Sidecar:
    """Read `engine.json`. Raises SdicError."""
    path = folder / SIDECAR
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise SdicError(f"{path} has schema {data['schema']!r}, and this version reads schema {SCHEMA}; build the engines again")
        stages = {name: EngineEntry(**entry) for name, entry in data["stages"].items()}
        gpu = GpuAttributes(**data["gpu"]) if data["gpu"] else None
        return Sidecar(data["target"], data["version"], EngineSettings.from_dict(data["settings"]), gpu, stages)
    except OSError as error:
        raise SdicError(f"cannot read {path}: {reason(error)}; build the engines again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SdicError):
            raise
        raise SdicError(f"{path} is not a valid sidecar of engines ({error}); build the engines again") from error


def mismatch(sidecar: Sidecar, place: Place) -> str | None:
    """Why engines of `sidecar` do not run at `place`, in a few words; None when they should."""
    title = TARGETS[sidecar.target].title if sidecar.target in TARGETS else sidecar.target
    if sidecar.target != place.target.name:
        return f"they were built by {title}, and this is {place.target.title}"
    if not _same_version(sidecar, place):
        return f"they were built by {title} {sidecar.version}, and {place.version} is installed"
    if place.target.needs_gpu and sidecar.settings.platform != place.platform:  # TensorRT-RTX engines run on both systems
        return f"they were built for {sidecar.settings.platform}, and this is {place.platform}"
    if place.gpu is None:
        return "there is no GPU here"
    if not place.target.needs_gpu:
        return _capability_mismatch(sidecar.settings.compute_capabilities, place.gpu.compute_capability)
    return _gpu_mismatch(sidecar, place.gpu)


def stale(sidecar: Sidecar, folder: Path, bundle: Bundle, graph: str, deep: bool = False) -> str | None:
    """Why the engine of `graph` must be built (again), in a few words; None when it is there and fits the graph.

    `deep` also compares the hash of the engine file.
    """
    entry = sidecar.stages.get(graph)
    if entry is None:
        return "there is none yet"
    path = folder / entry.file
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != entry.bytes:
        return f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}"
    if entry.onnx != onnx_hash(bundle, graph, sidecar.settings.precision):
        return "the ONNX file changed since"
    if deep and sha256(path) != entry.sha256:
        return f"{path} is damaged: its SHA-256 is not the one in {SIDECAR}"
    return None


def find_engines(bundle: Bundle, place: Place, precision: str | None = None, batch: int = 1) -> tuple[Path, Sidecar]:
    """The folder of engines of `bundle` that run at `place`, in `precision` (half precisions first when None), for `batch` pictures.

    Raises SdicError that says of the nearest candidate why not, and gives the command that mends it.
    """
    folders = sorted((bundle.path / FOLDER).glob(f"{place.target.name}-[0-9]*/{SIDECAR}"))
    obstacles: list[tuple[int, str, Path, EngineSettings | None]] = []
    usable: list[tuple[Path, Sidecar]] = []
    for path in folders:
        try:
            sidecar = read_sidecar(path.parent)
        except SdicError as error:
            obstacles.append((0, str(error), path.parent, None))
            continue
        rank, why = _obstacle(sidecar, path.parent, bundle, place, precision, batch)
        if why is None:
            usable.append((path.parent, sidecar))
        else:
            obstacles.append((rank, why, path.parent, sidecar.settings))
    if usable:
        return min(usable, key=lambda item: (item[1].settings.precision == "fp32", item[1].settings.profile.largest, item[0].name))
    if not obstacles:
        asked = EngineSettings(precision=precision) if precision else None
        raise SdicError(
            f"{bundle.path} has no {place.target.title} engines; build them with: {build_command(bundle, place.target.name, asked)}"
        )
    _, why, folder, settings = max(obstacles, key=lambda item: item[0])
    if precision and settings and settings.precision != precision:
        settings = replace(settings, precision=precision)
    if settings and batch > settings.profile.largest:
        settings = replace(settings, profile=replace(settings.profile, largest=batch))
    raise SdicError(
        f"the engines in {folder} cannot be used: {why}; build them again with: {build_command(bundle, place.target.name, settings)}"
    )


def _obstacle(sidecar: Sidecar, folder: Path, bundle: Bundle, place: Place, precision: str | None, batch: int) -> tuple[int, str | None]:
    """How far a candidate got, and what stopped it."""
    why = mismatch(sidecar, place)
    if why:
        return 1, why
    if precision and sidecar.settings.precision != precision:
        return 2, f"they are in {sidecar.settings.precision}, and {precision} is asked for"
    if sidecar.settings.precision not in bundle.manifest.precisions:
        return 2, f"they are in {sidecar.settings.precision}, which the bundle no longer has"
    for graph in graph_names(bundle, sidecar.settings.precision):
        why = stale(sidecar, folder, bundle, graph)
        if why:
            return 3, f'of "{graph}", {why}'
    smallest, largest = sidecar.settings.profile.smallest, sidecar.settings.profile.largest
    if not smallest <= batch <= largest:
        return 4, f"they take batches of {smallest} to {largest} pictures, and {batch} are asked for"
    return 5, None


def _same_version(sidecar: Sidecar, place: Place) -> bool:
    if sidecar.version == place.version:
        return True
    # Version-compatible plans run on later releases of the same major version; TensorRT-RTX has no such promise.
    built, here = (_numbers(version) for version in (sidecar.version, place.version))
    return sidecar.settings.version_compatible and place.target.needs_gpu and built[:1] == here[:1] and here >= built


def _capability_mismatch(built: Sequence[str], here: str) -> str | None:
    listed = built or RTX_DEFAULT
    if here in listed or (not built and _numbers(here) > _numbers(RTX_DEFAULT[-1])):
        return None
    return f"they were built for the compute capabilities {', '.join(listed)}, and this GPU has {here}"


def _gpu_mismatch(sidecar: Sidecar, here: GpuAttributes) -> str | None:
    built, hardware = sidecar.gpu, sidecar.settings.hardware
    if built is None:
        return f"{SIDECAR} does not say for which GPU they were built"
    if hardware == "ampere-plus":
        if _numbers(here.compute_capability) < (8,):
            return f"they run on compute capability 8.0 and later, and this GPU has {here.compute_capability}"
        return None
    if hardware == "same-capability":
        if built.compute_capability != here.compute_capability:
            return f"they were built for compute capability {built.compute_capability}, and this GPU has {here.compute_capability}"
        return None
    for item in fields(GpuAttributes):
        ours, theirs = getattr(here, item.name), getattr(built, item.name)
        if item.compare and ours != theirs:
            label = item.name.replace("_", " ")
            return f"they were built for {built.name or 'a GPU'} with {label} {theirs}, and this is {here.name or 'a GPU'} with {ours}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
