"""Edits in style space: offsets to what the layers of a generator make of a code, by channel.

A channel is (layer, channel): layers are counted as StyleSpace does (Wu et al. 2021), with RGB layers: convolution and RGB layer at 4 x 4,
then upsampling convolution, convolution and RGB layer of every size. So RGB layers are 1, 4, 7, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdic_runtime.errors import ArgumentError
from sdic_runtime.parsing.arrays import finite_array
from sdic_runtime.program import STYLES_LETTER

Channel = tuple[int, int]
REBUILD = "build it again with: sdic-export build --style-space"
PRESET_AMOUNT = 3.0  # that strength 1 of a preset adds to its channels, or takes away where that gives what its name says

# Domain -> name -> channels, amount, useful strengths: published with StyleSpace and StyleFeatureEditor, for StyleGAN2 of FFHQ and of cars.
STYLE_PRESETS: dict[str, dict[str, tuple[tuple[Channel, ...], float, tuple[float, float] | None]]] = {
    "faces": {
        "black_hair": (((12, 479),), PRESET_AMOUNT, (-7, 10)),
        "blond_hair": (((12, 479), (12, 266)), -PRESET_AMOUNT, (-7, 10)),
        "grey_hair": (((11, 286),), -PRESET_AMOUNT, (-7, 7)),
        "wavy_hair": (((6, 500), (8, 128), (5, 92), (6, 394), (6, 323)), PRESET_AMOUNT, (-7, 7)),
        "bangs": (((3, 259), (6, 285), (5, 414), (6, 128), (9, 295), (6, 322), (6, 487), (6, 504)), PRESET_AMOUNT, None),
        "receding_hairline": (((5, 414), (6, 322), (6, 497), (6, 504)), -PRESET_AMOUNT, (-10, 10)),
        "smiling": (((6, 501),), -PRESET_AMOUNT, (-10, 10)),
        "lipstick": (((15, 45),), PRESET_AMOUNT, None),
        "sideburns": (((12, 237),), -PRESET_AMOUNT, (-7, 7)),
        "goatee": (((9, 421),), -PRESET_AMOUNT, (-7, 7)),
        "earrings": (((8, 81),), PRESET_AMOUNT, (0, 15)),
        "eyeglasses": (((3, 288), (2, 175), (3, 120), (2, 97)), -PRESET_AMOUNT, (-10, 10)),
        "suit": (((9, 441), (8, 292), (11, 358), (6, 223)), PRESET_AMOUNT, None),
        "femininity": (((9, 6),), PRESET_AMOUNT, (-10, 7)),
    },
    "cars": {
        "front": (((8, 411),), PRESET_AMOUNT, None),
        "headlights": (((8, 441), (9, 355)), PRESET_AMOUNT, None),
        "grill": (((9, 191),), PRESET_AMOUNT, None),
        "trees": (((9, 108),), PRESET_AMOUNT, None),
        "lawn": (((12, 107),), PRESET_AMOUNT, None),
        "sky": (((12, 76),), PRESET_AMOUNT, None),
        "hubcap": (((12, 113), (12, 439)), PRESET_AMOUNT, None),
        "car_color": (((12, 142), (15, 227)), PRESET_AMOUNT, None),
        "logo": (((9, 185),), PRESET_AMOUNT, None),
        "wheel_angle": (((8, 420),), PRESET_AMOUNT, None),
    },
}


@dataclass(frozen=True, eq=False)
class StyleDirection:
    """A constant offset in style space: `vector` [M], float32, over all styles in the order of the bundle's `style_layers`.

    `strength_range` is a suggestion for sliders. An edit of this kind needs a bundle that was built with `--style-space`.
    """

    vector: np.ndarray
    name: str = ""
    method: str = ""
    strength_range: tuple[float, float] | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        label = f'the style direction "{self.name}"' if self.name else "the style direction"
        array = finite_array(self.vector, label)
        if array.size not in array.shape:
            raise ArgumentError(f"{label} has shape {list(array.shape)}; expected [M], a number for every style")
        object.__setattr__(self, "vector", array.reshape(-1))

    @classmethod
    def of_channels(
        cls,
        layers: Sequence[int],
        channels: Iterable[tuple[int, int, float]],
        name: str = "",
        method: str = "",
        strength_range: tuple[float, float] | None = None,
    ) -> StyleDirection:
        """The direction that adds `amount` to each (layer, channel, amount). `layers`: `Manifest.style_layers`. Raises ArgumentError."""
        if not layers:
            raise ArgumentError(f"this bundle has no style space; {REBUILD}")
        vector = np.zeros(sum(layers), np.float32)
        for layer, channel, amount in channels:
            if not 0 <= layer < len(layers):
                raise ArgumentError(f"there is no layer {layer} in style space; this model has the layers 0 to {len(layers) - 1}")
            if not 0 <= channel < layers[layer]:
                raise ArgumentError(f"the layer {layer} has no channel {channel}; it has the channels 0 to {layers[layer] - 1}")
            vector[sum(layers[:layer]) + channel] += amount
        return cls(vector, name, method, strength_range)

    @classmethod
    def preset(cls, layers: Sequence[int], domain: str, name: str) -> StyleDirection:
        """The published edit `name` of `domain`, see STYLE_PRESETS. Raises ArgumentError."""
        if name not in (known := STYLE_PRESETS.get(domain, {})):
            raise ArgumentError(f'there is no preset "{name}" for models of "{domain}"; there are: {", ".join(known) or "none"}')
        channels, amount, useful = known[name]
        return cls.of_channels(layers, ((*channel, amount) for channel in channels), name, "StyleSpace preset", useful)

    @property
    def style_offset(self) -> np.ndarray:
        """What strength 1 adds to the styles: [1, M]."""
        return self.vector[None]

    def offset(self, latent: np.ndarray) -> np.ndarray:
        """Nothing: the code stays as it is."""
        return np.zeros((1,) * latent.ndim, np.float32)

    def check(self, sizes: Mapping[str, int]) -> None:
        if STYLES_LETTER not in sizes:
            raise ArgumentError(f"the edit is of style space, which this bundle does not have; {REBUILD}")
        if len(self.vector) != sizes[STYLES_LETTER]:
            raise ArgumentError(f"the style direction has {len(self.vector)} styles, and this model has {sizes[STYLES_LETTER]}")
