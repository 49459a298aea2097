"""Models in several files that know each other by what is in them: HyperStyle, CLCAE, FS.

`others`: the further files. All raise SdicError for a file of another kind, or where one is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sdic_runtime.errors import ArgumentError, CheckpointError
from sdic_runtime.pictures import prepare
from sdic_train.checkpoints.load import Checkpoint, load_model, read_checkpoint
from sdic_train.checkpoints.recognise import FURTHER, lacking
from sdic_train.config import EncoderConfig, ModelConfig
from sdic_train.networks.clcae.model import CLCAE, CLCAEConfig
from sdic_train.networks.fs.model import FS
from sdic_train.networks.hyperstyle.config import HyperConfig
from sdic_train.networks.hyperstyle.model import HyperStyle


def load_hyperstyle(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> HyperStyle:
    """HyperStyle from its two files, in evaluation mode, or from the one that `sdic-train method` wrote. Of the W encoder's file only the
    encoder is read."""
    checkpoint = read_checkpoint(path, domain, "HyperStyle")
    state, config = without_aliases(path, checkpoint.state), checkpoint.config
    if not checkpoint.ours:
        encoder = companion(path, others, "HyperStyle", "W encoder")
        config = replace(config, encoder=replace(encoder.config.encoder, crop=config.encoder.crop))
        state |= {name: tensor for name, tensor in encoder.state.items() if name.startswith("encoder.")}
    config = hyper_config(path, config, state)

    def build(_: ModelConfig) -> HyperStyle:
        return HyperStyle(config)

    model = load_model(replace(checkpoint, state=state, options={}), build)
    model.iterations = checkpoint.iterations or model.iterations
    return model


def companion(path: Path, others: Sequence[Path], model: str, kind: str) -> Checkpoint:
    """The one of the files `others` that is of `kind`, without which the `model` at `path` is not whole. Raises CheckpointError, also for a
    file that the model does not use."""
    found = [read_checkpoint(other, sure=False) for other in others]
    fitting = [checkpoint for checkpoint in found if checkpoint.kind == kind]
    given = "".join(f'; "{checkpoint.path}" is of {checkpoint.kind}' for checkpoint in found if checkpoint.kind != kind)
    if not fitting:
        raise CheckpointError(lacking(path, model, FURTHER[kind], given))
    if len(found) > 1:
        more = given or f'; "{fitting[1].path}" is another {kind}'
        raise CheckpointError(f'"{path}" is {model}, which takes one {kind} beside it{more}; omit the others')
    return fitting[0]


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
    starts = [unit for unit in range(body) if not unit or f"hypernet.body.{unit}.downsample.0.weight" in state]  # of the groups

    def width(shared: bool, otherwise: int) -> int:
        found = [layer for layer in blocks if (f"hypernet.refinement_blocks.{layer}.linear.weight" in state) == shared]
        return state[f"hypernet.refinement_blocks.{found[0]}.convs.0.weight"].shape[0] if found else otherwise

    try:
        return HyperConfig(
            **{item.name: getattr(config, item.name) for item in fields(ModelConfig)},
            tuned=tuple(blocks),
            backbone=tuple(state[f"hypernet.body.{unit}.conv1.weight"].shape[0] for unit in starts),
            units=tuple(end - start for start, end in pairwise([*starts, body])),
            narrow=width(True, HyperConfig.narrow),
            wide=width(False, HyperConfig.wide),
        )
    except ArgumentError as error:
        raise CheckpointError(f'"{path}" cannot be used: {error}') from error


def load_clcae(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> CLCAE:
    """CLCAE from its three files, in evaluation mode: the weights, the average picture, and a file of the same generator that has its mean
    code. Without the last the mean code is computed from the mapping network, which is not quite the same. A file of `sdic-train method`
    holds all three."""
    checkpoint = read_checkpoint(path, domain, "CLCAE")
    variants = {"encoder.decoder.": "no_res", "encoder.content_layer.0.": "no_feature_attention"}
    found = [option for prefix, option in variants.items() if any(name.startswith(prefix) for name in checkpoint.state)]
    if found or checkpoint.options.get("learn_in_w") is False:
        option = found[0] if found else "learn_in_w=False"
        raise CheckpointError(f'"{path}" was trained with the option {option}, which no released CLCAE was; give a released file')
    pictures = [other for other in others if is_picture(other)]
    if not pictures and checkpoint.average is None:
        raise CheckpointError(lacking(path, "CLCAE", FURTHER["average picture"]))
    hidden = checkpoint.state["encoder.feature_cross_attention.linear1.weight"].shape[0]

    def build(config: ModelConfig) -> CLCAE:
        return CLCAE(CLCAEConfig(**{item.name: getattr(config, item.name) for item in fields(ModelConfig)}, hidden=hidden))

    average = [other for other in others if other not in pictures]
    # As released, the mean code of the generator's file counts, whatever the checkpoint holds.
    model = load_model(replace(checkpoint, options={}, latent_avg=None if average else checkpoint.latent_avg), build, average)
    if (model.latent_avg != model.latent_avg[:1]).any():
        raise CheckpointError(f'"{average[0]}" has a mean code whose rows differ; give the generator file that CLCAE was trained on')
    if checkpoint.average is not None:
        model.average = checkpoint.average
    else:
        model.average = torch.from_numpy(prepare(pictures[0], model.config.sizes, model.config.visible_rows))
    return model


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG. Raises CheckpointError where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith((b"\x89PNG", b"\xff\xd8\xff"))
    except OSError as error:
        raise CheckpointError(f'cannot read "{path}" ({error.strerror}); check the path') from error


def load_fs(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> FS:
    """FS from its encoder and a file that has the generator and its mean code, in evaluation mode, or from the one that `sdic-train method`
    wrote."""
    encoder = read_checkpoint(path, domain, "FS")
    if encoder.ours:
        return load_model(encoder, FS)
    found = [checkpoint for other in others if (checkpoint := read_checkpoint(other, sure=False)).kind != "FS"]
    if not found:
        raise CheckpointError(lacking(path, "FS", FURTHER["generator with its mean code"]))
    generator = found[0]
    if generator.latent_avg is None:
        raise CheckpointError(f'"{generator.path}" has no latent_avg; give a pSp or e4e file')
    state = encoder.state | {name: tensor for name, tensor in generator.state.items() if name.startswith("generator.")}
    counts = [sum(bool(re.fullmatch(rf"fs\.block_{block}\.\d+\.conv1\.weight", name)) for name in state) for block in range(1, 5)]
    widths = [state[f"fs.block_{block}.0.conv1.weight"].shape[0] for block in range(1, 5)]
    sizes = EncoderConfig(tuple(widths), tuple(counts), form="psp")
    config = replace(generator.config, working=generator.config.resolution, encoder=sizes)
    return load_model(replace(encoder, state=state, config=config, latent_avg=generator.latent_avg, options={}), FS)
