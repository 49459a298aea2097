"""The sizes of a released model, read off the shapes of its weights."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from sdic_runtime.errors import CheckpointError
from sdic_train.config import CARS, FACES, FEATURE_SIZE, RELEASED_CHANNELS, DiscrepancyConfig, EncoderConfig, ModelConfig

WORKING = 256  # every released encoder and DIPN works at this size


def config_from_shapes(path: Path, state: dict[str, Tensor], options: dict[str, Any], domain: str | None) -> ModelConfig:
    """The configuration of a file in the released layout (under our prefixes)."""
    try:
        if "generator.conv1.conv.weight" not in state:
            return _of_heads(state, domain)
        channels = _channels(state)
        resolution = max(channels)
        domain = domain or _domain(state, options, resolution)
        return ModelConfig(
            resolution=resolution,
            working=min(WORKING, resolution),
            style_width=state["generator.style.1.weight"].shape[0],
            channels=channels,
            mapping_layers=_count(state, r"generator\.style\.\d+\.weight"),
            encoder=_encoder(path, state, domain),
            discrepancy=_discrepancy(state),
            domain=domain,
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f'"{path}" lacks weights that every checkpoint of its kind has ({error}); download or convert it again'
        ) from error


def _of_heads(state: dict[str, Tensor], domain: str | None) -> ModelConfig:
    """Of a backbone without a generator: what its heads say, one per row of the latent code, and else the released sizes."""
    rows = _count(state, r"inverter\.fs_backbone\.styles\.\d+\.weight")
    width, resolution = state["inverter.fs_backbone.styles.0.weight"].shape[0], 2 ** (rows // 2 + 1)
    channels = {size: count for size, count in RELEASED_CHANNELS.items() if size <= resolution}
    channels[FEATURE_SIZE] = state["inverter.fuser.conv.weight"].shape[0]
    return ModelConfig(resolution, min(WORKING, resolution), width, channels, domain=domain or FACES.domain)


def _domain(state: dict[str, Tensor], options: dict[str, Any], resolution: int) -> str:
    """What the file says, or else what the released models of its size are. A generator alone is anybody's, of any domain."""
    said = str(options.get("dataset_type", ""))
    if said:
        said = re.sub(r"(_encode|_hypernet|_inversion)+$", "", said)
        return {"ffhq": FACES.domain, "car": CARS.domain}.get(said, said)
    alone = all(name.startswith("generator.") for name in state)
    return CARS.domain if resolution == CARS.resolution and not alone else FACES.domain


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _channels(state: dict[str, Tensor]) -> dict[int, int]:
    """Layer size -> channels: the styled convolutions come in pairs per size."""
    channels = {4: state["generator.conv1.conv.weight"].shape[1]}
    for block in range(_count(state, r"generator\.convs\.\d*[02468]\.conv\.weight")):
        channels[8 * 2**block] = state[f"generator.convs.{2 * block}.conv.weight"].shape[1]
    return channels


def _encoder(path: Path, state: dict[str, Tensor], domain: str) -> EncoderConfig:
    body = "resnet" if "encoder.conv1.weight" in state else "ir_se"
    name, stem = ("conv1", "conv1") if body == "resnet" else ("res_layer.1", "input_layer.0")
    units = _count(state, rf"encoder\.body\.\d+\.{re.escape(name)}\.weight")
    crop = CARS.encoder.crop if domain == CARS.domain else None
    if units == 0:  # a generator alone
        return EncoderConfig(crop=crop)
    widths = [state[f"encoder.body.{unit}.{name}.weight"].shape[0] for unit in range(units)]
    groups = [(width, len(list(members))) for width, members in groupby(widths)]
    if len(groups) != 4:
        raise CheckpointError(
            f'"{path}" has an encoder whose body has the widths {[width for width, _ in groups]}, not four groups; '
            "give an e4e or SDIC checkpoint"
        )
    return EncoderConfig(
        widths=tuple(width for width, _ in groups),
        units=tuple(count for _, count in groups),
        crop=crop,
        inputs=state[f"encoder.{stem}.weight"].shape[1],
        pyramid="encoder.latlayer1.weight" in state,
        body=body,
    )


def _discrepancy(state: dict[str, Tensor]) -> DiscrepancyConfig:
    if "dipn.desc.weight" not in state:
        return DiscrepancyConfig()

    def outputs(name: str, axis: int = 0) -> int:
        return state[name].shape[axis]

    scales = [outputs(f"dipn.feature1.fe{layer}.conv.weight") for layer in (1, 3, 4, 5)]
    up = [outputs(f"dipn.feature_up.{name}.conv1.conv.weight", 1) for name in ("deconv8_4", "deconv4_2", "deconv2_1")]
    volume = [outputs("dipn.corr_stem.conv.weight"), *(outputs(f"dipn.hourglass_fusion.conv{layer}.0.conv.weight") for layer in (1, 2, 3))]
    return DiscrepancyConfig(
        scales=(scales[0], scales[1], scales[2], scales[3]),
        middle=outputs("dipn.feature1.fe2.conv.weight"),
        up=(up[0], up[1], up[2]),
        descriptor=outputs("dipn.desc.weight"),
        volume=(volume[0], volume[1], volume[2], volume[3]),
        stem=(outputs("dicn.conv_layer1.0.weight"), outputs("dicn.semantic.0.conv.weight")),
        shift_rows=outputs("dicn.condition_shift3.0.weight"),
    )
