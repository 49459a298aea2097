"""CLCAE: a code in W that all rows and the finest level attend to, and a content feature in place of the generator's own at 16 x 16.

A direction moves the code in W, before the attention; GANSpace moves the rows behind it, as released. Letters: see `replaced`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.program import CODE_AXES, Axes, Move, Stage
from sdic_train.checkpoints.parts import load_clcae
from sdic_train.methods import replaced
from sdic_train.methods.base import MethodCode, StageFunction, Tables, Tensor
from sdic_train.methods.cuts import tail_tensors
from sdic_train.methods.replaced import CUT_STAGES, CUT_TENSORS, base, cut_functions, cut_resumed, cut_sizes, render

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.clcae.model import CLCAE, CLCAEConfig
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator


def tables(config: CLCAEConfig) -> Tables:
    """`w`: the code in W, the same in every row. `values`: what the other rows attend to. `level`, `attended`: the pyramid's finest level
    before and behind the attention."""
    first, last = config.encoder.crop or (0, config.working)
    level: Axes = ("N", config.encoder.widths[-1], (last - first) // 4, config.working // 4)
    return Tables(
        cut_sizes(config),
        {
            **CUT_TENSORS,
            **tail_tensors(config),
            "w": CODE_AXES,
            "values": ("N", config.rows - 1, "C"),
            **dict.fromkeys(("level", "attended"), level),
        },
        {
            "encoder": Stage(("image",), ("w", "values", "level")),
            "attention": Stage(("w", "values", "level"), ("latent", "attended")),
            "content": Stage(("attended",), ("content",)),
            **CUT_STAGES,
        },
        **cut_resumed(config),
    )


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion."""
    encoded = backend.run("encoder", {"image": image}, ["w", "values", "level"])
    attended = attend(backend, **encoded)
    made = base(backend, attended["latent"])
    picture = render(backend, attended["latent"], attended["content"], made, made["feature_16"])
    return {**encoded, **attended, "feature_16": made["feature_16"], **picture}


def attend(backend: Backend, w: Tensor, values: Tensor, level: Tensor) -> dict[str, Tensor]:
    """The rows in W+ and the content that the code `w` [N, L, C] asks for, of which row 0 counts."""
    attended = backend.run("attention", {"w": w, "values": values, "level": level}, ["latent", "attended"])
    return {**attended, **backend.run("content", {"attended": attended["attended"]}, ["content"])}


def edit(backend: Backend, w: Tensor, values: Tensor, level: Tensor, feature_16: Tensor) -> dict[str, Tensor]:
    """The picture of an edited code in W: rows and content attend to it."""
    attended = attend(backend, w, values, level)
    made = base(backend, attended["latent"])
    picture = render(backend, attended["latent"], attended["content"], made, feature_16)
    return {"latent": attended["latent"], "content": attended["content"], "feature_16": made["feature_16"], **picture}


def functions(model: CLCAE, generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """Stage -> the networks' function from its inputs to its outputs, both by name."""

    def attention(w: Tensor, values: Tensor, level: Tensor) -> dict[str, Tensor]:
        return dict(zip(("latent", "attended"), model.attend(w, values, level), strict=True))

    return {
        "encoder": lambda image: dict(zip(("w", "values", "level"), model.encode(image), strict=True)),
        "attention": attention,
        "content": lambda attended: {"content": model.encoder.content_layer(attended)},
        **cut_functions(generator),
    }


METHOD = MethodCode(
    name="clcae",
    tables=tables,
    chains={"invert": invert, "edit": edit, "edit_ganspace": replaced.edit, "baseline": replaced.baseline},
    keeps=("w", "values", "level", "latent", "attended", "content", "feature_16", "picture"),
    moves={"direction": Move("edit", ("w",), ("direction",)), "ganspace": Move("edit_ganspace", ("latent",), ("ganspace",))},
    load=load_clcae,
    functions=functions,
)
