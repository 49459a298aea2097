"""The networks of each method but SDIC, loaded from the files that users hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from sdic_runtime.errors import ArgumentError, CheckpointError
from sdic_runtime.pictures import prepare
from sdic_train.checkpoints.load import Checkpoint, load_model, read_checkpoint
from sdic_train.config import ModelConfig
from sdic_train.networks.clcae.model import CLCAE, CLCAEConfig
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.hfgi.consultation import HFGISizes
from sdic_train.networks.hfgi.model import HFGI
from sdic_train.networks.hyperstyle.config import SHARED_BELOW, HyperConfig
from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.networks.restyle import ReStyle

# Where the second file of a model is public.
PUBLIC = {
    "W encoder": "faces_w_encoder.pt of yuval-alaluf/hyperstyle, Google Drive 1M-hsL3W_cJKs77xM1mwq2e9-J0_m7rHP",
    "average picture": "image_avg.png of the data that KumapowerLIU/CLCAE names, Google Drive 19Q75nlaZ8KVdUd6C9s2y6c1cKXuB90TS",
}
# `others`: further files that belong to the model, such as the generator that its mean latent code is of. All raise SdicError for a
# file of another kind, or one that lacks something.


def load_encoded(path: Path, domain: str | None = None, others: Sequence[Path] = (), kind: str = "e4e") -> Encoded:
    """e4e or pSp (`kind`), in evaluation mode."""
    return load_model(read_checkpoint(path, domain, kind), Encoded, others)


def load_restyle(path: Path, domain: str | None = None, others: Sequence[Path] = (), kind: str = "ReStyle-pSp") -> ReStyle:
    """ReStyle in one of its forms, in evaluation mode, with its first reconstruction."""
    model = load_model(read_checkpoint(path, domain, kind), ReStyle, others)
    model.prepare()
    return model


def load_hfgi(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> HFGI:
    """HFGI, in evaluation mode."""
    checkpoint = read_checkpoint(path, domain, "HFGI")
    sizes = hfgi_sizes(checkpoint.state)

    def build(config: ModelConfig) -> HFGI:
        return HFGI(config, sizes)

    return load_model(checkpoint, build, others)


def hfgi_sizes(state: dict[str, Tensor]) -> HFGISizes:
    """Read off the shapes of the weights of ADA and of the consultation encoder."""

    def outputs(part: str, groups: Sequence[str]) -> tuple[int, ...]:
        return tuple(state[f"{part}.{name}"].shape[0] for name in groups if f"{part}.{name}" in state)

    def path(layers: Sequence[int]) -> list[str]:
        return ["conv_layer1.0.weight", *(f"conv_layer{layer}.0.res_layer.1.weight" for layer in layers)]

    return HFGISizes(
        aligner=outputs("aligner", path((2, 3, 4))),
        ascent=outputs("aligner", [f"dconv_layer{layer}.0.res_layer.1.weight" for layer in (1, 2, 3)]),
        consultation=outputs("consultation", path((2, 3))),
    )


def load_hyperstyle(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> HyperStyle:
    """HyperStyle from its two files, in evaluation mode. Of the W encoder's file the encoder alone is read."""
    checkpoint = read_checkpoint(path, domain, "HyperStyle")
    encoder = companion(path, others, "HyperStyle", "W encoder")
    state = without_aliases(path, checkpoint.state)
    config = hyper_config(
        path, replace(checkpoint.config, encoder=replace(encoder.config.encoder, crop=checkpoint.config.encoder.crop)), state
    )
    state |= {name: tensor for name, tensor in encoder.state.items() if name.startswith("encoder.")}

    def build(_: ModelConfig) -> HyperStyle:
        return HyperStyle(config)

    return load_model(replace(checkpoint, state=state, options={}), build)


def companion(path: Path, others: Sequence[Path], model: str, kind: str) -> Checkpoint:
    """The one of the files `others` that is of `kind`, without which the `model` at `path` is not whole. Raises CheckpointError."""
    found = [read_checkpoint(other, sure=False) for other in others]
    for checkpoint in found:
        if checkpoint.kind == kind:
            return checkpoint
    given = "".join(f'; "{checkpoint.path}" is of {checkpoint.kind}' for checkpoint in found)
    raise lacking(path, model, kind, given)


