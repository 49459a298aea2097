"""HFGI: e4e, and a layer-7 feature scaled and shifted by what the picture of e4e lacks, which is aligned anew for every edit.

Letters of sizes: see `plain.tables`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.program import Move, Stage
from sdic_train.checkpoints.models import load_hfgi
from sdic_train.config import ModelConfig
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import tail_functions, tail_tensors
from sdic_train.methods.plain import ENCODER, HEAD, TENSORS, generator_functions, resumed

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.hfgi.model import HFGI
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator

ENTRANCE = ("feature", "scale", "shift")  # what the tail makes one feature of


def tables(config: ModelConfig) -> Tables:
    """`distortion` is the picture less its `reconstruction` by e4e, `aligned` the same as it lies in an edited picture."""
    small, layer = TENSORS["image"], TENSORS["feature"]
    return Tables(
        config.sizes,
        {
            **TENSORS,
            **tail_tensors(config),
            **dict.fromkeys(("reconstruction", "distortion", "aligned"), small),
            **dict.fromkeys(("scale", "shift"), layer),
        },
        {
            "encoder": ENCODER,
            "generator_head": HEAD,
            "generator_preview": Stage(("feature", "rgb", "latent"), ("reconstruction",)),
            "difference": Stage(("image", "reconstruction"), ("distortion",)),
            "aligner": Stage(("distortion", "reconstruction"), ("aligned",)),
            "consultation": Stage(("aligned",), ("scale", "shift")),
            "generator_tail": Stage((*ENTRANCE, "rgb", "latent"), ("picture",)),
        },
        **resumed(config, ENTRANCE),
    )


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion."""
    latent = backend.run("encoder", {"image": image}, ["latent"])["latent"]
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    preview = backend.run("generator_preview", {**head, "latent": latent}, ["reconstruction"])
    difference = backend.run("difference", {"image": image, **preview}, ["distortion"])
    consulted = consult(backend, difference["distortion"], preview["reconstruction"])
    picture = render(backend, head, consulted["scale"], consulted["shift"], latent)
    return {"latent": latent, "feature": head["feature"], **preview, **difference, **consulted, **picture}


def consult(backend: Backend, distortion: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
    """The distortion map [N, 3, S, S] aligned with the plain picture of the (edited) code, and the scale and shift that it asks for."""
    aligned = backend.run("aligner", {"distortion": distortion, "reconstruction": reconstruction}, ["aligned"])
    return {**aligned, **backend.run("consultation", aligned, ["scale", "shift"])}


def render(backend: Backend, head: dict[str, Tensor], scale: Tensor, shift: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent` [N, L, C], whose layer 7 gave `head`."""
    return backend.run("generator_tail", {**head, "scale": scale, "shift": shift, "latent": latent}, ["picture"])


def edit(backend: Backend, latent: Tensor, distortion: Tensor) -> dict[str, Tensor]:
    """The picture of an edited code, with the distortion map aligned to what that code alone gives. With a code that was moved by
    nothing, this runs what `invert` runs."""
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    preview = backend.run("generator_preview", {**head, "latent": latent}, ["reconstruction"])
    consulted = consult(backend, distortion, preview["reconstruction"])
    return render(backend, head, consulted["scale"], consulted["shift"], latent) | {"feature": head["feature"], **preview, **consulted}


def edit_demo(backend: Backend, latent: Tensor, scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """The edit of the public demo: with the scale and shift of the inversion, at the cost of one pass of the generator."""
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    return render(backend, head, scale, shift, latent)


def functions(model: HFGI, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""
    from sdic_train.networks.hfgi.model import fuse

    def tail(feature: Tensor, scale: Tensor, shift: Tensor, rgb: Tensor, latent: Tensor) -> dict[str, Tensor]:
        return {"picture": generator.tail(fuse(feature, scale, shift), rgb, latent)}

    return {
        "encoder": lambda image: {"latent": model.encode(image)},
        **generator_functions(generator),
        "generator_preview": lambda feature, rgb, latent: {"reconstruction": generator.preview(feature, rgb, latent)},
        "difference": lambda image, reconstruction: {"distortion": image - reconstruction},
        "aligner": lambda distortion, reconstruction: {"aligned": model.aligner(distortion, reconstruction)},
        "consultation": lambda aligned: dict(zip(("scale", "shift"), model.consultation(aligned), strict=True)),
        "generator_tail": tail,
        **tail_functions(generator, fuse),
    }


METHOD = MethodCode(
    name="hfgi",
    tables=tables,
    chains={"invert": invert, "edit": edit, "edit_demo": edit_demo, "baseline": edit_demo},
    keeps=("latent", "feature", "reconstruction", "distortion", "aligned", "scale", "shift", "picture"),
    moves={"paper": Move("edit", ("latent",)), "demo": Move("edit_demo", ("latent",))},
    zeros={"baseline": ("scale", "shift")},
    load=load_hfgi,
    functions=functions,
)
