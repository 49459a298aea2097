"""StyleFeatureEditor: code and feature of a picture, fused with the generator's own; an edit moves the feature by what e4e's code shows.

Letters of sizes: see `plain.tables`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.program import PREPARE, Axes, Move, Stage
from sdic_train.checkpoints.models import load_sfe, load_sfe_inverter
from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.plain import ENCODER, TENSORS

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.sfe.model import SFE, SFEInverter
    from sdic_train.networks.stylegan2 import Generator

FEATURE = TENSORS["feature"]
SHARED: dict[str, Axes] = {
    **{name: TENSORS[name] for name in ("image", "latent", "picture")},
    "predicted": FEATURE,
    "feature": FEATURE,
    "rgb": ("N", 3, FEATURE_SIZE, FEATURE_SIZE),
    "fused": FEATURE,
    "changed": FEATURE,
}
STAGES = {
    "inverter": Stage(("image",), ("latent", "predicted")),
    "generator_prefix": Stage(("latent",), ("feature", "rgb")),
    "fuser": Stage(("predicted", "feature"), ("fused",)),
    "generator_suffix": Stage(("changed", "rgb", "latent"), ("picture",)),
}

ROWS = {"generator_prefix": 10}  # the style rows that it reads


def inverter_tables(config: ModelConfig) -> Tables:
    """Of the first phase. `predicted` is what the backbone gives, `feature` the generator's own behind layer 8, and `changed` what takes
    the place of that: `fused` of both here."""
    return Tables(config.sizes, SHARED, STAGES, ROWS)


def tables(config: ModelConfig) -> Tables:
    """`latent_e4e` and `feature_e4e` are of e4e's code, `moved` is the feature of that code edited. `delta` is what an edit took away from
    `feature_e4e`, and `masked` that without what lies under the `mask`."""
    further = {"latent_e4e": TENSORS["latent"], "feature_e4e": FEATURE, "moved": FEATURE, "delta": FEATURE, "masked": FEATURE}
    return Tables(
        config.sizes,
        {**SHARED, **further, "mask": ("N", 1, "S", "S")},
        {
            **STAGES,
            "encoder": ENCODER,
            "difference": Stage(("feature_e4e", "moved"), ("delta",)),
            "masking": Stage(("delta", "mask"), ("masked",)),
            "editor": Stage(("fused", "masked"), ("changed",)),
        },
        ROWS,
    )


def invert_with_inverter(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion by the first phase."""
    made = understand(backend, image)
    return {**{name: made[name] for name in made if name != "rgb"}, **render(backend, made["fused"], made["rgb"], made["latent"])}


def understand(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """The code of `image`, the RGB sum that it gives up to 64 x 64, and the features: predicted, the generator's, and fused of both."""
    made = backend.run("inverter", {"image": image}, ["latent", "predicted"])
    prefix = backend.run("generator_prefix", {"latent": made["latent"]}, ["feature", "rgb"])
    return {**made, **prefix, **backend.run("fuser", {"predicted": made["predicted"], "feature": prefix["feature"]}, ["fused"])}


def render(backend: Backend, changed: Tensor, rgb: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent` [N, L, C] with `changed` in place of its layer-8 feature."""
    return backend.run("generator_suffix", {"changed": changed, "rgb": rgb, "latent": latent}, ["picture"])


def rgb_of(backend: Backend, latent: Tensor) -> Tensor:
    """The RGB sum up to 64 x 64, which comes from the code alone."""
    return backend.run("generator_prefix", {"latent": latent}, ["rgb"])["rgb"]


def edit_with_inverter(backend: Backend, fused: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The picture of an edited code with the feature of the inversion, so that only what the code alone decides follows the edit."""
    return render(backend, fused, rgb_of(backend, latent), latent)


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion. It goes through the editor, with no difference."""
    made = understand(backend, image)
    none = backend.run("difference", {"feature_e4e": made["feature"], "moved": made["feature"]}, ["delta"])["delta"]
    changed = backend.run("editor", {"fused": made["fused"], "masked": none}, ["changed"])
    kept = {name: made[name] for name in made if name != "rgb"} | changed
    return {**kept, **render(backend, changed["changed"], made["rgb"], made["latent"])}


def prepare(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """What edits need of a picture besides its inversion: e4e's code and the layer-8 feature of that."""
    latent = backend.run("encoder", {"image": image}, ["latent"])["latent"]
    return {"latent_e4e": latent, "feature_e4e": backend.run("generator_prefix", {"latent": latent}, ["feature"])["feature"]}


def edit(backend: Backend, latent_e4e: Tensor, feature_e4e: Tensor, fused: Tensor, mask: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The picture of an edited code; the same edit of e4e's code says how the feature changes, but under the mask [N, 1, S, S], which is 1
    where it may not. With codes that were moved by nothing, this is the inversion."""
    moved = backend.run("generator_prefix", {"latent": latent_e4e}, ["feature"])["feature"]
    delta = backend.run("difference", {"feature_e4e": feature_e4e, "moved": moved}, ["delta"])["delta"]
    masked = backend.run("masking", {"delta": delta, "mask": mask}, ["masked"])
    changed = backend.run("editor", {"fused": fused, **masked}, ["changed"])
    return {"delta": delta, **changed, **render(backend, changed["changed"], rgb_of(backend, latent), latent)}


def inverter_functions(model: SFEInverter, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""
    return {
        "inverter": lambda image: dict(zip(("latent", "predicted"), model.predict(image), strict=True)),
        "generator_prefix": lambda latent: dict(zip(("feature", "rgb"), generator.prefix(latent), strict=True)),
        "fuser": lambda predicted, feature: {"fused": model.fuse(predicted, feature)},
        "generator_suffix": lambda changed, rgb, latent: {"picture": generator.suffix(changed, rgb, latent)},
    }


def functions(model: SFE, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """The same for the whole method."""
    from sdic_train.networks.sfe.model import masked as without

    return {
        **inverter_functions(model, generator),
        "encoder": lambda image: {"latent": model.encode(image)},
        "difference": lambda feature_e4e, moved: {"delta": feature_e4e - moved},
        "masking": lambda delta, mask: {"masked": without(delta, mask)},
        "editor": lambda fused, masked: {"changed": model.editor(fused, masked)},
    }


INVERTER = MethodCode(
    name="sfe-inverter",
    tables=inverter_tables,
    chains={"invert": invert_with_inverter, "edit": edit_with_inverter},
    keeps=("latent", "predicted", "feature", "fused", "picture"),
    moves={"latent": Move("edit", ("latent",))},
    load=load_sfe_inverter,
    functions=inverter_functions,
)
METHOD = MethodCode(
    name="sfe",
    tables=tables,
    chains={"invert": invert, PREPARE: prepare, "edit": edit},
    keeps=("image", "latent", "predicted", "feature", "fused", "changed", "picture"),
    moves={"feature": Move("edit", ("latent_e4e", "latent"))},
    zeros={"edit": ("mask",)},
    load=load_sfe,
    functions=functions,
)