def lacking(path: Path, model: str, kind: str, given: str = "") -> CheckpointError:
    return CheckpointError(f'"{path}" is {model} without its {kind}{given}; give that file with --with FILE ({PUBLIC[kind]})')


ALIAS = re.compile(r"hypernet\.refinement_blocks\.\d+\.hypernet\.(\w+)")


def without_aliases(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a HyperStyle file, in which the shared network stands again in every layer that uses it. Nothing is copied."""
    kept = {}
    for name, tensor in state.items():
        alias = ALIAS.fullmatch(name)
        if alias is None:
            kept[name] = tensor
            continue
        shared = state.get(f"hypernet.shared_weight_hypernet.{alias[1]}")
        if shared is None or not (_same_memory(tensor, shared) or torch.equal(tensor, shared)):
            raise CheckpointError(f'"{path}" has in "{name}" other weights than the layers share; download it again')
    return kept


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


def hyper_config(path: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> HyperConfig:
    """The sizes of a HyperStyle file: `config`, and what the names and shapes of the hypernetwork say."""
    blocks = sorted({int(name.split(".")[2]) for name in state if name.startswith("hypernet.refinement_blocks.")})
    if any(".make_kernel_in." in name for name in state):
        raise CheckpointError(f'"{path}" is the separable form of HyperStyle, which was never released; give a released file')
    body = sum(bool(re.fullmatch(r"hypernet\.body\.\d+\.conv1\.weight", name)) for name in state)
    widths = [
        (width, len(list(units))) for width, units in groupby(state[f"hypernet.body.{unit}.conv1.weight"].shape[0] for unit in range(body))
    ]

    def width(shared: bool, otherwise: int) -> int:
        found = [layer for layer in blocks if (layer < SHARED_BELOW) == shared]
        return state[f"hypernet.refinement_blocks.{found[0]}.convs.0.weight"].shape[0] if found else otherwise

    try:
        return HyperConfig(
            **{item.name: getattr(config, item.name) for item in fields(ModelConfig)},
            tuned=tuple(blocks),
            backbone=tuple(width for width, _ in widths),
            units=tuple(count for _, count in widths),
            narrow=width(True, HyperConfig.narrow),
            wide=width(False, HyperConfig.wide),
        )
    except ArgumentError as error:
        raise CheckpointError(f'"{path}" cannot be used: {error}') from error


def load_clcae(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> CLCAE:
    """CLCAE from its three files, in evaluation mode: the weights, the average picture, and a file of the same generator that has its mean
    code. Without the last the mean code is computed from the mapping network, which is not quite the same."""
    checkpoint = read_checkpoint(path, domain, "CLCAE")
    variants = {"encoder.decoder.": "no_res", "encoder.content_layer.0.": "no_feature_attention"}
    found = [option for prefix, option in variants.items() if any(name.startswith(prefix) for name in checkpoint.state)]
    if found or checkpoint.options.get("learn_in_w") is False:
        option = found[0] if found else "learn_in_w=False"
        raise CheckpointError(f'"{path}" was trained with the option {option}, which no released CLCAE was; give a released file')
    pictures = [other for other in others if is_picture(other)]
    if not pictures:
        raise lacking(path, "CLCAE", "average picture")
    hidden = checkpoint.state["encoder.feature_cross_attention.linear1.weight"].shape[0]

    def build(config: ModelConfig) -> CLCAE:
        return CLCAE(CLCAEConfig(**{item.name: getattr(config, item.name) for item in fields(ModelConfig)}, hidden=hidden))

    average = [other for other in others if other not in pictures]
    model = load_model(replace(checkpoint, options={}), build, average)
    if (model.latent_avg != model.latent_avg[:1]).any():
        raise CheckpointError(f'"{average[0]}" has a mean code whose rows differ; give the generator file that CLCAE was trained on')
    model.average = torch.from_numpy(prepare(pictures[0], model.config.sizes, model.config.visible_rows))
    return model


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG. Raises CheckpointError where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith((b"\x89PNG", b"\xff\xd8\xff"))
    except OSError as error:
        raise CheckpointError(f'cannot read "{path}" ({error.strerror}); check the path') from error
