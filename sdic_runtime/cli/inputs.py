"""What commands work on: pictures to invert, or inversions that were saved."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_runtime.errors import FileError
from sdic_runtime.folders import INVERSION, STANDARD_INPUT

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pictures import PictureLike
    from sdic_runtime.pipeline import Pipeline


def existing(source: Path) -> Path:
    """The source itself, when it is a file or standard input. Raises FileError before anything is loaded for nothing."""
    if source.is_dir():
        raise FileError(f"{source} is a folder; name one picture or one inversion in it")
    if source != STANDARD_INPUT and not source.exists():
        raise FileError(f"there is no file {source}; name a picture, or an inversion written by: sdic-run invert IMG --save")
    return source


def picture_at(source: Path) -> PictureLike:
    """What a pipeline inverts: the path itself, or the decoded picture where it can be read only once: standard input, a pipe. Raises
    PictureError."""
    return source if source != STANDARD_INPUT and (source.is_file() or not source.exists()) else decoded(source)


def decoded(source: Path) -> Image.Image:
    """The picture in a file, or on standard input. Raises PictureError."""
    from sdic_runtime.pictures import decode_picture, load_picture

    if source == STANDARD_INPUT:
        return decode_picture(BytesIO(sys.stdin.buffer.read()), "the picture on standard input")
    return load_picture(source)


def is_inversion(source: Path) -> bool:
    """Whether the file's name says that it is a saved inversion and not a picture."""
    return source.suffix.lower() == INVERSION


def inversion_of(pipeline: Pipeline, source: Path) -> Inversion:
    """The inversion in a .safetensors file, or that of a picture."""
    from sdic_runtime.inversion import Inversion

    return Inversion.load(source) if is_inversion(source) else pipeline.invert(picture_at(source))


def masks_of(pipeline: Pipeline, keep: Path | None) -> dict[str, np.ndarray]:
    """The `extras` of edits that `--keep` asks for, none where it is omitted. Raises SdicError."""
    return {} if keep is None else pipeline.masks(picture_at(keep))


def as_seen(pipeline: Pipeline, picture: PictureLike) -> Image.Image:
    """The picture as the networks see it: at the working size, without the bars of a letterboxed domain."""
    from sdic_runtime.pictures import to_images, working_rows

    rows = working_rows(pipeline.sizes, pipeline.model.visible_rows)
    return to_images(pipeline.prepare(picture), rows)[0]
