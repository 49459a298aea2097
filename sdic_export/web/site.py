"""A static site of a bundle: the page, the bundle with its weights in half precision, and onnxruntime-web."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import sdic_runtime.studio
from sdic_export.build import finish, whole_stages
from sdic_export.golden import example_direction, pictures, read_golden, run_chain, smooth_pictures
from sdic_export.placement import placed_folder
from sdic_export.web.halves import HalfWriter
from sdic_export.web.runtime import VERSION, copy_runtime
from sdic_runtime.backends import onnxruntime
from sdic_runtime.bundle.bundle import DEMO_FOLDER, Bundle
from sdic_runtime.bundle.graphs import graph_keys
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.directions import Directions
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.edits import GANSPACE_PRESETS, Pca
from sdic_runtime.errors import ArgumentError, BundleError, MissingExtraError
from sdic_runtime.files import save_tensors
from sdic_runtime.pictures import load_picture, to_bytes
from sdic_runtime.program import IMAGE, INVERT, PICTURE
from sdic_runtime.styles import STYLE_PRESETS
from sdic_runtime.tools.list_directions import PRESET_KINDS, Listed, listed

PAGE = Path(__file__).with_name("page")
STUDIO = Path(sdic_runtime.studio.__file__).with_name("page")
FROM_STUDIO = ("studio.css", "address.js", "icon.svg")
SITE, CHECK = "site.json", "check.safetensors"
HALF, FULL = "float16", "float32"
WORST = 2  # levels of 255 that a picture may differ by from the one of the bundle's own weights
UNKNOWN_RANGE = (-3.0, 3.0)
CHECKED = 256  # pixels of the picture's side that the browser's check compares at most


@dataclass(frozen=True)
class WebOptions:
    """What to write where. `runtime`: the npm package onnxruntime-web, packed or unpacked; npm gets it when None. `weights`: how large
    weights are stored. `pictures`: example pictures for the page; those of the demo bundle when it is that."""

    bundle: Path
    folder: Path
    runtime: Path | None = None
    weights: str = HALF
    webgpu: bool = True
    pictures: Sequence[Path] = ()
    force: bool = False


@dataclass(frozen=True)
class Site:
    """What was written: bytes of the bundle in it, and by how many levels of 255 its worst picture differs from the bundle's own."""

    bundle_bytes: int
    worst: int


