"""FS, the Feature-Style encoder: a code in W+, and a content feature in place of the generator's own at 16 x 16. See `replaced`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.program import Move, Stage
from sdic_train.checkpoints.parts import load_fs
from sdic_train.config import ModelConfig
from sdic_train.methods import replaced
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import tail_tensors
from sdic_train.methods.replaced import CUT_STAGES, CUT_TENSORS, base, cut_functions, cut_resumed, cut_sizes, render

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.fs.model import FS
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator

TERMS = (
    "The weights of FS are under InterDigital's Limited Software Evaluation License: for fundamental research alone, no commercial use; do "
    "not redistribute or serve it; do not adapt or transform it, which a bundle may count as; a publication must name FeatureStyleEncoder "
    "as an InterDigital product and cite it."
)


def tables(config: ModelConfig) -> Tables:
    encoder = Stage(("image",), ("latent", "content"))
    return Tables(cut_sizes(config), {**CUT_TENSORS, **tail_tensors(config)}, {"encoder": encoder, **CUT_STAGES}, **cut_resumed(config))


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion."""
    encoded = backend.run("encoder", {"image": image}, ["latent", "content"])
    made = base(backend, encoded["latent"])
    return {**encoded, "feature_16": made["feature_16"], **render(backend, **encoded, made=made, reference=made["feature_16"])}


def functions(model: FS, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""

    def encoder(image: Tensor) -> dict[str, Tensor]:
        return dict(zip(("latent", "content"), model.encode(image), strict=True))

    return {"encoder": encoder, **cut_functions(generator)}


METHOD = MethodCode(
    name="fs",
    tables=tables,
    chains={"invert": invert, "edit": replaced.edit, "baseline": replaced.baseline},
    keeps=("latent", "content", "feature_16", "picture"),
    moves={"latent": Move("edit", ("latent",))},
    load=load_fs,
    functions=functions,
    terms=TERMS,
)
