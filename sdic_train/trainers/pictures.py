"""Batches of training pictures, and pictures of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_train.config import ModelConfig
from sdic_train.data.datasets import PictureSet

if TYPE_CHECKING:
    from PIL import Image

CPU = torch.device("cpu")
SHARE = 0.25  # of a GPU's free memory
_HELD: WeakKeyDictionary[PictureSet, Tensor | None] = WeakKeyDictionary()


def batch_pictures(
    pictures: PictureSet,
    batch: int,
    size: int,
    random: torch.Generator,
    mirror: bool = False,
    device: torch.device = CPU,
    rows: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`batch` pictures chosen by `random`: [batch, 3, size, size] in [-1, 1], and the persons' coordinates where they are known, on the
    CPU. On a GPU all pictures of the set stay in its memory, where there is room. `rows`: see `scaled`."""
    index = torch.randint(len(pictures), (batch,), generator=random)
    images = scaled(pictures, index.numpy(), size, device, rows)
    if mirror:
        flipped = (torch.rand(batch, 1, 1, 1, generator=random) < 0.5).to(images.device, non_blocking=True)
        images = torch.where(flipped, images.flip(3), images)
    return images, None if pictures.coordinates is None else torch.from_numpy(pictures.coordinates[index.numpy()])


def shown_rows(config: ModelConfig, size: int) -> tuple[int, int] | None:
    """The rows (first, end) of a picture of `size` that a letterboxed domain shows; None where that is all of them."""
    first, end = (row * size // config.resolution for row in config.visible_rows)
    return None if (first, end) == (0, size) else (first, end)


def scaled(pictures: PictureSet, index: np.ndarray, size: int, device: torch.device = CPU, rows: tuple[int, int] | None = None) -> Tensor:
    """The pictures at `index` as [N, 3, size, size] in [-1, 1] on `device`; whole factors are averaged. `rows` (first, end): the pictures
    fill these, and what is above and below is black, as the runtime prepares its input for a letterboxed domain."""
    held = _held(pictures, device) if device.type == "cuda" else None
    if held is None:
        chosen = torch.from_numpy(pictures.pictures[index])
    else:
        chosen = held[torch.from_numpy(index).to(device, non_blocking=True)]
    images = chosen.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rows is not None:
        seen = F.interpolate(images, size=(rows[1] - rows[0], size), mode="bilinear", align_corners=False, antialias=True)
        return F.pad(seen, (0, 0, rows[0], size - rows[1]), value=-1.0)
    factor = images.shape[-1] // size
    if factor > 1 and images.shape[-1] == factor * size:
        return F.avg_pool2d(images, factor)
    if images.shape[-1] != size:
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return images


def _held(pictures: PictureSet, device: torch.device) -> Tensor | None:
    """All pictures in the GPU's memory, uint8 [N, H, W, 3]; None where they would take more than `SHARE` of what is free."""
    if pictures not in _HELD:
        free, _ = torch.cuda.mem_get_info(device)
        fits = pictures.pictures.nbytes < SHARE * free
        _HELD[pictures] = torch.from_numpy(np.ascontiguousarray(pictures.pictures)).to(device) if fits else None
    return _HELD[pictures]


def sheet_of(*rows: Tensor) -> Image.Image:
    """Rows of pictures [N, 3, H, W] in [-1, 1] below each other as one RGB picture."""
    from PIL import Image

    picture = torch.cat([torch.cat(list(row.detach().float().cpu().clamp(-1, 1)), 2) for row in rows], 1)
    return Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
