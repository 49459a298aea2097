"""Batches of training pictures, and pictures of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_train.data.datasets import PictureSet
from sdic_train.networks.stylegan2 import Generator

if TYPE_CHECKING:
    from PIL import Image


def batch_pictures(
    pictures: PictureSet, batch: int, size: int, random: torch.Generator, mirror: bool = False
) -> tuple[Tensor, Tensor | None]:
    """`batch` pictures chosen by `random`: [batch, 3, size, size] in [-1, 1], and the persons' coordinates where they are known."""
    index = torch.randint(len(pictures), (batch,), generator=random).numpy()
    images = scaled(pictures, index, size)
    if mirror:
        images = torch.where(torch.rand(batch, 1, 1, 1, generator=random) < 0.5, images.flip(3), images)
    return images, None if pictures.coordinates is None else torch.from_numpy(pictures.coordinates[index])


def new_noises(generator: Generator, random: torch.Generator) -> list[Tensor]:
    """Random noise maps for every layer of `generator`, on its device."""
    return [torch.randn(noise.shape, generator=random).to(noise.device) for noise in generator.noises.maps()]


def scaled(pictures: PictureSet, index: np.ndarray, size: int) -> Tensor:
    """The pictures at `index` as [N, 3, size, size] in [-1, 1]; whole factors are averaged."""
    images = torch.from_numpy(pictures.pictures[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
    factor = images.shape[-1] // size
    if factor > 1 and images.shape[-1] == factor * size:
        return F.avg_pool2d(images, factor)
    if images.shape[-1] != size:
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return images


def sheet_of(*rows: Tensor) -> Image.Image:
    """Rows of pictures [N, 3, H, W] in [-1, 1] below each other as one RGB picture."""
    from PIL import Image

    picture = torch.cat([torch.cat(list(row.detach().float().cpu().clamp(-1, 1)), 2) for row in rows], 1)
    return Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
