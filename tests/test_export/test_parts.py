"""Small models of the methods in several files through build, invert, edit, compare: what ONNX Runtime gives is what PyTorch gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_methods
import small_parts as small
from small_bundles import small_bundle

from sdic_export.build import BuildOptions, build
from sdic_export.verify import verify
from sdic_runtime.edits import GanSpaceEdit, Pca
from sdic_runtime.errors import ArgumentError
from sdic_runtime.pipeline import Pipeline


@pytest.fixture(scope="module", params=small.BUILDERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, small_bundle(tmp_path_factory, request.param)


def test_a_checkpoint_becomes_a_bundle_that_verifies(built: tuple[str, Path]) -> None:
    method, bundle = built
    assert json.loads((bundle / "bundle.json").read_text())["method"] == method
    assert not verify(bundle).failures


def test_inversions_and_edits_are_those_of_pytorch(built: tuple[str, Path]) -> None:
    method, bundle = built
    pictures = small_methods.small_images(small.small_model(method).config).numpy()
    rng, width = np.random.default_rng(0), small_methods.SMALL.style_width
    direction = rng.normal(0, 0.2, (1, width)).astype(np.float32)
    component = np.linalg.qr(rng.normal(size=(width, 4)))[0].T[:, None].astype(np.float32)
    pca = Pca(np.zeros((1, width), np.float32), component, np.ones(4, np.float32))
    edits = {"direction": direction, "ganspace": GanSpaceEdit(pca, 1, 2, 9, 2.0)}
    with Pipeline.load(bundle, backend="onnxruntime") as ort, Pipeline.load(bundle, backend="torch") as torch:
        inversion, reference = ort.invert(pictures), torch.invert(pictures)
        for name, held in reference.tensors.items():
            close(inversion.tensors[name].host(), held.host(), name)
        for move, form in ort.moves.items():
            change = edits[form.kinds[0]]
            edit, want = (pipeline.edit(made, change, 1.5, move=move) for pipeline, made in ((ort, inversion), (torch, reference)))
            close(edit.pixels, want.pixels, move)
            assert np.abs(edit.pixels - inversion.pixels).max() > 0.01
            zero = ort.edit(inversion, change, 0.0, move=move)
            assert np.abs(zero.pixels - inversion.pixels).max() < 1e-5
        close(ort.baseline(inversion).pixels, torch.baseline(reference).pixels, "baseline")


def test_weights_for_research_alone_are_built_with_consent_and_marked(tmp_path: Path, built: tuple[str, Path]) -> None:
    method, bundle = built
    if method == "fs":
        licence = json.loads((bundle / "bundle.json").read_text())["licence"]
        assert licence.startswith("The weights of FS are under InterDigital's Limited Software Evaluation License: for fundamental")
        others = small.write_small(tmp_path / "small.pt", "fs")
        with pytest.raises(ArgumentError, match=r"for fundamental research alone.* do not redistribute or serve it.* --research-only"):
            build(BuildOptions(tmp_path / "small.pt", tmp_path / "bundle", others=others))
        assert not (tmp_path / "bundle").exists()


def close(got: np.ndarray, want: np.ndarray, name: str) -> None:
    assert got.shape == want.shape, name
    assert np.abs(got - want).max() <= 3e-4 * want.std(), name
