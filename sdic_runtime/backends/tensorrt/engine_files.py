"""Engines on disk: which graphs have one, the sidecar that says what they are, and in words why one cannot be used here.

A bundle keeps them under `engines/<folder name>/`: one file per graph and the sidecar `engine.json`. The sidecar also holds the hash of
every ONNX graph, so an engine that fell behind its graph is found before it is loaded. Nothing here loads TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sdic_runtime.backends.cuda.driver import GpuAttributes
from sdic_runtime.backends.tensorrt.places import Place, folder_name, mismatch
from sdic_runtime.backends.tensorrt.settings import DEFAULTS, FOR_ONE, EngineSettings, Target, build_command
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import files_of, graph_keys
from sdic_runtime.errors import BackendError
from sdic_runtime.files import read_regular, reason, replacing, sha256
from sdic_runtime.parsing.json_text import LARGEST, JsonError, parse_json

SCHEMA = 2
SIDECAR = "engine.json"
FOLDER = "engines"
ENGINE_SUFFIX = ".engine"
TO_BYTES = "to_bytes"  # no stage: the graph that turns `picture` into bytes, made with the engines
TO_BYTES_VERSION = 1


class EngineEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine of a sidecar. `census`: what the inspection of the built engine found."""

    file: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")]  # in the sidecar's folder
    sha256: str
    bytes: int
    onnx: str  # hash of the graph and its weights
    seconds: float
    census: dict[str, Any]


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`engine.json`: the engines of one folder. `stages`: graph -> its engine."""

    target: Target
    version: str
    settings: EngineSettings
    gpu: GpuAttributes | None  # None for engines that are not bound to one GPU
    stages: dict[str, EngineEntry]
    schema: int = SCHEMA

    @property
    def place(self) -> Place:
        return Place(self.target, self.version, self.gpu)


def graph_names(bundle: Bundle, precision: str) -> list[str]:
    """The graphs of a bundle that become engines: its own in `precision`, and the one that makes bytes."""
    return [*graph_keys(bundle.manifest, precision), TO_BYTES]


def graph_file(bundle: Bundle, graph: str, precision: str) -> Path:
    """The checked ONNX file of `graph`; that of TO_BYTES is written when engines are built. Raises BundleError, or BackendError."""
    if graph == TO_BYTES:
        return bundle.path / FOLDER / f"{TO_BYTES}.onnx"
    names = bundle.manifest.graphs.get(graph, {}).get(precision, ())
    if len(names) != 1:
        raise BackendError(f'{bundle.path} has {len(names)} files of the graph "{graph}" in {precision}, and an engine is built of one')
    bundle.check(files_of(bundle.manifest, names))
    return bundle.file(names[0])


def onnx_hash(bundle: Bundle, graph: str, precision: str) -> str:
    """One hash over the files of a graph and the weights that it reads, as the manifest lists them."""
    manifest = bundle.manifest
    content: list[Any] = [TO_BYTES_VERSION, manifest.sizes["R"], manifest.visible_rows]
    if graph != TO_BYTES:
        content = [[name, manifest.files[name].sha256] for name in sorted(files_of(manifest, manifest.graphs[graph][precision]))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def engine_folder(bundle: Bundle, place: Place, settings: EngineSettings) -> Path:
    return bundle.path / FOLDER / folder_name(place, settings)


def engine_name(graph: str) -> str:
    """The file of a graph's engine."""
    return graph.replace(":", ".") + ENGINE_SUFFIX


def write_sidecar(folder: Path, sidecar: Sidecar) -> Path:
    """Write `engine.json`, whole or not at all. Raises FileError."""
    path = folder / SIDECAR
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")
    with suppress(OSError, RuntimeError):  # a home that cannot be written to: engines are then named, see `built_here`
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    return path


def built_here(folder: Path) -> bool:
    """Whether this user built the engines in `folder` on this machine: their sidecar, which has the hash of each, was noted then."""
    try:
        return _note(folder / SIDECAR).exists()
    except (OSError, RuntimeError):
        return False


