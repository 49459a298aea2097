"""`bundle.json`: what a bundle holds, read and written, checked whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from sdic_runtime.errors import BundleError, printable
from sdic_runtime.files import is_inside, replacing, sha256
from sdic_runtime.parsing.json_text import SHOWN, JsonError, convert, parse_json
from sdic_runtime.program import STYLES_LETTER, Method, check

SCHEMA = 2
MANIFEST_NAME = "bundle.json"
FFHQ = "ffhq"  # the alignment of faces in FFHQ, for `Manifest.faces`
ONNXRUNTIME_CPU = "onnxruntime-cpu"  # float32 graphs optimized for ONNX Runtime on CPUs
ONNXRUNTIME_CUDA = "onnxruntime-cuda"  # half-precision graphs that ONNX Runtime runs fastest on CUDA with channels last
OPENVINO = "openvino"  # float32 graphs that OpenVINO runs faster than the standard ones, in float32 and bfloat16
FORMS = {ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, OPENVINO}  # variants that are no precision
STANDARD = "fp32"  # the variant that every other is checked against
HALF = "fp16"  # the half precision that GPUs take by default
BUILD_HINT = "build it with: sdic-export build CHECKPOINT --out DIR"
FIRST_SCHEMA = Path(__file__).with_name("schema1.json")

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest promises about one file."""

    sha256: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture becomes `image`, and which rows (first, end) of `picture` a person sees: all, or for letterboxed domains those between
    the bars."""

    visible_rows: tuple[int, int]
    resampling: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"


class Manifest(Method, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`bundle.json`, checked. File names are relative to the bundle's folder, with forward slashes.

    `graphs`: "stage", or "stage:output" for the graph of that output alone -> variant -> files. Variants are precisions (fp32, fp16, ...)
    and those of FORMS, each for one backend, which may share files. Several files are bands of rows (axis 2 of every output) from top to
    bottom, each for one picture. `part_graphs`: the same for the parts of stages, see `Method.cuts`. `weights`: graph file -> the files of
    external weights that it reads. `tolerances`: precision -> the largest difference over the expected tensor's standard deviation that
    the export allowed. `psnr`: precision -> dB of the worst golden picture against fp32, where it was measured.
    `faces`: the alignment that the model was trained on ("ffhq"), or None. `style_layers`: how many styles each layer of the generator has,
    in the order of the tensor "styles"; empty without style space. `checkpoint`: where the PyTorch weights are ("path", relative to the
    bundle; "sha256"; "weights"): only the PyTorch backend reads them.
    """

    name: str
    domain: str
    input: Input
    faces: str | None = None
    style_layers: tuple[int, ...] = ()
    graphs: dict[str, dict[str, tuple[str, ...]]]
    part_graphs: dict[str, dict[str, tuple[str, ...]]] = msgspec.field(default_factory=dict)
    weights: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    default_precision: str
    directions: dict[str, str] = msgspec.field(default_factory=dict)
    golden: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    tolerances: dict[str, float] = msgspec.field(default_factory=dict)
    psnr: dict[str, float] = msgspec.field(default_factory=dict)
    tools: dict[str, str] = msgspec.field(default_factory=dict)
    licence: str = ""
    checkpoint: dict[str, str] = msgspec.field(default_factory=dict)
    files: dict[str, FileEntry]

    @property
    def visible_rows(self) -> tuple[int, int]:
        return self.input.visible_rows

    @property
    def precisions(self) -> list[str]:
        """The precisions in which every stage has a graph."""
        return sorted(set.intersection(*(set(self.graphs[stage]) for stage in self.stages)) - FORMS)

    @property
    def identity(self) -> str:
        """Which model this is: a SHA-256 over the sizes and the stage files of one precision (the standard one where there is one).

        Directions and further variants do not change it, so an inversion stays valid when they are added.
        """
        precision = STANDARD if STANDARD in self.precisions else self.default_precision
        graphs = [file for stage in self.stages for file in self.graphs[stage][precision]]
        hashes = {name: self.files[name].sha256 for graph in graphs for name in (graph, *self.weights.get(graph, ()))}
        names = {letter: name for name, letter in first_schema()["sizes"].items()}  # so that inversions of schema 1 stay valid
        sizes = {names.get(letter, letter): size for letter, size in self.sizes.items()}
        text = json.dumps([self.method, sizes, list(self.visible_rows), hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def parse_manifest(text: bytes, origin: str = MANIFEST_NAME) -> Manifest:
    """The manifest in JSON; `origin` names it in errors. Raises BundleError for anything that its schema does not allow."""
    try:
        data = parse_json(text, what=origin)
    except JsonError as error:
        raise BundleError(f"{error}; {BUILD_HINT}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        update = "update with: pip install --upgrade sdic-toolkit"
        raise BundleError(f"{origin} has schema {schema}, and this version reads schema {SCHEMA}; {update}")
    try:
        if not isinstance(data, dict):
            raise BundleError("it is not a JSON object")
        if schema not in (1, SCHEMA) or isinstance(schema, bool):
            raise BundleError(f"schema is {schema!r:.60}, expected {SCHEMA}")
        content = {key: value for key, value in (_from_first_schema(data) if schema == 1 else data).items() if key != "schema"}
        manifest = convert(content, Manifest)
        check(manifest)
        _check(manifest)
    except (JsonError, BundleError) as error:
        raise BundleError(f"{origin} is not a valid bundle manifest: {printable(str(error), SHOWN)}; {BUILD_HINT}") from error
    return manifest


def manifest_text(manifest: Manifest) -> str:
    """What `parse_manifest` reads."""
    data: dict[str, Any] = {"schema": SCHEMA, **msgspec.to_builtins(manifest)}
    data["files"] = dict(sorted(data["files"].items()))
    return msgspec.json.format(json.dumps(data), indent=1) + "\n"


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write `bundle.json` into `folder`, whole or not at all; what would not read back is refused."""
    text, path = manifest_text(manifest), Path(folder) / MANIFEST_NAME
    parse_manifest(text.encode(), str(path))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def file_entries(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, FileEntry]:
    """The entries of the files `names` as they lie under `folder` now: for the manifest of a new bundle."""
    root = Path(folder)
    return {name: FileEntry(sha256(root / name), (root / name).stat().st_size) for name in names}


@cache
def first_schema() -> dict[str, Any]:
    """What schema 1 left unsaid, in the words of schema 2: it knew one method."""
    data: dict[str, Any] = json.loads(FIRST_SCHEMA.read_text(encoding="utf-8"))
    return data


def _from_first_schema(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1 as one of schema 2. Raises BundleError where it is not of that form."""
    first = first_schema()
    try:
        renamed = {**first["defaults"], **{key: value for key, value in data.items() if key in first["same"]}}
        unknown = [key for key in data if key not in (*first["same"], *first["changed"], "schema")]
        if unknown:
            raise BundleError(f'unknown key "{unknown[0]}"')
        graphs = {key: {variant: [file] for variant, file in choices.items()} for key, choices in data["stages"].items()}
        graphs |= {key: {variant: [file] for variant, file in choices.items()} for key, choices in data.get("partials", {}).items()}
        for key, files in data.get("cpu", {}).items():
            graphs.setdefault(key, {})[first["cpu"]] = files
        listed = sorted(data["files"])
        # In schema 1 external weights were found by their names: those of a stage's standard graph may be read by all of its graphs.
        weights: dict[str, list[str]] = {}
        for key, variants in graphs.items():
            whole = graphs.get(key.partition(":")[0], {})
            for variant, files in variants.items():
                own = whole.get("fp32" if variant == first["cpu"] else variant, ())
                sharing = tuple(f"{graph}." for graph in (*own, *files, *(whole.get(variant, ()) if variant == first["cpu"] else ())))
                for graph in files:
                    names = [name for name in listed if name.startswith(sharing) and name.endswith(".data")]
                    weights |= {graph: names} if names else {}
        for key, files in data.get("cpu", {}).items():  # backends that run the same graphs
            graphs[key] |= {variant: files for variant, keys in first["cpu_too"].items() if key in keys and len(files) == 1}
        sizes = {first["sizes"][name]: size for name, size in data["sizes"].items()}
        method = {name: first[name] for name in ("tensors", "stages", "programs", "keeps", "moves")}
        return {**renamed, **method, "sizes": sizes, "input": {"visible_rows": data["visible_rows"]}, "graphs": graphs, "weights": weights}
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"it is not of the form of schema 1 ({type(error).__name__}: {error})") from error


def _check(manifest: Manifest) -> None:
    """Raise BundleError where rows, graphs or files do not fit the rest."""
    first, end = manifest.visible_rows
    picture, working = manifest.sizes["R"], manifest.sizes["S"]
    if not 0 <= first < end <= picture:
        raise BundleError(f"visible_rows is {[first, end]}, expected [first, end] within 0..{picture}")
    if any(row * working % picture for row in (first, end)):
        raise BundleError(f"visible_rows {[first, end]} does not fall on whole rows at the working size {working}")
    if sum(manifest.style_layers) != manifest.sizes.get(STYLES_LETTER, 0) or any(width < 1 for width in manifest.style_layers):
        have = manifest.sizes.get(STYLES_LETTER, "no")
        raise BundleError(f"style_layers has {sum(manifest.style_layers)} styles, and the sizes say {have}")
    for stage in manifest.stages:
        if not manifest.graphs.get(stage):
            raise BundleError(f'the stage "{stage}" has no graphs')
    for key in manifest.graphs:
        stage, colon, output = key.partition(":")
        if stage not in manifest.stages or (colon and output not in manifest.stages[stage].outputs):
            raise BundleError(f'graphs has "{key}", expected a stage or "stage:output" of the stage table')
    for key in manifest.part_graphs:
        if key not in manifest.parts:
            raise BundleError(f'part_graphs has "{key}", expected a stage of cuts')
    for key, variants in (*manifest.graphs.items(), *manifest.part_graphs.items()):
        empty = [variant for variant, files in variants.items() if not files]
        if empty:
            raise BundleError(f'graphs["{key}"]["{empty[0]}"] is empty, expected a list of files')
    if manifest.default_precision not in manifest.precisions:
        complete = ", ".join(manifest.precisions) or "none"
        raise BundleError(f'default_precision is "{manifest.default_precision}", and all stages are there in: {complete}')
    wrong = [name for name, value in manifest.tolerances.items() if not 0 < value < math.inf]
    if wrong:
        raise BundleError(f'tolerances["{wrong[0]}"] is {manifest.tolerances[wrong[0]]}, expected a positive number')
    outside = [name for name in manifest.files if not is_inside(name)]
    if outside:
        raise BundleError(f'the file name "{outside[0]}" leaves the bundle')
    tables = (*manifest.graphs.values(), *manifest.part_graphs.values())
    graphs = [file for variants in tables for files in variants.values() for file in files]
    weights = [file for files in manifest.weights.values() for file in files]
    for name in (*graphs, *weights, *manifest.directions.values(), *([manifest.golden] if manifest.golden else [])):
        if name not in manifest.files:
            raise BundleError(f'"{name}" is not listed under files')
