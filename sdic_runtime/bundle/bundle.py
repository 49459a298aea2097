"""Bundles: the folder a model is shipped in, its manifest `bundle.json`, and the checks before any of it is used."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdic_runtime.errors import SdicError
from sdic_runtime.files import is_inside, reason, replacing, sha256
from sdic_runtime.stages import STAGES, Sizes

SCHEMA = 1
MANIFEST_NAME = "bundle.json"
CPU_PRECISION = "fp32"  # the precision of the graphs that are arranged for processors
DEMO_FOLDER = Path(__file__).with_name("demo")
BUILD_HINT = "build it with: sdic-export build CHECKPOINT --out DIR"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest promises about one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """`bundle.json`, checked. File names are relative to the bundle's folder, with forward slashes.

    `visible_rows` (first, end) are the rows of `picture` that a user sees: all of them, or for letterboxed domains the part
    between the bars. `stages` maps stage -> precision -> file; `tolerances` maps precision -> the largest difference over
    the expected tensor's standard deviation that the export allowed. `partials` maps "stage:output" -> precision -> file: the
    graph of a stage cut down to what that one output needs, for engines that compute every output of a graph. `cpu` maps stage or
    "stage:output" -> files: the same in CPU_PRECISION arranged for processors, which may refer to the external weights of the stage's own
    graph, and the one of an output alone also to those of the stage's graph for processors. Several files are bands of rows (axis 2 of
    every output) from top to bottom, each for one picture. Only ONNX Runtime on the CPU runs them. `checkpoint` says where the PyTorch
    weights are ("path", relative to the bundle when they are inside it; "sha256"; "domain"): only the PyTorch backend reads them.
    """

    name: str
    domain: str
    sizes: Sizes
    visible_rows: tuple[int, int]
    stages: Mapping[str, Mapping[str, str]]
    default_precision: str
    files: Mapping[str, FileEntry]
    directions: Mapping[str, str] = field(default_factory=dict)
    golden: str | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    partials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cpu: Mapping[str, Sequence[str]] = field(default_factory=dict)
    method: str = "sdic"

    @property
    def identity(self) -> str:
        """Which model this is: a SHA-256 over the sizes and the stage files of one precision (float32 where there is one).

        Directions, further precisions and CPU graphs do not change it, so an inversion stays valid when they are added.
        """
        precision = "fp32" if all("fp32" in choices for choices in self.stages.values()) else self.default_precision
        hashes = {name: self.files[name].sha256 for name in self.stage_files(precision)}
        text = json.dumps([self.method, self.sizes.as_dict(), list(self.visible_rows), hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def precisions(self) -> list[str]:
        """The precisions in which every stage is there."""
        common = set.intersection(*(set(choices) for choices in self.stages.values()))
        return sorted(common)

    def graph_files(self, stage: str, precision: str, cpu: bool = False) -> list[str]:
        """The files of one stage in one precision: its graph first, then the external weights (`e4e.onnx.data`) that it may refer to.

        With `cpu` the graphs arranged for processors, where there are such: they may share the weights of the stage's own graph. Then
        `stage` may also be a "stage:output" of `cpu`.
        """
        whole = stage.partition(":")[0]
        own = self.stages[whole][precision]
        graphs = self.cpu.get(stage, [own]) if cpu else [own]
        sharing = tuple(f"{graph}." for graph in (own, *graphs, *(self.cpu.get(whole, ()) if cpu else ())))
        return [*graphs, *sorted(name for name in self.files if name.startswith(sharing))]

    def stage_files(self, precision: str, cpu: bool = False) -> list[str]:
        """The files of all stages in one precision, external weights included; `cpu` as in `graph_files`."""
        stages = [stage for stage, choices in self.stages.items() if precision in choices]
        alone = [key for key in self.cpu if key not in self.stages] if cpu else []
        return sorted({name for key in (*stages, *alone) for name in self.graph_files(key, precision, cpu)})


def manifest_from_dict(data: Any, origin: str = MANIFEST_NAME) -> Manifest:
    """The manifest in parsed JSON; `origin` names it in errors. Raises SdicError on anything that schema 1 does not allow."""
    fail = _Fail(origin)
    if not isinstance(data, dict):
        raise fail("it is not a JSON object")
    schema = data.get("schema")
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise SdicError(f"{origin} has schema {schema}, and this version reads schema {SCHEMA}; update with: pip install --upgrade sdic")
    if schema != SCHEMA or isinstance(schema, bool):
        raise fail(f"schema is {schema!r}, expected {SCHEMA}")
    _check_types(data, fail)
    if data["method"] != "sdic":
        raise fail(f'method is "{data["method"]}", and this version runs "sdic"')
    sizes = _sizes(data["sizes"], fail)
    visible_rows = _visible_rows(data["visible_rows"], sizes, fail)
    files = {name: _file_entry(name, entry, fail) for name, entry in data["files"].items()}
    stages = _stages(data["stages"], fail)
    golden = data.get("golden")
    manifest = Manifest(
        name=data["name"],
        method=data["method"],
        domain=data["domain"],
        sizes=sizes,
        visible_rows=visible_rows,
        stages=stages,
        default_precision=data["default_precision"],
        files=files,
        directions=_strings("directions", data.get("directions", {}), fail),
        golden=golden,
        tolerances=_tolerances(data.get("tolerances", {}), fail),
        tools=_strings("tools", data.get("tools", {}), fail),
        licence=data.get("licence", ""),
        checkpoint=_strings("checkpoint", data.get("checkpoint", {}), fail),
        partials=_partials(data.get("partials", {}), fail),
        cpu=_cpu(data.get("cpu", {}), stages, fail),
    )
    graphs = [name for choices in [*stages.values(), *manifest.partials.values()] for name in choices.values()]
    arranged = [name for names in manifest.cpu.values() for name in names]
    for name in [*graphs, *arranged, *manifest.directions.values(), *([golden] if golden else [])]:
        if name not in files:
            raise fail(f'"{name}" is not listed under files')
    if manifest.default_precision not in manifest.precisions:
        complete = ", ".join(manifest.precisions) or "none"
        raise fail(f'default_precision is "{manifest.default_precision}", and all stages are there in: {complete}')
    return manifest


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """What `manifest_from_dict` reads, ready for json."""
    data = {item.name: getattr(manifest, item.name) for item in fields(manifest)}
    data["sizes"] = manifest.sizes.as_dict()
    data["visible_rows"] = list(manifest.visible_rows)
    data["files"] = {name: asdict(entry) for name, entry in sorted(manifest.files.items())}
    for name in ("stages", "partials"):
        data[name] = {key: dict(choices) for key, choices in data[name].items()}
    for name in ("directions", "tolerances", "tools", "checkpoint"):
        data[name] = dict(data[name])
    data["cpu"] = {stage: list(names) for stage, names in manifest.cpu.items()}
    if not data["cpu"]:  # versions that do not know the key read the bundle
        del data["cpu"]
    return {"schema": SCHEMA, **data}


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write `bundle.json` into `folder`, whole or not at all; what would not read back is refused."""
    data = manifest_to_dict(manifest)
    path = Path(folder) / MANIFEST_NAME
    manifest_from_dict(data, str(path))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def file_entries(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, FileEntry]:
    """The entries of the files `names` as they lie under `folder` now: for the manifest of a new bundle."""
    root = Path(folder)
    return {name: FileEntry(sha256(root / name), (root / name).stat().st_size) for name in names}


