"""Small models of e4e, pSp, ReStyle and HFGI through build, invert, edit, compare: what ONNX Runtime gives is what PyTorch gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_methods as small
from exported_once import exporting_once
from PIL import Image
from small_bundles import small_bundle
from typer.testing import CliRunner

from sdic_export import build as building
from sdic_export.build import BuildOptions, build
from sdic_export.cli.app import app
from sdic_export.verify import verify
from sdic_runtime.cli.app import main as run_command
from sdic_runtime.errors import CheckpointError
from sdic_runtime.pipeline import Pipeline
from sdic_train.checkpoints.load import save_checkpoint


@pytest.fixture(scope="module", params=small.BUILDERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, small_bundle(tmp_path_factory, request.param)


def test_a_checkpoint_becomes_a_bundle_that_verifies(built: tuple[str, Path]) -> None:
    method, bundle = built
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["method"] == method
    assert not verify(bundle, checkpoint=bundle.parent / ("light.pt" if method == "sfe" else "small.pt")).failures
    assert ("latent_1" in manifest["keeps"]) == ("restyle" in method)
    others = {"psp": "../generator.pt", "sfe": "../generator.pt\n../e4e.pt"}
    assert manifest["checkpoint"].get("others") == others.get(method)


def test_inversions_and_edits_are_those_of_pytorch(built: tuple[str, Path]) -> None:
    method, bundle = built
    pictures = small.small_images(small.small_model(method).config).numpy()
    direction = np.random.default_rng(0).normal(0, 0.2, (1, small.SMALL.style_width)).astype(np.float32)
    with Pipeline.load(bundle, backend="onnxruntime") as ort, Pipeline.load(bundle, backend="torch") as networks:
        inversion, reference = ort.invert(pictures), networks.invert(pictures)
        for name, held in reference.tensors.items():
            close(inversion.tensors[name].host(), held.host(), name)
        for move in ort.moves:
            edit, want = (pipeline.edit(made, direction, 1.5, move=move) for pipeline, made in ((ort, inversion), (networks, reference)))
            close(edit.pixels, want.pixels, move)
            assert np.abs(edit.pixels - inversion.pixels).max() > 0.01
            zero = ort.edit(inversion, direction, 0.0, move=move)
            assert np.abs(zero.pixels - inversion.pixels).max() < 1e-5
        if method == "hfgi":
            close(ort.baseline(inversion).pixels, networks.baseline(reference).pixels, "baseline")


def test_a_mask_keeps_a_region_of_the_feature_unedited(built: tuple[str, Path]) -> None:
    if built[0] != "sfe":
        pytest.skip("the method of the mask alone")
    pictures, mask = small.small_images(small.LARGER).numpy(), np.zeros((1, 1, 256, 256), np.float32)
    direction = np.zeros((14, small.SMALL.style_width), np.float32)
    direction[:9] = np.random.default_rng(0).normal(0, 1, (9, small.SMALL.style_width))
    with Pipeline.load(built[1], backend="onnxruntime") as ort, Pipeline.load(built[1], backend="torch") as networks:
        inversion, reference = ort.invert(pictures), networks.invert(pictures)
        plain = ort.edit(inversion, direction).pixels
        for value in (0, 1):
            mask[..., :128] = value
            edit = ort.edit(inversion, direction, extras={"mask": mask}).pixels
            close(edit, networks.edit(reference, direction, extras={"mask": mask}).pixels, f"mask {value}")
            assert (np.abs(edit - plain).max() > 1e-3) == bool(value)


def test_the_command_line_keeps_a_region(
    built: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--keep` is the mask of the edit; methods whose edits take none say so."""
    method, bundle = built
    if method not in ("sfe", "e4e"):
        pytest.skip("one method with a mask and one without")
    monkeypatch.chdir(tmp_path)
    with Pipeline.load(bundle, backend="onnxruntime") as pipeline:
        side, width = pipeline.sizes["S"], pipeline.sizes["C"]
        picture = (np.random.default_rng(1).random((side, side, 3)) * 255).astype(np.uint8)
        mask, vector = np.zeros((side, side), np.uint8), np.random.default_rng(0).normal(0, 1, (1, width)).astype(np.float32)
        mask[:, : side // 2] = 255
        Image.fromarray(picture).save("p.png"), Image.fromarray(mask).save("m.png"), np.save("d.npy", vector)
        common = ["p.png", "--bundle", str(bundle), "--backend", "onnxruntime", "--edit", "d.npy:2"]
        code = run_command(["edit", *common, "--keep", "m.png"])
        if method == "e4e":
            assert code == 2 and "(e4e) take no mask; omit it" in capsys.readouterr().err
            return
        inversion = pipeline.invert(picture)
        want = pipeline.edit(inversion, vector, 2.0, extras={"mask": mask[None, None].astype(np.float32) / 255}).images[0]
        plain = pipeline.edit(inversion, vector, 2.0).images[0]
    assert code == 0 and np.array_equal(np.asarray(Image.open("p.d+2.png")), np.asarray(want)) and want.tobytes() != plain.tobytes()
    assert run_command(["sweep", *common, "--keep", "m.png", "--steps", "2"]) == 0
    frames = [Path(name).read_bytes() for name in ("p.d+2.strip.png",)]
    assert run_command(["sweep", *common, "--steps", "2"]) == 0 and Path("p.d+2.strip.png").read_bytes() != frames[0]


def close(got: np.ndarray, want: np.ndarray, name: str) -> None:
    assert got.shape == want.shape, name
    assert np.abs(got - want).max() <= 2e-4 * want.std(), name


def test_a_file_that_may_be_of_two_methods_is_asked_about(tmp_path: Path) -> None:
    checkpoint = small.write_small(tmp_path / "old.pt", "psp", opts={})
    with pytest.raises(CheckpointError, match="say it with --method e4e or --method psp"):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_iterates_as_the_training_did_unless_told_otherwise(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, path = small.small_model("restyle-e4e"), tmp_path / "model.safetensors"
    save_checkpoint(path, model.config, model.latent_avg, {"iterations": "2"}, encoder=model.encoder, generator=model.generator)
    for name, count, kept in (("trained", None, ["latent_1"]), ("told", 3, ["latent_1", "latent_2"])):
        with exporting_once(tmp_path_factory):
            build(BuildOptions(path, tmp_path / name, iterations=count, parts=False, cpu_graphs=False))
        keeps = json.loads((tmp_path / name / "bundle.json").read_text())["keeps"]
        assert [each for each in keeps if each.startswith("latent_")] == kept


def test_the_command_takes_what_only_its_user_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[BuildOptions] = []

    def record(options: BuildOptions, progress: object) -> None:
        taken.append(options)
        raise CheckpointError("enough")

    monkeypatch.setattr(building, "build", record)
    words = ["build", "a.pt", "--out", str(tmp_path / "b"), "--method", "psp", "--with", "c.pt", "--with", "d.pt", "--iterations", "3"]
    CliRunner().invoke(app, words)
    (options,) = taken
    assert (options.method, options.others, options.iterations) == ("psp", [Path("c.pt"), Path("d.pt")], 3)
