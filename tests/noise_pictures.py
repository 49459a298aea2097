"""Files with pictures of noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (90, 88)) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


def make_pictures(folder: Path, count: int, bad: Sequence[int] = (), side: int = 40) -> Path:
    """Noise, and files that are no pictures."""
    folder.mkdir()
    for index in range(count):
        path = folder / f"p{index:03}.png"
        if index in bad:
            path.write_bytes(b"not a picture")
            continue
        noise = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, compress_level=1)
    return folder
