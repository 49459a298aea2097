"""Methods in several files, small: what their chains give is what the networks give, strength 0 is the inversion, files are recognised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import official_methods as official
import pytest
import small_methods
import small_parts as small
import torch

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import describe, read_checkpoint
from sdic_train.checkpoints.parts import without_aliases
from sdic_train.methods import METHODS, method_of_file


@pytest.mark.parametrize("name", small.BUILDERS)
def test_an_inversion_is_what_the_networks_give_and_strength_zero_is_the_inversion(name: str) -> None:
    model = small.small_model(name)
    code = METHODS[name].for_model(model.config)
    backend, image = official.torch_backend(code, model), small_methods.small_images(model.config)
    inversion = backend.run_program("invert", {"image": image})
    with torch.no_grad():
        torch.testing.assert_close(inversion["picture"], model(image), rtol=1e-4, atol=1e-5)
    assert set(code.keeps) <= {*inversion, "image"}
    for move in code.moves.values():
        takes = {tensor: {**inversion, "image": image}[tensor] for tensor in code.takes(move.program)}
        torch.testing.assert_close(backend.run_program(move.program, takes)["picture"], inversion["picture"], rtol=0, atol=1e-5)
        moved = {**takes, **{name: takes[name] + 0.5 for name in move.codes}}
        assert (backend.run_program(move.program, moved)["picture"] - inversion["picture"]).abs().max() > 0.01


@pytest.mark.parametrize("name", small.BUILDERS)
def test_pictures_of_a_batch_do_not_disturb_each_other(name: str) -> None:
    model = small.small_model(name)
    backend = official.torch_backend(METHODS[name].for_model(model.config), model)
    image = small_methods.small_images(model.config)
    both, alone = (backend.run_program("invert", {"image": part}) for part in (image, image[1:]))
    for tensor, value in alone.items():
        torch.testing.assert_close(both[tensor][1:], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", small.BUILDERS)
def test_a_model_loads_from_its_files(name: str, tmp_path: Path) -> None:
    model, path = small.small_model(name), tmp_path / "small.pt"
    others = small.write_small(path, name, model)
    assert method_of_file(path) is METHODS[name]
    assert ("kind", small_methods.KIND[name]) in describe(path)
    loaded = METHODS[name].load(path, None, others)
    assert loaded.config == model.config and not loaded.training
    image = small_methods.small_images(model.config, 1)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


def test_hyperstyle_without_its_encoder_says_where_it_is(tmp_path: Path) -> None:
    others = small.write_small(tmp_path / "small.pt", "hyperstyle")
    with pytest.raises(CheckpointError, match=r'small.pt" is HyperStyle without its W encoder; give that file with --with .*1M-hsL3W'):
        METHODS["hyperstyle"].load(tmp_path / "small.pt", None, [])
    with pytest.raises(CheckpointError, match=r'without its W encoder; "[^"]*small.pt" is of HyperStyle; give that file'):
        METHODS["hyperstyle"].load(tmp_path / "small.pt", None, [tmp_path / "small.pt"])
    assert read_checkpoint(others[0]).kind == "W encoder"
    with pytest.raises(CheckpointError, match="a W encoder checkpoint holds no inversion method"):
        method_of_file(others[0])


def test_the_shared_network_is_held_once_and_copies_must_be_equal(tmp_path: Path) -> None:
    small.write_small(tmp_path / "small.pt", "hyperstyle")
    state = read_checkpoint(tmp_path / "small.pt").state
    kept = without_aliases(tmp_path, state)
    assert len(state) - len(kept) == 4 * len(small.HYPER.shared) and not any(".hypernet.w2" in name for name in kept)
    name = "hypernet.refinement_blocks.8.hypernet.w2"
    assert len(without_aliases(tmp_path, {**state, name: state[name].clone()})) == len(kept)
    with pytest.raises(CheckpointError, match=r"refinement_blocks.8.hypernet.w2\" other weights than the layers share"):
        without_aliases(tmp_path, {**state, name: state[name] + 1})


def test_the_iterations_of_hyperstyle_are_chosen_and_the_weights_are_tensors() -> None:
    model = small.small_model("hyperstyle")
    code = METHODS["hyperstyle"].iterating(2).for_model(model.config)
    backend, image = official.torch_backend(code, model), small_methods.small_images(model.config, 1)
    inversion = backend.run_program("invert", {"image": image})
    with torch.no_grad():
        np.testing.assert_allclose(inversion["picture"], model(image, iterations=2), atol=1e-5)
        zeros = {name: torch.zeros_like(inversion[name]) for name in code.zeros["baseline"]}
        plain = backend.run_program("baseline", {"latent": inversion["latent"], **zeros})["picture"]
        torch.testing.assert_close(plain, model.generator(inversion["latent"]), rtol=1e-4, atol=1e-5)
    assert (plain - inversion["picture"]).abs().max() > 0.01
    assert code.takes("edit") == ("latent", *(f"delta_{layer}" for layer in small.HYPER.tuned))


def test_the_changes_are_factors_of_the_weights() -> None:
    model = small.small_model("hyperstyle")
    image = small_methods.small_images(model.config, 1)
    with torch.no_grad():
        latent, deltas = model.encode(image), model.hypernet.steps(model.hypernet.backbone(image, image.flip(3)))
        picture = model.render(latent, deltas)
        for layer, delta in zip(small.HYPER.tuned, deltas, strict=True):
            block, second = divmod(layer - 2, 3)  # an upsampling convolution, another and an RGB layer per size
            change = delta if delta.ndim == 5 else delta[..., None, None]
            model.generator.convs[2 * block + second].conv.weight *= 1 + change
        torch.testing.assert_close(picture, model.generator(latent), rtol=1e-4, atol=1e-5)


def test_clcae_asks_for_its_average_picture_and_an_even_mean_code(tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    generator, average = small.write_small(path, "clcae")
    with pytest.raises(CheckpointError, match=r'small.pt" is CLCAE without its average picture; give that file with --with .*19Q75n'):
        METHODS["clcae"].load(path, None, [generator])
    model = METHODS["clcae"].load(path, None, [average])  # the mean code is then computed
    assert not torch.equal(model.latent_avg, small.small_model("clcae").latent_avg) and not (model.latent_avg != model.latent_avg[:1]).any()
    content = torch.load(generator)
    torch.save({**content, "latent_avg": torch.randn(small.ATTENTIVE.rows, 16)}, generator)
    with pytest.raises(CheckpointError, match='generator.pt" has a mean code whose rows differ'):
        METHODS["clcae"].load(path, None, [average, generator])
    small.write_small(path, "clcae", opts={"dataset_type": "ffhq_encode_inversion", "learn_in_w": False})
    with pytest.raises(CheckpointError, match="trained with the option learn_in_w=False"):
        METHODS["clcae"].load(path, None, [average])


def test_attention_to_one_key_is_what_torch_computes() -> None:
    block = small.small_model("clcae").encoder.feature_cross_attention
    attention = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    attention.load_state_dict(block.multihead_attn.state_dict())
    query, key = torch.randn(2, 9, 16), torch.randn(2, 1, 16)
    with torch.no_grad():
        x = block.norm2(query + attention(query, key, key)[0])
        want = block.norm3(x + block.linear2(torch.relu(block.linear1(x))))
        torch.testing.assert_close(block(query, block.multihead_attn(key[:, 0])[:, None]), want, rtol=1e-4, atol=1e-5)


def test_both_rules_of_editing_clcae_move_the_content_by_the_generator_s_own_change() -> None:
    model = small.small_model("clcae")
    code, image = METHODS["clcae"], small_methods.small_images(model.config)
    backend = official.torch_backend(code, model)
    inversion = backend.run_program("invert", {"image": image})
    with torch.no_grad():
        for program, moved in (("edit", "w"), ("edit_ganspace", "latent")):
            takes = {name: inversion[name] for name in code.takes(program)}
            takes[moved] = takes[moved] + 0.4
            edited = backend.run_program(program, takes)
            latent, content = takes.get("latent"), inversion["content"]
            if moved == "w":
                latent, attended = model.attend(takes["w"], inversion["values"], inversion["level"])
                content = model.encoder.content_layer(attended)
                assert (content - inversion["content"]).abs().max() > 1e-3
            own, rgb = model.generator.base(latent)
            feature, rgb = model.generator.middle(content + own - model.generator.base(inversion["latent"])[0], rgb, latent)
            want = model.generator.tail(feature, rgb, latent)
            torch.testing.assert_close(edited["picture"], want, rtol=1e-4, atol=1e-5)
        rows = inversion["w"].clone()
        rows[:, 1:] += 7  # rows behind the first are not read
        same = backend.run_program("edit", {**{name: inversion[name] for name in code.takes("edit")}, "w": rows})["picture"]
        assert torch.equal(same, inversion["picture"])


def test_fs_reads_means_of_tiles_and_the_generator_of_another_file(tmp_path: Path) -> None:
    encoder = small.small_model("fs").fs
    image = small_methods.small_images(small.STYLED, 1)
    with torch.no_grad():
        for got, want in zip(encoder(image.repeat_interleave(4, 2).repeat_interleave(4, 3)), encoder(image), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert encoder(image)[1].shape[2:] == (16, 16)
    (generator,) = small.write_small(tmp_path / "143_enc.pth", "fs")
    with pytest.raises(
        CheckpointError, match=r"is FS without its generator with its mean code; give that file with --with FILE \(psp_ffhq_encode.pt"
    ):
        METHODS["fs"].load(tmp_path / "143_enc.pth", None, [])
    trained = tmp_path / "checkpoint.pth"
    torch.save({"n_epoch": 3, "enc_state_dict": torch.load(tmp_path / "143_enc.pth"), "enc_opt_state_dict": {}}, trained)
    assert METHODS["fs"].load(trained, None, [generator]).config == small.STYLED