def _note(sidecar: Path) -> Path:
    """The file that notes a sidecar. Raises OSError, or RuntimeError where the user has no home."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "sdic" / FOLDER / sha256(sidecar)


def read_sidecar(folder: Path) -> Sidecar:
    """Read `engine.json`. Raises BackendError."""
    path = folder / SIDECAR
    try:
        text = read_regular(path, LARGEST)
        schema = parse_json(text, dict[str, Any]).get("schema")
        if schema != SCHEMA:
            raise BackendError(f"{path} has schema {schema}, and this version reads schema {SCHEMA}; build the engines again")
        return parse_json(text, Sidecar)
    except OSError as error:
        raise BackendError(f"cannot read {path}: {reason(error)}; build the engines again") from error
    except JsonError as error:
        raise BackendError(f"{path} is not a valid sidecar of engines ({error}); build the engines again") from error


def stale(sidecar: Sidecar, folder: Path, bundle: Bundle, graph: str, deep: bool = False) -> str | None:
    """Why the engine of `graph` must be built (again), in a few words; None when it is there and fits the graph. `deep` also compares the
    hash of the engine file."""
    entry = sidecar.stages.get(graph)
    if entry is None:
        return "there is none yet"
    path = folder / entry.file
    if not path.is_file():
        return f"{entry.file} is missing"
    if path.stat().st_size != entry.bytes:
        return f"{entry.file} has {path.stat().st_size} bytes instead of {entry.bytes}"
    if entry.onnx != onnx_hash(bundle, graph, sidecar.settings.precision):
        return "the ONNX file changed since"
    if deep and sha256(path) != entry.sha256:
        return f"{entry.file} is damaged: its SHA-256 is not the one in {SIDECAR}"
    return None


BATCH = 4  # how far a candidate got that takes other batches alone


def find_engines(bundle: Bundle, place: Place, precision: str | None = None, batch: int = 1) -> tuple[Path, Sidecar]:
    """The folder of engines of `bundle` that run at `place`, in `precision` (half precisions first when None), for `batch` pictures. Raises
    BackendError that says of the nearest candidate why not, and gives the command that fixes it."""
    folders = [path.parent for path in sorted((bundle.path / FOLDER).glob(f"{place.target}-[0-9]*/{SIDECAR}"))]
    found = [(*_examined(folder, bundle, place, precision, batch), folder) for folder in folders]
    usable = [(folder, sidecar) for _, why, sidecar, folder in found if sidecar is not None and not why]
    if usable:
        return min(usable, key=lambda item: (item[1].settings.precision == "fp32", item[1].settings.profile.largest, item[0].name))
    label, wish = place.target.label, {"precision": precision} if precision else {}
    if not found:
        command = build_command(bundle.path, place.target, msgspec.structs.replace(DEFAULTS, **wish))
        raise BackendError(f"{bundle.path} has no {label} engines; build them with: {command}")
    far, why, sidecar, folder = max(found, key=lambda item: item[0])
    settings = sidecar.settings if sidecar is not None else DEFAULTS
    one = settings.profile.largest == 1  # as engines of a graph that is for one picture at a time have to be
    profile = settings.profile if one and far < BATCH else settings.profile.widened(batch)
    command = build_command(bundle.path, place.target, msgspec.structs.replace(settings, profile=profile, **wish))
    remedy = f"use batch=1, or {FOR_ONE}, build" if one and far == BATCH else "build"
    raise BackendError(f"the engines in {folder} cannot be used: {why}; {remedy} them again with: {command}")


def _examined(folder: Path, bundle: Bundle, place: Place, precision: str | None, batch: int) -> tuple[int, str, Sidecar | None]:
    """How far a candidate got, what stopped it ("" where nothing did), and its sidecar."""
    try:
        sidecar = read_sidecar(folder)
    except BackendError as error:
        return 0, str(error), None
    settings, profile = sidecar.settings, sidecar.settings.profile
    if why := mismatch(sidecar.place, settings, place):
        return 1, why, sidecar
    if precision and settings.precision != precision:
        return 2, f"they are in {settings.precision}, and {precision} is asked for", sidecar
    if settings.precision not in bundle.manifest.precisions:
        return 2, f"they are in {settings.precision}, which the bundle no longer has", sidecar
    for graph in graph_names(bundle, settings.precision):
        if why := stale(sidecar, folder, bundle, graph):
            return 3, f'of "{graph}", {why}', sidecar
    fits = profile.smallest <= batch <= profile.largest
    taken = "one picture at a time" if profile.largest == 1 else f"batches of {profile.smallest} to {profile.largest} pictures"
    return BATCH, "" if fits else f"they take {taken}, and {batch} are asked for", sidecar
