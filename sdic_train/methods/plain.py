"""e4e and pSp: an encoder in front of the plain generator, which is all there is. L, C, K, R, S: see `tables`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sdic_runtime.program import Axes, Move, Stage
from sdic_train.checkpoints.models import load_encoded
from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import HEAD_ROWS, tail_cuts, tail_functions, tail_rows, tail_tensors

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.encoded import Encoded
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator

TENSORS: dict[str, Axes] = {
    "image": ("N", 3, "S", "S"),
    "latent": ("N", "L", "C"),
    "feature": ("N", "K", FEATURE_SIZE, FEATURE_SIZE),
    "rgb": ("N", 3, FEATURE_SIZE // 2, FEATURE_SIZE // 2),
    "picture": ("N", 3, "R", "R"),
}
ENCODER = Stage(("image",), ("latent",))
HEAD = Stage(("latent",), ("feature", "rgb"))
TAIL = Stage(("feature", "rgb", "latent"), ("picture",))


def tables(config: ModelConfig) -> Tables:
    """R and S: sides of the generator's picture and of the encoder's. L, C: rows and width of a latent code in W+. K: channels of the
    layer-7 feature, where the generator is cut into two graphs."""
    stages = {"encoder": ENCODER, "generator_head": HEAD, "generator_tail": TAIL}
    return Tables(config.sizes, {**TENSORS, **tail_tensors(config)}, stages, **resumed(config))


def resumed(config: ModelConfig, entrance: tuple[str, ...] = ("feature",)) -> dict[str, Any]:
    """`rows` and `cuts` of the tables of a method with this generator, whose tail takes the tensors `entrance`."""
    return {"rows": {**HEAD_ROWS, **tail_rows(config)}, "cuts": tail_cuts(config, entrance)}


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: its latent code and the picture of that."""
    latent = backend.run("encoder", {"image": image}, ["latent"])["latent"]
    return {"latent": latent, **render(backend, latent)}


def render(backend: Backend, latent: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent` [N, L, C], edited or not."""
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    return backend.run("generator_tail", {**head, "latent": latent}, ["picture"])


def generator_functions(generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """The two halves of the generator, and the parts of the second."""

    def head(latent: Tensor) -> dict[str, Tensor]:
        return dict(zip(("feature", "rgb"), generator.head(latent), strict=True))

    tail = {"generator_tail": lambda feature, rgb, latent: {"picture": generator.tail(feature, rgb, latent)}}
    return {"generator_head": head, **tail, **tail_functions(generator, lambda feature: feature)}


def functions(model: Encoded, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""
    return {"encoder": lambda image: {"latent": model.encode(image)}, **generator_functions(generator)}


def _method(name: str, kind: str) -> MethodCode:
    return MethodCode(
        name=name,
        tables=tables,
        chains={"invert": invert, "edit": render},
        keeps=("latent", "picture"),
        moves={"latent": Move("edit", ("latent",))},
        load=partial(load_encoded, kind=kind),
        functions=functions,
    )


E4E = _method("e4e", "e4e")
PSP = _method("psp", "pSp")
