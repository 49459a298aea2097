"""HyperStyle: a code in W, and a generator whose weights are changed for every picture. The changes are tensors like all others.

Letters of sizes: see `plain.tables`. A tuned layer j has the tensor `delta_j`; the generator's weights W become W (1 + delta_j).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sdic_runtime.program import Axes, Move, Stage
from sdic_train.checkpoints.parts import load_hyperstyle
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.plain import TENSORS
from sdic_train.networks.hyperstyle.config import RELEASED_LAYERS, HyperConfig, delta

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.hyperstyle.model import HyperStyle

ITERATIONS = 5


def previous(layer: int) -> str:
    """What `delta` of the layer is called where it is read."""
    return f"previous_{layer}"


def tables(config: HyperConfig) -> Tables:
    """`feature` and `feature_1`: what the hypernetwork reads off picture and reconstruction in the last and in the first iteration.
    `initial`: the first reconstruction, by the generator as it was trained."""
    deltas: dict[str, Axes] = {delta(layer): ("N", *config.delta_axes(layer)) for layer in config.tuned}
    first, last = config.encoder.crop or (0, config.working)
    feature: Axes = ("N", config.backbone[-1], (last - first) // 16, config.working // 16)
    kept: dict[str, Axes] = {name: TENSORS[name] for name in ("image", "latent", "picture")}
    return Tables(
        {letter: size for letter, size in config.sizes.items() if letter != "K"},
        {
            **kept,
            **dict.fromkeys(("reconstruction", "initial"), TENSORS["image"]),
            **dict.fromkeys(("feature", "feature_1"), feature),
            **deltas,
            **{previous(layer): deltas[delta(layer)] for layer in config.tuned},
        },
        {
            "encoder": Stage(("image",), ("latent", *deltas)),
            "generator": Stage(("latent", *deltas), ("picture",)),
            "shrink": Stage(("picture",), ("reconstruction",)),
            "backbone": Stage(("image", "reconstruction"), ("feature",)),
            "hypernet": Stage(("feature", *map(previous, config.tuned)), tuple(deltas)),
        },
    )


def invert(backend: Backend, image: Tensor, *, layers: tuple[int, ...], iterations: int) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: the code, the changes of weights after the last iteration, and the picture of both."""
    names = tuple(map(delta, layers))
    start = backend.run("encoder", {"image": image}, ["latent", *names])
    latent, deltas = start["latent"], {name: start[name] for name in names}
    picture = edit(backend, latent, **deltas)
    kept: dict[str, Tensor] = {}
    for _ in range(iterations):
        reconstruction = backend.run("shrink", picture, ["reconstruction"])["reconstruction"]
        feature = backend.run("backbone", {"image": image, "reconstruction": reconstruction}, ["feature"])["feature"]
        kept = kept or {"initial": reconstruction, "feature_1": feature}
        read = {previous(layer): deltas[delta(layer)] for layer in layers}
        deltas = backend.run("hypernet", {"feature": feature, **read}, names)
        picture = edit(backend, latent, **deltas)
        kept["feature"] = feature
    return {"latent": latent, **kept, **deltas, **picture}


def edit(backend: Backend, latent: Tensor, **deltas: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent` [N, L, C], edited or not, by the weights of the inversion."""
    return backend.run("generator", {"latent": latent, **deltas}, ["picture"])


def functions(model: HyperStyle, generator: object) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name. The generator is written with a weight per picture
    anyway, so `generator`, which may be another writing of it, is not used."""
    layers = model.config.tuned
    names = [delta(layer) for layer in layers]

    def hypernet(feature: Tensor, **before: Tensor) -> dict[str, Tensor]:
        steps = zip(layers, model.hypernet.steps(feature), strict=True)
        return {delta(layer): before[previous(layer)] + step for layer, step in steps}

    return {
        "encoder": lambda image: {"latent": model.encode(image), **dict(zip(names, model.start(image), strict=True))},
        "generator": lambda latent, **deltas: {"picture": model.render(latent, [deltas[name] for name in names])},
        "shrink": lambda picture: {"reconstruction": model.shrink(picture)},
        "backbone": lambda image, reconstruction: {"feature": model.hypernet.backbone(image, reconstruction)},
        "hypernet": hypernet,
    }


def method(iterations: int = ITERATIONS, layers: tuple[int, ...] = RELEASED_LAYERS) -> MethodCode:
    """HyperStyle with so many iterations, for models that tune `layers`."""
    names = tuple(map(delta, layers))
    return MethodCode(
        name="hyperstyle",
        tables=tables,
        chains={"invert": partial(invert, layers=layers, iterations=iterations), "edit": edit, "baseline": edit},
        further={"edit": names, "baseline": names},
        keeps=("latent", "initial", "feature_1", "feature", *names, "picture"),
        moves={"latent": Move("edit", ("latent",))},
        zeros={"baseline": names},
        load=load_hyperstyle,
        functions=functions,
        iterations=iterations,
        unrolled=method,
        fitted=lambda config: method(iterations, config.tuned),
    )


METHOD = method()
