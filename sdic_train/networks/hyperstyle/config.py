"""Sizes of HyperStyle, and which layers of the generator it tunes."""

from __future__ import annotations

from dataclasses import dataclass

from sdic_runtime.errors import ArgumentError
from sdic_train.config import ModelConfig

RELEASED_LAYERS = (5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24)


@dataclass(frozen=True)
class HyperConfig(ModelConfig):
    """Layers are counted with RGB layers, as the released files do: 0 and 1 at 4 x 4, then three per size."""

    tuned: tuple[int, ...] = RELEASED_LAYERS
    backbone: tuple[int, ...] = (64, 128, 256, 512)  # channels of the groups of the ResNet
    units: tuple[int, ...] = (3, 4, 6, 3)
    narrow: int = 128  # channels inside a block of a layer that shares
    wide: int = 256  # and of one that does not

    def __post_init__(self) -> None:
        super().__post_init__()
        colours = [layer for layer in self.tuned if layer == 1 or (layer % 3 == 1 and layer > 3)]
        if colours:
            raise ArgumentError(f"the HyperStyle model tunes the RGB layers {', '.join(map(str, colours))}, which no released one does")

    @property
    def shared(self) -> tuple[int, ...]:
        """The tuned layers whose changes come from the shared network, a number for every weight: those with the channels of the first
        layer, which in the released models are all below 14."""
        return tuple(layer for layer in self.tuned if {*self.channels_of(layer)} == {self.channels[4]})

    def channels_of(self, layer: int) -> tuple[int, int]:
        """Outputs and inputs of a layer."""
        styled = styled_layer(layer)
        size = 4 if styled == 0 else 8 * 2 ** ((styled - 1) // 2)
        return self.channels[size], self.channels[size // 2 if styled % 2 else size]

    def delta_axes(self, layer: int) -> tuple[int, ...]:
        """What changes one picture's weights of `layer`: [outputs, inputs], and 3 x 3 where the network is shared."""
        return (*self.channels_of(layer), *((3, 3) if layer in self.shared else ()))


def styled_layer(layer: int) -> int:
    """Which styled convolution (`Generator.styled`) the counted `layer` is."""
    return 0 if layer == 0 else 2 * ((layer - 2) // 3) + 1 + (layer - 2) % 3


def delta(layer: int) -> str:
    """How the tensor that changes the weights of `layer` is called."""
    return f"delta_{layer}"
