"""The drawn portraits' own feature network: it reads a portrait's parameters, and its features measure likeness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.portraits.portraits import PARAMETERS

READING_SIZE = 128
READER_FORMAT = "sdic-portrait-reader"
IDENTITY = (
    "hair_length",
    "baldness",
    "fringe",
    "skin_tone",
    "hair_colour",
    "parting",
    "face_width",
    "jaw",
    "eye_size",
    "eye_colour",
    "brow_height",
    "brow_tilt",
    "nose_size",
)  # what stays when a person smiles, ages, turns or changes clothes


class PortraitReader(nn.Module):
    """Five strided convolutions and one linear layer from a 128 x 128 portrait to the parameters that it was drawn from."""

    low: Tensor
    high: Tensor
    person: Tensor

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 5 if index == 0 else 3, 2, 2 if index == 0 else 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1),
            )
            for index, (inputs, outputs) in enumerate(pairs)
        )
        self.hidden = nn.Linear(widths[-1] * (READING_SIZE // 2 ** len(widths)) ** 2, 192)
        self.output = nn.Linear(192, len(PARAMETERS))
        self.register_buffer("low", torch.tensor([entry.low for entry in PARAMETERS], dtype=torch.float32))
        self.register_buffer("high", torch.tensor([entry.high for entry in PARAMETERS], dtype=torch.float32))
        names = [entry.name for entry in PARAMETERS]
        person = [names.index(name) for name in IDENTITY]
        self.register_buffer("person", torch.tensor(person), persistent=False)

    def features(self, picture: Tensor) -> list[Tensor]:
        """picture [N, 3, H, W] in [-1, 1], any size -> the five feature maps, 64 x 64 to 4 x 4."""
        x = fit(picture)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def normalised(self, picture: Tensor) -> Tensor:
        """The parameters brought to -1..1 by their ranges; [N, parameters]."""
        return self.read(self.features(picture)[-1])

    def read(self, last: Tensor) -> Tensor:
        """The last of `features` -> `normalised`."""
        return self.output(F.leaky_relu(self.hidden(last.flatten(1)), 0.1))

    def forward(self, picture: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> the parameters in their own units, [N, parameters]."""
        return self.low + (self.normalised(picture) + 1) / 2 * (self.high - self.low)

    def targets(self, values: Tensor) -> Tensor:
        """Parameters in their own units -> -1..1; the inverse of the last line of `forward`."""
        return (values - self.low) / (self.high - self.low) * 2 - 1

    def identity(self, picture: Tensor, omitted: str = "") -> Tensor:
        """The parameters in `IDENTITY` but the one that is `omitted`, centred on their ranges and scaled to unit length: [N, identities].
        The dot product of two is their likeness, -1 to 1."""
        person = self.person  # as it is where it can be: steps that are recorded on a GPU upload nothing
        if omitted in IDENTITY:
            person = person[[place for place, name in enumerate(IDENTITY) if name != omitted]]
        return F.normalize(self.normalised(picture).float().index_select(1, person), dim=1)


def fit(picture: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 3, 128, 128], averaging when it shrinks."""
    if picture.shape[-2:] == (READING_SIZE, READING_SIZE):
        return picture
    return F.interpolate(picture, size=(READING_SIZE, READING_SIZE), mode="bilinear", align_corners=False, antialias=True)
