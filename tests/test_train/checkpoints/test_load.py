"""Checkpoints: every layout that users hold loads to the same numbers, and every bad file is one sentence."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdic_runtime.errors import SdicError
from sdic_train.checkpoints.files import read_safetensors, write_safetensors
from sdic_train.checkpoints.load import describe, load_encoder, load_generator, load_sdic, read_checkpoint, save_checkpoint
from sdic_train.checkpoints.recognise import PREFIXES
from sdic_train.config import TINY, DiscrepancyConfig
from sdic_train.networks.sdic.model import SDIC

# The released layout at small widths: the working size of every released model is 256.
WIDTHS = replace(TINY.encoder, widths=(4, 6, 8, 16))
SMALL = replace(
    TINY,
    encoder=WIDTHS,
    resolution=256,
    working=256,
    channels={**TINY.channels, 256: 4},
    domain="faces",
    discrepancy=replace(TINY.discrepancy, shift_rows=14),
)
CAR = replace(
    TINY,
    resolution=512,
    working=256,
    channels={**TINY.channels, 256: 4, 512: 4},
    domain="cars",
    encoder=replace(WIDTHS, crop=(32, 224)),
    discrepancy=replace(TINY.discrepancy, shift_rows=18),
)
UNUSED = {
    "DIP.stem_2.0.conv.weight": (4, 3, 3, 3),
    "DIP.hourglass_fusion.conv1_up.bn.weight": (1,),
    "SAF.aff2.1.weight": (4, 4, 3, 3),
    "SAF.aff1d.agg.0.weight": (4, 4, 3),
    "lpips_loss.net.layers.0.weight": (4, 3, 3, 3),
    "id_loss.facenet.input_layer.1.weight": (4,),
}


@pytest.fixture(scope="module")
def model() -> SDIC:
    torch.manual_seed(0)
    model = SDIC(SMALL).eval()
    model.latent_avg.normal_()
    return model


def container(model: SDIC, **changes: Any) -> dict[str, Any]:
    """The released container of `model`, unused weights and all."""
    names = {ours: released for released, ours in PREFIXES.items()}
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in model.state_dict().items():
        part, dot, rest = name.partition(".")
        if dot:
            state[names[part + dot] + rest] = tensor
    state.update({name: torch.ones(shape) for name, shape in UNUSED.items()})
    options = {"dataset_type": "ffhq_encode", "stylegan_size": 256, "encoder_type": "Encoder4Editing"}
    content = {"state_dict": state, "latent_avg": model.latent_avg, "opts": options}
    return {**content, **changes}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    state = first.state_dict()
    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_released_container_loads_whole(model: SDIC, tmp_path: Path) -> None:
    loaded = load_sdic(saved(tmp_path / "sdic.pt", container(model)))
    assert same(loaded, model)
    assert loaded.config == SMALL
    assert not loaded.training


def test_released_container_in_the_old_format_and_behind_data_parallel(model: SDIC, tmp_path: Path) -> None:
    content = container(model)
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in content["state_dict"].items()}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(load_sdic(tmp_path / "old.pt"), model)


def test_car_layout_is_read_off_the_shapes(tmp_path: Path) -> None:
    car = SDIC(CAR).eval()
    path = saved(tmp_path / "car.pt", container(car, opts={"dataset_type": "cars_encode", "stylegan_size": 1024}))
    loaded = load_sdic(path)
    assert loaded.config == CAR
    assert loaded.config.visible_rows == (64, 448)
    assert loaded.dicn.aff1d.sen[0].weight.shape[:2] == (4 * 18, 18 * 64 * 64 // CAR.style_width)
    assert ("conflict", "opts.stylegan_size says 1024, the weights are of a 512 generator; the weights decide") in describe(path)
    assert load_sdic(path, domain="faces").config.encoder.crop is None


def test_a_generator_alone_has_no_bars_unless_its_domain_is_said(tmp_path: Path) -> None:
    car = SDIC(CAR).eval()
    whole = container(car, opts={})
    assert load_sdic(saved(tmp_path / "car.pt", whole)).config == CAR, "as released, with options lost"
    generator = {name.removeprefix("generator."): tensor for name, tensor in car.state_dict().items() if name.startswith("generator.")}
    path = saved(tmp_path / "g.pt", {"g_ema": generator})
    assert load_generator(path).config.visible_rows == (0, 512) and load_generator(path).config.domain == "faces"
    assert load_generator(path, "cars").config.visible_rows == (64, 448)
    said = saved(tmp_path / "said.pt", {"g_ema": generator, "opts": {"dataset_type": "cars_encode"}})
    assert load_generator(said).config.domain == "cars" and load_generator(said, "faces").config.encoder.crop is None


def test_e4e_and_stylegan2_layouts(model: SDIC, tmp_path: Path) -> None:
    whole = container(model)
    e4e = {name: tensor for name, tensor in whole["state_dict"].items() if name.startswith(("encoder.", "decoder."))}
    path = saved(tmp_path / "e4e.pt", {**whole, "state_dict": e4e})
    assert read_checkpoint(path).kind == "e4e"
    encoder, average = load_encoder(path)
    assert same(encoder, model.encoder)
    assert torch.equal(average, model.latent_avg)
    generator = {name.removeprefix("decoder."): tensor for name, tensor in e4e.items() if name.startswith("decoder.")}
    for index, content in enumerate(
        (
            {"g_ema": generator, "g": generator, "d": {}, "latent_avg": torch.ones(16)},
            {"g_ema": generator},
            {"g_ema": generator, "args": argparse.Namespace(size=256)},
            generator,
        )
    ):
        assert same(load_generator(saved(tmp_path / f"{index}.pt", content)), model.generator), index
    with pytest.raises(SdicError, match="is an e4e checkpoint without DIPN and DICN; give an SDIC checkpoint"):
        load_sdic(path)
    with pytest.raises(SdicError, match="is a StyleGAN2 checkpoint without an e4e encoder"):
        load_encoder(tmp_path / "1.pt")


def test_stylegan2_without_noises_draws_the_same_ones_every_time(model: SDIC, tmp_path: Path) -> None:
    generator = {name: tensor for name, tensor in model.generator.state_dict().items() if not name.startswith("noises.")}
    path = saved(tmp_path / "g.pt", {"g_ema": generator})
    assert same(load_generator(path), load_generator(path))


def test_missing_latent_avg_is_the_mean_of_the_mapping_network(model: SDIC, tmp_path: Path) -> None:
    content = container(model)
    del content["latent_avg"]
    path = saved(tmp_path / "sdic.pt", content)
    with torch.no_grad():
        z = torch.randn(20000, SMALL.style_width, generator=torch.Generator().manual_seed(5))
        want = model.generator.mapping(z).mean(0)
    got = load_sdic(path).latent_avg
    assert got.shape == (SMALL.rows, SMALL.style_width)
    assert (got - want).abs().max() < 0.1 * model.generator.mapping(z).std()
    assert ("latent_avg", "missing: it is computed from the mapping network at load") in describe(path)


def test_own_format_round_trip(model: SDIC, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, SMALL, model.latent_avg, encoder=model.encoder, generator=model.generator, dipn=model.dipn, dicn=model.dicn)
    assert same(load_sdic(path), model)
    save_checkpoint(path, SMALL, generator=model.generator)
    assert read_checkpoint(path).kind == "StyleGAN2"
    assert same(load_generator(path), model.generator)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_storage_rounds_large_tensors_once(model: SDIC, tmp_path: Path) -> None:
    parts = {"encoder": model.encoder, "generator": model.generator, "dipn": model.dipn, "dicn": model.dicn}
    save_checkpoint(tmp_path / "whole.safetensors", SMALL, model.latent_avg, **parts)
    save_checkpoint(tmp_path / "half.safetensors", SMALL, model.latent_avg, half=True, **parts)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = load_sdic(tmp_path / "half.safetensors")
    for name, tensor in model.state_dict().items():
        want = tensor.half().float() if tensor.is_floating_point() and tensor.numel() >= 256 else tensor
        assert torch.equal(loaded.state_dict()[name], want), name
    assert loaded.latent_avg.dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
def test_loading_does_not_copy_the_weights(model: SDIC, tmp_path: Path) -> None:
    path = saved(tmp_path / "sdic.pt", container(model))
    loaded = load_sdic(path)  # held until the end: its file is unmapped with it
    address = loaded.encoder.input_layer[0].weight.data_ptr()
    ranges = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [[int(bound, 16) for bound in fields[0].split("-")] for fields in ranges]
    assert any(first <= address < last for first, last in spans)


BAD_BYTES = {
    "page.pt": (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not weights: it speaks of a download quota"),
    "empty.pt": (b"", r"is empty \(0 bytes\); download it again"),
    "text.pt": (b"hello", "is neither a PyTorch file nor safetensors"),
    "broken.safetensors": (b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!", "is truncated or not a safetensors file"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    content, message = BAD_BYTES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SdicError, match=message):
        load_sdic(tmp_path / name)


def test_truncated_missing_and_folder(model: SDIC, tmp_path: Path) -> None:
    path = saved(tmp_path / "sdic.pt", container(model))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(SdicError, match=r"ends early after [\d,]+ bytes: the download was cut off"):
        load_sdic(path)
    with pytest.raises(SdicError, match='there is no file ".*none.pt"; check the path'):
        load_sdic(tmp_path / "none.pt")
    with pytest.raises(SdicError, match="cannot read .*directory"):
        load_sdic(tmp_path)


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.target, "ran"))


def test_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    path = saved(tmp_path / "evil.pt", {"state_dict": {}, "extra": Payload(target)})
    with pytest.raises(SdicError, match="is a pickle that asks to run code"):
        load_sdic(path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(SdicError, match="is a pickle that asks to run code|is truncated or damaged"):
        load_sdic(tmp_path / "plain.pt")
    assert not target.exists()


def changed(model: SDIC, **state: torch.Tensor | None) -> dict[str, Any]:
    content = container(model)
    for name, tensor in state.items():
        content["state_dict"].pop(name, None)
        if tensor is not None:
            content["state_dict"][name] = tensor
    return content


def test_weights_that_do_not_fit_are_named(model: SDIC, tmp_path: Path) -> None:
    cases = {
        r"lacks \(dipn.rgb.0.res_layer.0.bias\), so it is not complete": {"DIP.rgb.0.res_layer.0.bias": None},
        r"lacks \(generator.noises.noise_3\)": {"decoder.noises.noise_3": None},
        r"has unknown weights \(dicn.novelty\), so it is of another model": {"SAF.novelty": torch.ones(1)},
        r"has unknown weights \(novelty.weight\)": {"novelty.weight": torch.ones(1)},
        r"wrong shape \(dicn.att.1.weight \[3\] instead of \[8, 8, 3, 3\]\)": {"SAF.att.1.weight": torch.ones(3)},
        "has another blur kernel than": {"decoder.convs.0.conv.blur.kernel": torch.ones(4, 4)},
        "lacks weights that every checkpoint of its kind has": {"decoder.conv1.conv.weight": None},
    }
    for message, change in cases.items():
        path = saved(tmp_path / "bad.pt", changed(model, **change))
        with pytest.raises(SdicError, match=message) as caught:
            load_sdic(path)
        assert len(re.findall(r"\n", str(caught.value))) == 0


def test_other_containers(model: SDIC, tmp_path: Path) -> None:
    with pytest.raises(SdicError, match=r"holds none of the known layouts \(top-level entries: epoch, loss\)"):
        load_sdic(saved(tmp_path / "a.pt", {"epoch": 3, "loss": 1.0}))
    with pytest.raises(SdicError, match="holds a list and not a checkpoint"):
        load_sdic(saved(tmp_path / "b.pt", [1, 2]))
    with pytest.raises(SdicError, match="holds no complete set of known networks"):
        load_sdic(saved(tmp_path / "c.pt", {"state_dict": {"fc.weight": torch.ones(2, 2)}}))
    with pytest.raises(SdicError, match=r"has a latent_avg of shape \[3, 7\]; expected \[14, 16\] or \[16\]"):
        load_sdic(saved(tmp_path / "d.pt", container(model, latent_avg=torch.ones(3, 7))))


def test_defaults_are_the_released_sizes() -> None:
    assert DiscrepancyConfig().volume == (8, 16, 32, 48)


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    metadata = {f"key {index}": str(index) * index for index in range(7)}
    for index in range(6):
        write_safetensors(tmp_path / str(index), {"a": torch.arange(5.0)}, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    read, told = read_safetensors(tmp_path / "0")
    assert torch.equal(read["a"], torch.arange(5.0)) and told == metadata
