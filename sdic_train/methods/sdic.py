"""SDIC: the stage table and the chains. Numbers of equations are those of the paper. L, C, K, R, S: see `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.program import Move, Stage
from sdic_train.checkpoints.load import load_sdic
from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import HEAD_ROWS, tail_cuts, tail_functions, tail_rows, tail_tensors

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.sdic.model import SDIC
    from sdic_train.networks.stylegan2 import Generator


def tables(config: ModelConfig) -> Tables:
    """R and S: sides of the generator's picture and of what the other networks work on. L, C: rows and width of a latent code in W+. K:
    channels of the layer-7 feature."""
    return Tables(
        sizes=config.sizes,
        tensors={
            "image": ("N", 3, "S", "S"),
            "latent": ("N", "L", "C"),
            "latent_enhanced": ("N", "L", "C"),
            "feature": ("N", "K", FEATURE_SIZE, FEATURE_SIZE),
            "residual": ("N", "K", FEATURE_SIZE, FEATURE_SIZE),
            "rgb": ("N", 3, FEATURE_SIZE // 2, FEATURE_SIZE // 2),
            "reconstruction": ("N", 3, "S", "S"),
            "discrepancy": ("N", 3, "S", "S"),
            "picture": ("N", 3, "R", "R"),
            **tail_tensors(config),
        },
        stages={
            "e4e": Stage(("image",), ("latent",)),
            "generator_head": Stage(("latent",), ("feature", "rgb")),
            "generator_preview": Stage(("feature", "rgb", "latent"), ("reconstruction",)),
            "dipn": Stage(("image", "reconstruction"), ("discrepancy",)),
            "dicn": Stage(("discrepancy", "feature", "latent"), ("latent_enhanced", "residual")),
            "generator_tail": Stage(("feature", "residual", "rgb", "latent"), ("picture",)),
        },
        rows={**HEAD_ROWS, **tail_rows(config)},
        cuts=tail_cuts(config, ("feature", "residual")),
    )


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion."""
    latent = backend.run("e4e", {"image": image}, ["latent"])["latent"]
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    preview = backend.run("generator_preview", {**head, "latent": latent}, ["reconstruction"])
    discrepancy = backend.run("dipn", {"image": image, **preview}, ["discrepancy"])
    compensated = backend.run("dicn", {**discrepancy, "feature": head["feature"], "latent": latent}, ["latent_enhanced", "residual"])
    enhanced = compensated["latent_enhanced"]
    rgb = backend.run("generator_head", {"latent": enhanced}, ["rgb"])["rgb"]
    picture = render(backend, head["feature"], compensated["residual"], rgb, enhanced)
    return {"latent": latent, "feature": head["feature"], **preview, **discrepancy, **compensated, **picture}


def render(backend: Backend, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent` [N, L, C] in which layer 7 gives `feature` + `residual` [N, K, 64, 64] (Eq. 5 and 6).

    `rgb` is the skip up to layer 7, which still comes from `latent`.
    """
    return backend.run("generator_tail", {"feature": feature, "residual": residual, "rgb": rgb, "latent": latent}, ["picture"])


def edit(backend: Backend, latent: Tensor, latent_enhanced: Tensor, residual: Tensor) -> dict[str, Tensor]:
    """The picture of two edited latent codes [N, L, C] with the residual of the inversion (Eq. 6: F_E + P), where F_E is layer 7 of the
    edited initial code. With codes that were moved by nothing, this runs exactly what `invert` runs."""
    feature = backend.run("generator_head", {"latent": latent}, ["feature"])["feature"]
    rgb = backend.run("generator_head", {"latent": latent_enhanced}, ["rgb"])["rgb"]
    return render(backend, feature, residual, rgb, latent_enhanced)


def edit_released(backend: Backend, latent_enhanced: Tensor, residual: Tensor) -> dict[str, Tensor]:
    """`edit` in the released code's form of Eq. 6: F_E is layer 7 of the edited enhanced code."""
    head = backend.run("generator_head", {"latent": latent_enhanced}, ["feature", "rgb"])
    return render(backend, head["feature"], residual, head["rgb"], latent_enhanced)


def baseline(backend: Backend, latent: Tensor, residual: Tensor) -> dict[str, Tensor]:
    """The picture of e4e alone: `latent` [N, L, C] with a `residual` of zeros."""
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    return render(backend, head["feature"], residual, head["rgb"], latent)


def functions(model: SDIC, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""

    def head(latent: Tensor) -> dict[str, Tensor]:
        return dict(zip(("feature", "rgb"), generator.head(latent), strict=True))

    def dicn(discrepancy: Tensor, feature: Tensor, latent: Tensor) -> dict[str, Tensor]:
        return dict(zip(("latent_enhanced", "residual"), model.dicn(discrepancy, feature, latent), strict=True))

    return {
        "e4e": lambda image: {"latent": model.encode(image)},
        "generator_head": head,
        "generator_preview": lambda feature, rgb, latent: {"reconstruction": generator.preview(feature, rgb, latent)},
        "dipn": lambda image, reconstruction: {"discrepancy": model.dipn(image, reconstruction)},
        "dicn": dicn,
        "generator_tail": lambda feature, residual, rgb, latent: {"picture": generator.tail(feature, rgb, latent, residual)},
        **tail_functions(generator, lambda feature, residual: feature + residual),
    }


METHOD = MethodCode(
    name="sdic",
    tables=tables,
    chains={"invert": invert, "edit": edit, "edit_released": edit_released, "baseline": baseline},
    keeps=("latent", "latent_enhanced", "feature", "residual", "reconstruction", "discrepancy", "picture"),
    moves={"paper": Move("edit", ("latent", "latent_enhanced")), "released": Move("edit_released", ("latent_enhanced",))},
    zeros={"baseline": ("residual",)},
    load=load_sdic,
    functions=functions,
)
