"""The smallest generator: its tail has one size, and no parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SMALLEST

from sdic_export.build import BuildOptions, build
from sdic_export.methods import EXPORTS
from sdic_runtime import Direction, Pipeline
from sdic_train.checkpoints.load import save_checkpoint
from sdic_train.networks.sdic.model import SDIC


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("smallest"), SDIC(SMALLEST).eval()
    parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
    save_checkpoint(folder / "model.safetensors", SMALLEST, model.latent_avg, **parts)
    whole = EXPORTS["sdic"]
    with pytest.MonkeyPatch.context() as patch:  # the stages that have no pictures of the generator's are those of any other model
        cpu, openvino = ({name: form for name, form in forms.items() if "generator" in name} for forms in (whole.cpu, whole.openvino))
        patch.setitem(EXPORTS, "sdic", replace(whole, cpu=cpu, openvino=openvino))
        build(BuildOptions(folder / "model.safetensors", folder / "bundle"))
    return folder / "bundle"


def test_a_generator_of_64_pixels_is_inverted_and_edited_as_its_networks_do(bundle: Path) -> None:
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    edit = Direction(random.normal(size=(SMALLEST.rows, SMALLEST.style_width)).astype(np.float32), "any")
    seen: dict[str, list[np.ndarray]] = {}
    for backend in ("onnxruntime", "torch"):
        with Pipeline.load(bundle, backend=backend) as pipeline:
            inversion = pipeline.invert(image)
            edits = [pipeline.edit(inversion, edit, 1.0, move=move).pixels for move in pipeline.moves]
            assert np.array_equal(pipeline.edit(inversion, edit, 0.0).pixels, inversion.pixels)
            seen[backend] = [inversion.pixels, *edits]
    for ours, reference in zip(*seen.values(), strict=True):
        assert ours.shape == (2, 3, 64, 64)
        assert 0.1 < reference.std() < 10 and np.abs(ours - reference).max() < 1e-4 * reference.std()
