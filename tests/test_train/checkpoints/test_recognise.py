"""Which method a file is of: told by its networks and options, asked where neither says, refused in one sentence where nothing fits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_methods as small
import torch

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import describe, load_encoder, load_generator, read_checkpoint, save_checkpoint
from sdic_train.checkpoints.models import load_encoded, load_hfgi, load_restyle, load_sfe, load_sfe_inverter
from sdic_train.checkpoints.recognise import KINDS, kind_of, known_methods, method_of
from sdic_train.methods import METHODS, method_of_file
from sdic_train.networks.restyle import ReStyle


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("methods")
    return {method: small.write_small(folder / f"{method}.pt", method) for method in small.BUILDERS}


def changed(path: Path, source: str, drop: str = "", options: dict[str, Any] | None = None, **top: Any) -> Path:
    """The container of the small `source` without the weights whose names match `drop`; `options` replace its own."""
    content = small.small_container(source, small.small_model(source), **top)
    content["state_dict"] = {name: tensor for name, tensor in content["state_dict"].items() if not drop or not re.search(drop, name)}
    content = {name: value for name, value in content.items() if value is not None}
    torch.save({**content, "opts": content["opts"] if options is None else options}, path)
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("method", small.BUILDERS)
def test_every_method_is_told_and_loads_whole(method: str, files: dict[str, Path]) -> None:
    assert method_of_file(files[method]) is METHODS[method]
    loaded, model = METHODS[method].load(files[method], None), small.small_model(method)
    assert same(loaded, model) and loaded.config == model.config and not loaded.training
    image = small.small_images(model.config, 1)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    said = dict(describe(files[method]))
    assert (said["kind"], said["method"]) == (small.KIND[method], method)
    assert said["licence"].startswith("the release states no licence" if method == "hfgi" else "MIT")


@pytest.mark.parametrize(("method", "other"), [("psp", "e4e"), ("e4e", "psp"), ("restyle-psp", "restyle-e4e"), ("hfgi", "e4e")])
def test_no_file_is_taken_for_another_method(method: str, other: str, files: dict[str, Path]) -> None:
    message = f"is a checkpoint of {small.KIND[method]} and not of {small.KIND[other]}; give a {small.KIND[other]} checkpoint"
    with pytest.raises(CheckpointError, match=message):
        METHODS[other].load(files[method], None)


@pytest.mark.parametrize(
    ("method", "kinds", "methods"),
    [("e4e", "e4e or pSp", ("e4e", "psp")), ("restyle-psp", "ReStyle-e4e or ReStyle-pSp", ("restyle-e4e", "restyle-psp"))],
)
def test_what_the_options_do_not_say_is_asked(method: str, kinds: str, methods: tuple[str, str], tmp_path: Path) -> None:
    path = changed(tmp_path / "old.pt", method, options={})
    with pytest.raises(CheckpointError, match=f"may be of {kinds}.* say it with --method {methods[0]} or --method {methods[1]}$"):
        method_of_file(path)
    forms = [METHODS[name].load(path, None).config.encoder.form for name in methods]  # who names the method has answered
    assert forms == ["e4e", "psp"]
    assert load_generator(path).config.resolution == small.SMALL.resolution  # whose generator it is does not matter


def test_other_encoders_of_the_released_code_are_refused(tmp_path: Path) -> None:
    path = changed(tmp_path / "w.pt", "psp", options={"encoder_type": "BackboneEncoderUsingLastLayerIntoW"})
    with pytest.raises(CheckpointError, match='encoder of the type "BackboneEncoderUsingLastLayerIntoW", which is not known here'):
        read_checkpoint(path)
    content = small.small_container("psp", small.small_model("psp"))
    content["state_dict"]["encoder.input_layer.0.weight"] = torch.ones(4, 19, 3, 3)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="reads 19 channels: sketches and label maps cannot be inverted here"):
        read_checkpoint(path)


def test_incomplete_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is HFGI without grid_align., so it is not complete; download it again$"):
        read_checkpoint(changed(tmp_path / "a.pt", "hfgi", drop="^grid_align"))
    with pytest.raises(CheckpointError, match=r"lacks \(encoder.styles.3.convs.0.bias\), so it is not complete"):
        load_encoded(changed(tmp_path / "b.pt", "psp", drop=r"^encoder.styles.3.convs.0.bias"), kind="pSp")
    with pytest.raises(CheckpointError, match="has a StyleGAN3 generator, which no method here uses"):
        state = {"encoder.input_layer.0.weight": torch.ones(4, 6, 3, 3), "decoder.synthesis.input.freqs": torch.ones(2)}
        torch.save({"state_dict": state, "opts": {"encoder_type": "BackboneEncoder"}}, tmp_path / "c.pt")
        read_checkpoint(tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"holds no complete set of known networks .*; give a checkpoint of SDIC, HFGI, e4e, pSp"):
        kind_of(tmp_path, {"fc.weight": torch.ones(1)}, {})


def test_the_mean_latent_code_comes_from_where_it_is(tmp_path: Path) -> None:
    model, other = small.small_model("psp"), torch.arange(16.0)
    lacking = changed(tmp_path / "psp.pt", "psp", latent_avg=None)
    computed = load_encoded(lacking, kind="pSp").latent_avg
    assert computed.shape == model.latent_avg.shape and not torch.equal(computed, model.latent_avg)
    torch.save({"g_ema": model.generator.state_dict(), "latent_avg": other}, tmp_path / "generator.pt")
    given = load_encoded(lacking, None, [tmp_path / "generator.pt"], "pSp").latent_avg
    assert torch.equal(given, other.expand(small.PSP.rows, -1))
    torch.save({"g_ema": model.generator.state_dict()}, tmp_path / "without.pt")
    with pytest.raises(CheckpointError, match=r"without.pt\" has no latent_avg; give the generator file that the model was trained on$"):
        load_encoded(lacking, None, [tmp_path / "without.pt"], "pSp")
    options = {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": False}
    assert not load_encoded(changed(tmp_path / "zero.pt", "psp", options=options), kind="pSp").latent_avg.any()
    one = load_encoded(changed(tmp_path / "w.pt", "psp", latent_avg=other[None]), kind="pSp").latent_avg
    assert torch.equal(one, other.expand(small.PSP.rows, -1))


def test_restyle_starts_from_the_picture_of_its_own_mean_code(files: dict[str, Path]) -> None:
    model = load_restyle(files["restyle-psp"])
    assert model.average.shape == (1, 3, 128, 128) and torch.equal(model.average, small.small_model("restyle-psp").average)


def test_a_resnet_encoder_is_read_off_the_shapes(tmp_path: Path) -> None:
    config = replace(small.RESTYLE["e4e"], encoder=replace(small.RESTYLE["e4e"].encoder, body="resnet", units=(2, 1, 1, 1)))
    model, path = ReStyle(config).eval(), tmp_path / "wild.pt"
    options = {"dataset_type": "ffhq_encode", "encoder_type": "ResNetProgressiveBackboneEncoder"}
    torch.save(small.small_container("restyle-e4e", model, opts=options), path)
    loaded = METHODS["restyle-e4e"].load(path, None)
    assert loaded.config == config and same(loaded, model)


def test_the_sizes_of_hfgi_are_read_off_the_shapes(files: dict[str, Path]) -> None:
    model = load_hfgi(files["hfgi"])
    assert model.aligner.dconv_layer2[0].res_layer[1].weight.shape[0] == small.HFGI_SIZES.ascent[1]


def test_the_parts_of_style_feature_editor_come_from_their_files(tmp_path: Path) -> None:
    model = small.small_model("sfe")
    light, (generator, e4e) = small.split_sfe(tmp_path, model)
    assert method_of_file(light) is METHODS["sfe"] and ("kind", "SFE") in describe(light)
    loaded = load_sfe(light, None, [e4e, generator])
    assert same(loaded, model) and torch.equal(loaded.latent_avg, model.latent_avg)
    with pytest.raises(
        CheckpointError, match=r"is SFE without its generator; give that file with --with FILE \(stylegan2-ffhq-config-f.pt, at "
    ):
        load_sfe(light, None, [e4e])
    with pytest.raises(CheckpointError, match=r"is SFE without its e4e encoder; give that file with --with FILE \(e4e_ffhq_encode.pt, at "):
        load_sfe(light, None, [generator])
    psp = small.write_small(tmp_path / "psp.pt", "psp")
    with pytest.raises(CheckpointError, match='psp.pt" is a pSp checkpoint, which a SFE model does not use; omit it'):
        load_sfe(light, None, [generator, psp])
    inverter = changed(tmp_path / "inverter.pt", "sfe-inverter", drop="^decoder", options={})
    assert method_of_file(inverter) is METHODS["sfe-inverter"]
    assert torch.equal(load_sfe_inverter(inverter, None, [generator]).latent_avg, model.latent_avg)


def test_the_encoder_for_training_is_an_e4e_one(files: dict[str, Path]) -> None:
    assert same(load_encoder(files["hfgi"])[0], small.small_model("hfgi").encoder)
    for method in ("psp", "restyle-e4e"):
        with pytest.raises(CheckpointError, match=f"is a {small.KIND[method]} checkpoint without an e4e encoder"):
            load_encoder(files[method])


def test_own_files_keep_their_form(tmp_path: Path) -> None:
    model = small.small_model("psp")
    save_checkpoint(tmp_path / "psp.safetensors", model.config, model.latent_avg, encoder=model.encoder, generator=model.generator)
    assert method_of_file(tmp_path / "psp.safetensors").name == "psp"
    assert same(load_encoded(tmp_path / "psp.safetensors", kind="pSp"), model)


def test_a_generator_alone_is_no_method() -> None:
    with pytest.raises(CheckpointError, match="a StyleGAN2 checkpoint holds no inversion method; give one of: SDIC, HFGI, e4e, pSp"):
        method_of("StyleGAN2")
    assert {KINDS[name].method for name in known_methods()} == set(METHODS) - {"sketches"}  # that of other tests
