"""Model repositories of methods with programs of edits alone, further inputs, and graphs that are for one picture at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_methods
from small_bundles import small_bundle
from triton_steps import carried_out, parsed

from sdic_export.triton.repository import TritonOptions, write_repository
from sdic_runtime.pipeline import Pipeline


def test_what_edits_alone_need_is_an_ensemble_of_its_own(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    bundle, folder = small_bundle(tmp_path_factory, "sfe"), tmp_path / "models"
    write_repository(TritonOptions(bundle, folder, warm_up=False))
    configs, images = parsed(folder), small_methods.small_images(small_methods.LARGER).numpy()
    direction = np.random.default_rng(0).normal(0, 0.2, (14, small_methods.SMALL.style_width)).astype(np.float32)
    mask = np.zeros((2, 1, 256, 256), np.float32)
    mask[..., :128] = 1
    prefix = next(name for name, config in configs.items() if name.endswith("_prepare")).removesuffix("prepare")
    known = carried_out(folder, configs, f"{prefix}invert", {"image": images}) | {"image": images}
    prepare = configs[f"{prefix}prepare"]
    made = carried_out(folder, configs, prepare.name, {tensor.name: known[tensor.name] for tensor in prepare.input})
    given = known | made | {"mask": mask, "direction": np.stack([direction] * 2), "strength": np.full((2, 1), 1.5, np.float32)}
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        move = next(iter(pipeline.moves.values()))
        edit = configs[prefix + move.program]
        found = carried_out(folder, configs, edit.name, {tensor.name: given[tensor.name] for tensor in edit.input})
        expected = pipeline.edit(pipeline.invert(images), direction, 1.5, extras={"mask": mask}).pixels
    assert set(made) == set(pipeline.bundle.manifest.prepared)
    assert np.allclose(found["picture"], expected, rtol=0, atol=1e-4)


def test_a_graph_for_one_picture_limits_the_batch(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    bundle, folder = small_bundle(tmp_path_factory, "hyperstyle"), tmp_path / "models"
    write_repository(TritonOptions(bundle, folder))
    configs, image = parsed(folder), small_methods.small_images(small_methods.LARGER, 1).numpy()
    assert {config.max_batch_size for config in configs.values()} == {1}
    name = next(name for name in configs if name.endswith("_invert"))
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        expected = pipeline.invert(image).pixels
    assert np.allclose(carried_out(folder, configs, name, {"image": image})["picture"], expected, rtol=0, atol=1e-4)
