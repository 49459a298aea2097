"""ReStyle over pSp and over e4e: the same encoder several times, whose every step is a step of the program. Letters: see `plain.tables`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sdic_runtime.program import CODE_AXES, Move, Stage
from sdic_train.checkpoints.models import load_restyle
from sdic_train.config import ModelConfig
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import tail_tensors
from sdic_train.methods.plain import HEAD, TAIL, TENSORS, generator_functions, render, resumed

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.restyle import ReStyle
    from sdic_train.networks.stylegan2 import Generator

ITERATIONS = 5


def tables(config: ModelConfig, iterations: int = ITERATIONS) -> Tables:
    """The code and the picture of each iteration but the last are kept as `latent_1`, `latent_2`, ..."""
    return Tables(
        config.sizes,
        {
            **TENSORS,
            **tail_tensors(config),
            **dict.fromkeys(("previous", *earlier(iterations)), CODE_AXES),
            "reconstruction": TENSORS["image"],
        },
        {
            "start": Stage(("image",), ("latent", "reconstruction")),
            "encoder": Stage(("image", "reconstruction", "previous"), ("latent",)),
            "generator_head": HEAD,
            "generator_tail": TAIL,
            "shrink": Stage(("picture",), ("reconstruction",)),
        },
        **resumed(config),
    )


def earlier(iterations: int) -> tuple[str, ...]:
    """The names of the codes of all iterations but the last."""
    return tuple(f"latent_{number}" for number in range(1, iterations))


def invert(backend: Backend, image: Tensor, *, iterations: int) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: the code of each iteration, and the picture of the last."""
    start = backend.run("start", {"image": image}, ["latent", "reconstruction"])
    latent, reconstruction = start["latent"], start["reconstruction"]
    codes: list[Tensor] = []
    picture: dict[str, Tensor] = {}
    for number in range(iterations):
        if number:
            reconstruction = backend.run("shrink", picture, ["reconstruction"])["reconstruction"]
        step = {"image": image, "reconstruction": reconstruction, "previous": latent}
        latent = backend.run("encoder", step, ["latent"])["latent"]
        picture = render(backend, latent)
        codes.append(latent)
    return {"latent": latent, **dict(zip(earlier(iterations), codes, strict=False)), **picture}


def functions(model: ReStyle, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""

    def encoder(image: Tensor, reconstruction: Tensor, previous: Tensor) -> dict[str, Tensor]:
        return {"latent": model.step(image, reconstruction, previous)}

    return {
        "start": lambda image: dict(zip(("latent", "reconstruction"), model.start(image), strict=True)),
        "encoder": encoder,
        **generator_functions(generator),
        "shrink": lambda picture: {"reconstruction": model.shrink(picture)},
    }


def method(form: str, iterations: int = ITERATIONS) -> MethodCode:
    """ReStyle over `form`, "psp" or "e4e", with so many iterations."""
    return MethodCode(
        name=f"restyle-{form}",
        tables=partial(tables, iterations=iterations),
        chains={"invert": partial(invert, iterations=iterations), "edit": render},
        keeps=("latent", *earlier(iterations), "picture"),
        moves={"latent": Move("edit", ("latent",))},
        load=partial(load_restyle, kind={"psp": "ReStyle-pSp", "e4e": "ReStyle-e4e"}[form]),
        functions=functions,
        iterations=iterations,
        unrolled=partial(method, form),
    )


OVER_PSP, OVER_E4E = method("psp"), method("e4e")
