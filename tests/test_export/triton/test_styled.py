"""Model repositories of bundles with style space: an inversion gives zeros, an edit takes offsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_methods as small
from small_bundles import styled_bundle
from triton_steps import carried_out, parsed

from sdic_export.triton.repository import TritonOptions, write_repository
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.styles import StyleDirection
from sdic_train.networks.style_space import layer_widths


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_offsets_are_an_input_of_the_edit(backend: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    bundle, folder = styled_bundle(tmp_path_factory), tmp_path / "models"
    write_repository(TritonOptions(bundle, folder, backend=backend, warm_up=False))
    configs, images = parsed(folder), small.small_images(small.SMALL).numpy()
    name, count = next(name for name in configs if name.endswith("_invert")).removesuffix("invert"), sum(layer_widths(small.SMALL))
    known = carried_out(folder, configs, f"{name}invert", {"image": images})
    assert not known["styles"].any() and known["styles"].shape == (2, count)
    style = np.random.default_rng(0).normal(0, 0.3, count).astype(np.float32)
    direction = np.random.default_rng(1).normal(0, 0.2, (12, small.SMALL.style_width)).astype(np.float32)
    given = {"latent": known["latent"], "direction": np.stack([direction] * 2), "strength": np.full((2, 1), 0.5, np.float32)}
    edit = configs[f"{name}edit"]
    assert {tensor.name: list(tensor.dims) for tensor in edit.input}["styles"] == [count]
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        inversion = pipeline.invert(images)
        for strength in (0.0, 2.0):
            found = carried_out(folder, configs, edit.name, given | {"styles": known["styles"] + np.float32(strength) * style})["picture"]
            expected = pipeline.edit(inversion, [(StyleDirection(style), strength), (direction, 0.5)]).pixels
            assert np.allclose(found, expected, rtol=0, atol=1e-4)
            changed = np.abs(found - pipeline.edit(inversion, direction, 0.5).pixels).max()
            assert changed > 0.05 if strength else changed < 1e-4