class Bundle:
    """An opened bundle: its manifest, and its files, each checked against its hash before its path is handed out."""

    def __init__(self, path: Path, manifest: Manifest, verify: bool = True) -> None:
        self.path = path
        self.manifest = manifest
        self._verify = verify
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, verify: bool = True) -> Bundle:
        """Open the bundle in the folder `path` (or the embedded demo bundle). With `verify=False` hashes are not compared.

        Raises SdicError when it is no bundle, of a newer schema, or its manifest is not valid.
        """
        folder = DEMO_FOLDER if path is None else Path(path)
        if folder.name == MANIFEST_NAME and folder.is_file():
            folder = folder.parent
        manifest_path = folder / MANIFEST_NAME
        if path is None and not manifest_path.exists():
            raise SdicError(f"the embedded demo bundle is missing at {folder}; name a bundle or install sdic again")
        if not folder.exists():
            raise SdicError(f"there is no bundle at {folder}; {BUILD_HINT}")
        try:
            data = json.loads(manifest_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise SdicError(f"{folder} is not a bundle, it has no {MANIFEST_NAME}; {BUILD_HINT}") from None
        except OSError as error:
            raise SdicError(f"cannot read {manifest_path}: {reason(error)}") from error
        except ValueError as error:
            raise SdicError(f"{manifest_path} is not valid JSON ({error}); {BUILD_HINT}") from error
        return cls(folder, manifest_from_dict(data, str(manifest_path)), verify)

    @property
    def sizes(self) -> Sizes:
        return self.manifest.sizes

    def file(self, name: str) -> Path:
        """The path of the file `name`, there and (once per bundle) proven against its size and hash. Raises SdicError."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise SdicError(f'{self.path / MANIFEST_NAME} lists no file "{name}"; {BUILD_HINT}')
        path = self.path / name
        if name in self._checked:
            return path
        try:
            size = path.stat().st_size
            damage = f"it has {size} bytes instead of {entry.bytes}" if size != entry.bytes else ""
            if not damage and self._verify and sha256(path) != entry.sha256:
                damage = "its SHA-256 is not the one in " + MANIFEST_NAME
        except FileNotFoundError:
            damage = "it is missing"
        except OSError as error:
            damage = reason(error)
        if damage:
            raise SdicError(f"{path} is damaged: {damage}; see the whole extent with: sdic-export verify {self.path}")
        self._checked.add(name)
        return path

    def check(self, names: Iterable[str] | None = None) -> None:
        """Prove the files `names` (all of the bundle when not given), several at a time. Raises SdicError for the first damaged one."""
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(self.file, list(self.manifest.files if names is None else names)))

    def precision(self, wanted: str | None = None) -> str:
        """The precision to run in: `wanted`, or the bundle's default. Raises SdicError when a stage lacks it."""
        precision = wanted or self.manifest.default_precision
        if precision not in self.manifest.precisions:
            raise SdicError(
                f'{self.path} has no complete set of stages in precision "{precision}"; it has: {", ".join(self.manifest.precisions)}'
            )
        return precision

    def stage_file(self, stage: str, precision: str | None = None) -> Path:
        """The proven ONNX file of `stage`, its external weights proven too."""
        graph, *_ = self._proven(self.manifest.graph_files(stage, self.precision(precision)))
        return graph

    def cpu_files(self, stage: str) -> list[Path]:
        """The proven ONNX files of `stage` (or a "stage:output") arranged for processors, where the bundle has such, their external weights
        proven too.

        Several are bands of rows, see `Manifest`.
        """
        graphs = self.manifest.cpu.get(stage, ())
        return self._proven(self.manifest.graph_files(stage, CPU_PRECISION, cpu=True))[: len(graphs)] if graphs else []

    def _proven(self, names: Sequence[str]) -> list[Path]:
        return [self.file(name) for name in names]

    def partial_file(self, stage: str, output: str, precision: str | None = None) -> Path | None:
        """The proven ONNX file that computes only `output` of `stage`, where the bundle has one; it shares the stage's external weights."""
        name = self.manifest.partials.get(f"{stage}:{output}", {}).get(self.precision(precision))
        if name is None:
            return None
        self.stage_file(stage, precision)
        return self.file(name)


class _Fail:
    """Makes the error for one manifest: where, what, and the command that mends it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def __call__(self, what: str) -> SdicError:
        return SdicError(f"{self.origin} is not a valid bundle manifest: {what}; {BUILD_HINT}")


# Key -> (type, required). A key that is not here is an error: it would be a promise that this version does not keep.
_KEYS: dict[str, tuple[type | tuple[type, ...], bool]] = {
    "schema": (int, True),
    "name": (str, True),
    "method": (str, True),
    "domain": (str, True),
    "sizes": (dict, True),
    "visible_rows": (list, True),
    "stages": (dict, True),
    "default_precision": (str, True),
    "files": (dict, True),
    "directions": (dict, False),
    "golden": ((str, type(None)), False),
    "tolerances": (dict, False),
    "tools": (dict, False),
    "licence": (str, False),
    "checkpoint": (dict, False),
    "partials": (dict, False),
    "cpu": (dict, False),
}
_JSON_NAMES = {int: "an integer", str: "a string", dict: "an object", list: "a list", type(None): "null"}


def _check_types(data: dict[str, Any], fail: _Fail) -> None:
    for key in data:
        if key not in _KEYS:
            raise fail(f'unknown key "{key}"')
    for key, (kind, required) in _KEYS.items():
        if key not in data:
            if required:
                raise fail(f'the key "{key}" is missing')
        elif not isinstance(data[key], kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise fail(f'"{key}" is {data[key]!r:.60}, expected {" or ".join(_JSON_NAMES[item] for item in kinds)}')


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _sizes(data: dict[str, Any], fail: _Fail) -> Sizes:
    names = [item.name for item in fields(Sizes)]
    if sorted(data) != sorted(names) or not all(_is_count(value) for value in data.values()):
        raise fail(f"sizes is {data}, expected positive integers for {', '.join(names)}")
    sizes = Sizes(**data)
    if sizes.rows != 2 * math.log2(sizes.resolution) - 2:
        raise fail(f"sizes has {sizes.rows} rows at resolution {sizes.resolution}, expected 2 * log2(resolution) - 2")
    return sizes


def _visible_rows(data: list[Any], sizes: Sizes, fail: _Fail) -> tuple[int, int]:
    valid = len(data) == 2 and all(isinstance(row, int) and not isinstance(row, bool) for row in data)
    if not valid or not 0 <= data[0] < data[1] <= sizes.resolution:
        raise fail(f"visible_rows is {data}, expected [first, end] within 0..{sizes.resolution}")
    if any(row * sizes.working % sizes.resolution for row in data):
        raise fail(f"visible_rows {data} does not fall on whole rows at the working size {sizes.working}")
    return data[0], data[1]


def _file_entry(name: str, data: Any, fail: _Fail) -> FileEntry:
    if not is_inside(name):
        raise fail(f'the file name "{name}" leaves the bundle')
    valid = isinstance(data, dict) and sorted(data) == ["bytes", "sha256"] and isinstance(data["bytes"], int)
    if not valid or not isinstance(data["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", data["sha256"]):
        raise fail(f'the entry of file "{name}" is {data!r:.80}, expected sha256 and bytes')
    return FileEntry(data["sha256"], data["bytes"])


def _strings(key: str, data: dict[str, Any], fail: _Fail) -> dict[str, str]:
    for name, value in data.items():
        if not isinstance(value, str):
            raise fail(f'{key}["{name}"] is {value!r:.60}, expected a string')
    return dict(data)


def _stages(data: dict[str, Any], fail: _Fail) -> dict[str, dict[str, str]]:
    for stage in STAGES:
        if stage not in data:
            raise fail(f'the stage "{stage}" is missing')
    for stage, choices in data.items():
        if stage not in STAGES:
            raise fail(f'unknown stage "{stage}"')
        if not isinstance(choices, dict) or not choices:
            raise fail(f'stages["{stage}"] is {choices!r:.60}, expected precision -> file')
    return {stage: _strings(f'stages["{stage}"]', data[stage], fail) for stage in STAGES}


def _partials(data: dict[str, Any], fail: _Fail) -> dict[str, dict[str, str]]:
    for key, choices in data.items():
        stage, _, output = key.partition(":")
        if stage not in STAGES or output not in STAGES[stage].outputs:
            raise fail(f'partials has "{key}", expected "stage:output" of the stage table')
        if not isinstance(choices, dict):
            raise fail(f'partials["{key}"] is {choices!r:.60}, expected precision -> file')
    return {key: _strings(f'partials["{key}"]', choices, fail) for key, choices in data.items()}


def _cpu(data: dict[str, Any], stages: Mapping[str, Mapping[str, str]], fail: _Fail) -> dict[str, list[str]]:
    for key, names in data.items():
        stage, colon, output = key.partition(":")
        if CPU_PRECISION not in stages.get(stage, {}) or (colon and output not in STAGES[stage].outputs):
            raise fail(f'cpu has "{key}", expected a stage or "stage:output" of the stage table with a graph in {CPU_PRECISION}')
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise fail(f'cpu["{key}"] is {names!r:.60}, expected a list of files')
    return {key: list(names) for key, names in data.items()}


def _tolerances(data: dict[str, Any], fail: _Fail) -> dict[str, float]:
    for name, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise fail(f'tolerances["{name}"] is {value!r:.60}, expected a positive number')
    return {name: float(value) for name, value in data.items()}
