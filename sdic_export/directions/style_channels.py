"""Edits of style channels from text: LAYER/CHANNEL[:AMOUNT]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdic_export.directions.styleclip import read_deviations
from sdic_runtime.edits import check_number
from sdic_runtime.errors import ArgumentError
from sdic_runtime.styles import StyleDirection


def channel_direction(layers: Sequence[int], parts: Sequence[str], name: str, statistics: Path | None = None) -> StyleDirection:
    """The direction that adds to each channel its amount, 1 when omitted; with `statistics` (S_mean_std of StyleCLIP) in deviations.

    `layers`: see `Manifest.style_layers`. Raises SdicError."""
    channels = []
    for part in parts:
        place, _, amount = part.partition(":")
        layer, sign, channel = place.partition("/")
        if not sign or not layer.isdecimal() or not channel.isdecimal():
            raise ArgumentError(f'"{part}" is no style channel; give LAYER/CHANNEL[:AMOUNT], such as 11/286:-1')
        channels.append((int(layer), int(channel), check_number(amount or 1, f"the amount of {place}")))
    made = StyleDirection.of_channels(layers, channels, name, f"StyleSpace: {', '.join(parts)}")
    if statistics is None:
        return made
    deviations = read_deviations(statistics, layers)
    scaled = [(layer, channel, amount * float(deviations[layer][channel])) for layer, channel, amount in channels]
    return StyleDirection.of_channels(layers, scaled, name, f"{made.method}, in standard deviations")
