"""What a training starts from: somebody's generator and encoder, and the networks that train, fresh or somebody's too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.files import load_container
from sdic_train.checkpoints.load import load_encoder, load_generator, load_sdic, mean_rows, read_checkpoint
from sdic_train.networks.sdic.model import SDIC


def with_new_compensation(path: Path, seed: int, silent: bool = False, fusion: str = "attention") -> SDIC:
    """The generator and encoder of an e4e or SDIC checkpoint, and DIPN and DICN with new random weights, which follow from `seed`.

    `silent` sets DICN's last layers to zero: the first inversions are then the encoder's, and training only improves on them.
    `fusion` is one of `config.FUSIONS`. Raises CheckpointError for a checkpoint without an encoder.
    """
    encoder, latent_avg = load_encoder(path)
    torch.manual_seed(seed)
    model = SDIC(replace(encoder.config, discrepancy=replace(encoder.config.discrepancy, fusion=fusion)))
    model.encoder.load_state_dict(encoder.state_dict())
    model.generator.load_state_dict(load_generator(path).state_dict())
    model.latent_avg.copy_(latent_avg)
    if silent:
        model.dicn.silence()
    return model


def with_kept_compensation(path: Path, fusion: str = "attention") -> SDIC:
    """The whole model of an SDIC checkpoint, to be trained on. Raises CheckpointError for any other, or another fusion."""
    kept = load_sdic(path)
    if kept.config.discrepancy.fusion != fusion:
        raise CheckpointError(f'"{path}" was trained with --set fusion={kept.config.discrepancy.fusion}; give the same option')
    model = SDIC(kept.config)
    model.load_state_dict(kept.state_dict())  # a copy: the loaded weights are those in the file
    return model


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """The weights of the encoder in any checkpoint that has one. Raises CheckpointError."""
    checkpoint = read_checkpoint(path, sure=False)
    found = {name.removeprefix("encoder."): tensor for name, tensor in checkpoint.state.items() if name.startswith("encoder.")}
    if not found:
        raise CheckpointError(f'"{path}" is of {checkpoint.kind} and has no encoder; give one of e4e, pSp or SDIC')
    return found


def encoder_form(path: Path) -> str:
    """The form of a checkpoint's encoder as `EncoderRecipe` calls it."""
    checkpoint = read_checkpoint(path, sure=False)
    return "w" if "encoder.linear.weight" in checkpoint.state else checkpoint.config.encoder.form


def mean_code(path: Path) -> Tensor:
    """The mean latent code [L, C] of a generator's checkpoint; of its mapping network where the file has none."""
    average = read_checkpoint(path, sure=False).latent_avg
    return mean_rows(load_generator(path)) if average is None else average


def mean_with(own: Tensor, path: Path) -> Tensor:
    """The mean latent code that a checkpoint was trained with; `own` where the file has none, or the same but for rounding, so that a
    training does not change with how its files are stored."""
    checkpoint = read_checkpoint(path, sure=False)
    zero = checkpoint.options.get("start_from_latent_avg") is False
    given = torch.zeros_like(own) if zero else checkpoint.latent_avg
    if given is None or given.shape != own.shape:
        return own
    given = given.to(own.device)
    return own if torch.allclose(given, own, rtol=ROUNDING, atol=ROUNDING) else given


@torch.no_grad()
def take(target: nn.Module, weights: Mapping[str, Tensor], path: Path, new_inputs: float = 0.0) -> None:
    """Gives `target` every weight of its own name and shape, and its first convolution also one of fewer inputs: those added get random
    weights of the deviation `new_inputs`. Raises CheckpointError where not even a body fits."""
    taken = 0
    for name, own in target.state_dict().items():
        given = weights.get(name)
        if given is None:
            continue
        if own.shape == given.shape:
            own.copy_(given)
            taken += name.startswith(BODIES)
        elif own.ndim == 4 and own.shape[1] > given.shape[1] and (*own.shape[:1], *own.shape[2:]) == (*given.shape[:1], *given.shape[2:]):
            own.normal_(0, new_inputs) if new_inputs else own.zero_()
            own[:, : given.shape[1]] = given
    if not taken:
        raise CheckpointError(f'"{path}" has no weights that fit the body of {type(target).__name__}; give a network of its sizes')


BODIES = ("body.", "block_")
ROUNDING = 2e-3  # of a mean code whose file or generator was stored in half precision
LAYERS = re.compile(r"layer(\d)\.(\d+)\.")


def backbone_weights(path: Path, blocks: bool) -> dict[str, Tensor]:
    """The weights of a face or ImageNet network under the names of a body: IR-SE-50 (as it is), ResNet-34, or with `blocks` the IR-50 of
    FS and StyleFeatureEditor. Raises CheckpointError."""
    container = load_container(path)
    state = container.get("state_dict", container)
    units: dict[str, int] = {}
    for name in state:
        if found := LAYERS.match(name):
            units.setdefault(found[0], len(units))

    def renamed(name: str) -> str:
        if found := LAYERS.match(name):
            layer = f"block_{found[1]}.{found[2]}." if blocks else f"body.{units[found[0]]}."
            return layer + name[found.end() :]
        if blocks:
            for released, ours in (("conv1.", "conv.0."), ("bn1.", "conv.1."), ("prelu.", "conv.2.")):
                if name.startswith(released):
                    return ours + name.removeprefix(released)
        return name

    return {renamed(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