def write_site(options: WebOptions, progress: Callable[[str], None] = lambda what: None) -> Site:
    """Write the site, whole or not at all. Raises SdicError, for one where a picture differs by more than WORST levels."""
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", "export", "sdic-export web")
    check_site(options.folder, options.force)
    if options.weights not in (HALF, FULL):
        raise ArgumentError(f'the weights are "{options.weights}"; use {HALF} or {FULL}')
    bundle = Bundle.open(options.bundle)
    bundle.refuse_links("sdic-export web")
    if STANDARD not in bundle.manifest.precisions:
        raise BundleError(f"{bundle.path} has no complete set of stages in {STANDARD}, which browsers run; build it again")
    examples = options.pictures or (sorted((bundle.path / "pictures").glob("*.png")) if bundle.path.samefile(DEMO_FOLDER) else [])
    for picture in examples:
        load_picture(picture)
    with placed_folder(options.folder, options.force, check_site) as folder:
        progress("getting onnxruntime-web")
        copy_runtime(folder / "onnxruntime", options.runtime, options.webgpu)
        for path in (*sorted(PAGE.iterdir()), *(STUDIO / name for name in FROM_STUDIO)):
            shutil.copyfile(path, folder / path.name)
        progress("writing the bundle")
        small = _write_bundle(bundle, folder / "bundle", options.weights == HALF)
        progress("checking the pictures")
        worst = _check(bundle, small, folder / CHECK, options.weights)
        names = _copy_examples(examples, folder / "examples")
        described = {"onnxruntime": VERSION, "webgpu": options.webgpu, "examples": names, "edits": described_edits(bundle)}
        (folder / SITE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return Site(sum(entry.bytes for entry in small.manifest.files.values()), worst)


def check_site(path: Path, force: bool) -> None:
    """Raise ArgumentError when no site may be written to `path`: only one that was written by this command is replaced."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file; name a folder for the site")
    if path.is_dir() and any(path.iterdir()):
        if not (path / SITE).is_file():
            raise ArgumentError(f"{path} is a folder with other files in it, which are not overwritten; name a new folder")
        if not force:
            raise ArgumentError(f"there is already a site at {path}; replace it with --force or name another folder")


def described_edits(bundle: Bundle) -> list[dict[str, Any]]:
    """What the page has sliders for: name, kind, range, and for presets what they are made of; directions are read from their files."""
    return [
        {"name": item.name, "kind": item.kind, "range": item.strength_range or UNKNOWN_RANGE, **_made_of(bundle, item)}
        for item in listed(bundle)
        if item.components is None and _fits(bundle, item.name)
    ]


def _fits(bundle: Bundle, name: str) -> bool:
    """Whether the model can be edited so: presets are of certain models, and others of the domain may be smaller."""
    try:
        EditOrder.parse(name).edit(bundle)
    except ArgumentError:
        return False
    return True


def _made_of(bundle: Bundle, item: Listed) -> dict[str, Any]:
    manifest = bundle.manifest
    if item.kind == PRESET_KINDS["ganspace"]:
        basis = next(name for name, found in Directions(bundle).items() if isinstance(found, Pca))
        return {"basis": manifest.directions[basis], "component": GANSPACE_PRESETS[manifest.domain][item.name]}
    if item.kind == PRESET_KINDS["style"]:
        channels, amount, _ = STYLE_PRESETS[manifest.domain][item.name]
        return {"channels": channels, "amount": amount}
    return {"file": manifest.directions[item.name]}


def _write_bundle(bundle: Bundle, folder: Path, halve: bool) -> Bundle:
    """The bundle's standard graphs of whole stages and its directions, as a bundle of their own."""
    manifest, writer = bundle.manifest, HalfWriter(halve)
    graphs = {}
    for key in graph_keys(manifest, STANDARD):
        graph, paths = bundle.graph(key.partition(":")[0], [key.partition(":")[2]] if ":" in key else ["", ""], [STANDARD])
        if len(graph.files) > 1:
            raise BundleError(
                f'the graph "{key}" of {bundle.path} is in {len(graph.files)} bands, which the page does not run; build it again'
            )
        writer.write(paths[0], folder / graph.files[0])
        graphs[key] = {STANDARD: graph.files}
    for name in manifest.directions.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(name), folder / name)
    changes: dict[str, Any] = {
        "graphs": graphs,
        "part_graphs": {},
        "default_precision": STANDARD,
        "golden": None,
        "checkpoint": {},
        "psnr": {},
        "tolerances": {},
    }
    finish(folder, msgspec.structs.replace(whole_stages(manifest), **changes))
    return Bundle.open(folder)


def _check(bundle: Bundle, small: Bundle, path: Path, weights: str) -> int:
    """Compare the inversion and the edits of both bundles' standard graphs, and write the picture that the browser checks WebGPU by. The
    worst difference in levels of 255. Raises BundleError where it is more than WORST."""
    manifest = bundle.manifest
    image, direction = smooth_pictures(manifest.sizes["S"], 1), example_direction(manifest.sizes)
    if manifest.golden is not None:
        golden = read_golden(bundle.file(manifest.golden), manifest).tensors
        image, direction = np.ascontiguousarray(golden[IMAGE][:1]), golden["direction"]
    made = []
    for each in (bundle, small):
        backend = onnxruntime.load(each, precision=STANDARD, cpu_graphs=False)
        values = run_chain(backend, image, direction)
        made.append({name: to_bytes(values[name]) for name in pictures(manifest)})
        backend.close()
    differences = {name: int(np.abs(picture.astype(int) - made[1][name]).max()) for name, picture in made[0].items()}
    worst = max(differences, key=lambda name: differences[name])
    if differences[worst] > WORST:
        what = f'with weights in {weights} the picture "{worst}" differs by {differences[worst]} of 255 levels, and {WORST} are allowed'
        raise BundleError(f"{what}; use --weights {FULL}" if weights == HALF else f"{what}; see: sdic-export verify {bundle.path}")
    step = -(-manifest.sizes["R"] // CHECKED)
    picture = made[1][manifest.programs[INVERT].gives[PICTURE]][0, step // 2 :: step, step // 2 :: step]
    save_tensors(path, {IMAGE: image, PICTURE: picture.astype(np.float32)}, {"step": str(step)})
    return differences[worst]


def _copy_examples(paths: Sequence[Path], folder: Path) -> list[str]:
    """Copy them under names of their own that a link can hold as they are."""
    if paths:
        folder.mkdir()
    names = [f"{number}_{re.sub(r'[^A-Za-z0-9_.-]', '_', path.name)}" for number, path in enumerate(paths, 1)]
    for path, name in zip(paths, names, strict=True):
        shutil.copyfile(path, folder / name)
    return [f"examples/{name}" for name in names]
