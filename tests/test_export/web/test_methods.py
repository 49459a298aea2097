"""Other programs than SDIC's in the browser, beside what the Python pipeline makes of the same bundle: letterboxes, GANSpace, edits in
style space, iterations, programs of edits alone, and further inputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import other_method
import pytest
from PIL import Image
from site_pages import ISOLATED, Visits
from small_bundles import small_bundle
from tiny_bundle import change_manifest, noise, write_bundle

from sdic_export.web.site import WebOptions, write_site
from sdic_runtime import Pipeline
from sdic_runtime.directions import save_direction
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.edits import Direction
from sdic_runtime.pictures import to_bytes

CLOSE = 1  # level of 255
STRENGTH = 1.5

# In the page: the pipeline by itself, one edit after the other.
EDIT = """async ([file, orders]) => {
    const { Pipeline } = await import(new URL("pipeline.js", location.href));
    const pipeline = await Pipeline.load("wasm"), picture = await (await fetch(file)).blob();
    const pictures = [(await pipeline.invert(picture, false)).inversion];
    for (const [edits, move] of orders) pictures.push(await pipeline.edit(edits, move));
    return { edits: pipeline.described.edits.map((edit) => edit.name), pictures: pictures.map(({ pixels }) => [...pixels]) };
}"""


def check(bundle: Path, packed: Path, visit: Visits, tmp_path: Path, orders: list[tuple[Mapping[str, float], str | None]]) -> list[str]:
    """The site of `bundle` makes the same pictures; the names of what it has sliders for."""
    site = tmp_path / "site"
    write_site(WebOptions(bundle, site, packed, webgpu=False))
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)).resize((150, 130))
    photo.save(site / "photo.png")
    page = visit(site, ISOLATED, "site.json", ready=False)
    made = page.evaluate(EDIT, ["photo.png", [[list(edits.items()), move] for edits, move in orders]])
    with Pipeline.load(site / "bundle", "onnxruntime", threads=1, cpu_graphs=False) as pipeline:
        inversion = pipeline.invert(photo)
        expected = [inversion.pixels]
        for edits, move in orders:
            order = EditOrder(tuple(edits.items())).edit(pipeline.bundle, pipeline.directions)
            expected.append(pipeline.edit(inversion, order, move=move).pixels)
        rows = pipeline.bundle.manifest.visible_rows
    for index, (pixels, got) in enumerate(zip(expected, made["pictures"], strict=True)):
        whole = to_bytes(pixels, rows)[0].astype(int)
        assert np.abs(np.array(got).reshape(*whole.shape[:2], 4)[..., :3] - whole).max() <= CLOSE, index
        assert index == 0 or np.abs(pixels - expected[0]).max() > 0.02, f"edit {index} changes nothing"
    names: list[str] = made["edits"]
    return names


def with_directions(bundle: Path, folder: Path, directions: Mapping[str, Any], **changes: Any) -> Path:
    """A copy of a bundle with other directions."""
    shutil.copytree(bundle, folder)
    files = {name: f"directions/{name}.safetensors" for name in directions}
    (folder / "directions").mkdir(exist_ok=True)
    for name, direction in directions.items():
        save_direction(folder / files[name], direction)
    change_manifest(folder, list(files.values()), directions=files, **changes)
    return folder


def test_letterboxed_pictures_ganspace_presets_and_rows(packed: Path, visit: Visits, tmp_path: Path) -> None:
    rows = (16, 112)
    bundle = write_bundle(tmp_path / "tiny", rows, domain="cars")
    orders: list[tuple[Mapping[str, float], str | None]] = [
        ({"left": 1.2}, None), ({"age": 2.5, "left": -0.7}, "released"), ({"smile": STRENGTH}, None)
    ]  # fmt: skip
    names = check(bundle, packed, visit, tmp_path, orders)
    assert set(names) == {"age", "smile", "left", "right"}  # of the presets those whose components the basis has


@pytest.mark.full
def test_iterations(packed: Path, visit: Visits, tmp_path: Path) -> None:
    built = other_method.build(tmp_path)
    bundle = with_directions(built, tmp_path / "copy", {"along": other_method.direction(), "basis": other_method.basis()}, domain="cars")
    names = check(bundle, packed, visit, tmp_path, [({"along": STRENGTH}, None), ({"along": -STRENGTH}, "plain")])
    assert names == ["along"]  # no preset: the published ones move more style rows than this model has


@pytest.mark.full
@pytest.mark.parametrize("method", ["e4e", "restyle-psp", "sfe", "hyperstyle", "hfgi", "clcae", "fs"])
def test_methods(method: str, packed: Path, visit: Visits, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    built = small_bundle(tmp_path_factory, method)
    with Pipeline.load(built, "onnxruntime", threads=1) as pipeline:
        sizes = pipeline.sizes
    along = Direction(noise(sizes["L"], sizes["C"], seed=9) * np.float32(0.3), "along", "random", (-2, 2))
    bundle = with_directions(built, tmp_path / "copy", {"along": along})
    check(bundle, packed, visit, tmp_path, [({"along": STRENGTH}, None), ({"along": -0.5}, None)])
