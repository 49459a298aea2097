"""The chains of e4e, pSp, ReStyle and HFGI on small models: what they give is what the networks give, and strength 0 is the inversion."""

from __future__ import annotations

import numpy as np
import official_methods as official
import pytest
import small_methods as small
import torch

from sdic_runtime.errors import ArgumentError
from sdic_train.methods import METHODS
from sdic_train.methods.restyle import method


@pytest.mark.parametrize("name", small.BUILDERS)
def test_an_inversion_is_what_the_networks_give_and_strength_zero_is_the_inversion(name: str) -> None:
    model = small.small_model(name)
    code, backend = METHODS[name], official.torch_backend(METHODS[name], model)
    image = small.small_images(model.config)
    inversion = backend.run_program("invert", {"image": image})
    with torch.no_grad():
        torch.testing.assert_close(inversion["picture"], model(image), rtol=1e-4, atol=1e-5)
    assert set(code.keeps) <= {"image", *inversion}
    there = {"image": image, **inversion, "mask": torch.zeros(2, 1, *image.shape[2:])}
    if name == "sfe":
        there |= backend.run_program("prepare", {"image": image})
    for move in code.moves.values():
        takes = {tensor: there[tensor] for tensor in code.takes(move.program)}
        assert torch.equal(backend.run_program(move.program, takes)["picture"], inversion["picture"])
        moved = takes | {name: takes[name] + 0.5 for name in move.codes}
        assert (backend.run_program(move.program, moved)["picture"] - inversion["picture"]).abs().max() > 0.01


@pytest.mark.parametrize("name", small.BUILDERS)
def test_pictures_of_a_batch_do_not_disturb_each_other(name: str) -> None:
    model = small.small_model(name)
    backend = official.torch_backend(METHODS[name], model)
    image = small.small_images(model.config)
    both, alone = (backend.run_program("invert", {"image": part}) for part in (image, image[1:]))
    for tensor, value in alone.items():
        torch.testing.assert_close(both[tensor][1:], value, rtol=1e-4, atol=1e-5)


def test_the_edit_of_hfgi_aligns_anew_and_that_of_the_demo_does_not() -> None:
    model = small.small_model("hfgi")
    backend = official.torch_backend(METHODS["hfgi"], model)
    inversion = backend.run_program("invert", {"image": small.small_images(model.config)})
    moved = inversion["latent"] + 0.5
    edited = backend.run_program("edit", {"latent": moved, "distortion": inversion["distortion"]})
    demo = backend.run_program("edit_demo", {"latent": moved, **{name: inversion[name] for name in ("scale", "shift")}})
    with torch.no_grad():
        feature, rgb = model.generator.head(moved)
        scale, shift = model.consult(inversion["distortion"], model.generator.preview(feature, rgb, moved))
        torch.testing.assert_close(edited["picture"], model.generator.tail(feature * (1 + scale) + shift, rgb, moved))
    assert (edited["scale"] - inversion["scale"]).abs().max() > 1e-3
    assert (edited["picture"] - demo["picture"]).abs().max() > 1e-3
    zeros = torch.zeros_like(inversion["scale"])
    baseline = backend.run_program("baseline", {"latent": moved, "scale": zeros, "shift": zeros})["picture"]
    with torch.no_grad():
        torch.testing.assert_close(baseline, model.generator(moved))


def test_the_number_of_iterations_is_chosen() -> None:
    code = METHODS["restyle-e4e"].iterating(3)
    assert code.keeps == ("latent", "latent_1", "latent_2", "picture") and METHODS["restyle-e4e"].iterating(None).iterations == 5
    model = small.small_model("restyle-e4e")
    backend, image = official.torch_backend(code, model), small.small_images(model.config, 1)
    inversion = backend.run_program("invert", {"image": image})
    fewer = official.torch_backend(method("e4e", 2), model).run_program("invert", {"image": image})
    assert torch.equal(fewer["latent"], inversion["latent_2"]) and torch.equal(fewer["latent_1"], inversion["latent_1"])
    with torch.no_grad():
        np.testing.assert_allclose(inversion["picture"], model(image, iterations=3), atol=1e-5)
    with pytest.raises(ArgumentError, match=r"^the number of iterations is 0; give at least 1$"):
        METHODS["restyle-psp"].iterating(0)
    with pytest.raises(ArgumentError, match=r'^the method "e4e" does not iterate; leave the number of iterations out$'):
        METHODS["e4e"].iterating(2)
