"""What commands work on: pictures to invert, or inversions that were saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdic_runtime.errors import SdicError

if TYPE_CHECKING:
    from PIL import Image

    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline

INVERSION_SUFFIX = ".safetensors"


def existing(source: Path) -> Path:
    """The source itself, when it is a file. Raises SdicError before anything is loaded for nothing."""
    if source.is_dir():
        raise SdicError(f"{source} is a folder; name one picture or one inversion in it")
    if not source.exists():
        raise SdicError(f"there is no file {source}; name a picture, or an inversion written by: sdic-run invert IMG --save")
    return source


def inversion_of(pipeline: Pipeline, source: Path) -> Inversion:
    """The inversion in a .safetensors file, or that of a picture."""
    from sdic_runtime.inversion import Inversion

    return Inversion.load(source) if is_inversion(source) else pipeline.invert(source)


def is_inversion(source: Path) -> bool:
    """Whether the file's name says that it is a saved inversion and not a picture."""
    return source.suffix.lower() == INVERSION_SUFFIX


def input_picture(pipeline: Pipeline, source: Path) -> Image.Image:
    """The picture as the networks see it: at the working size, without the bars of a letterboxed domain."""
    from sdic_runtime.pictures import to_images, working_rows

    rows = working_rows(pipeline.sizes, pipeline.model.visible_rows)
    return to_images(pipeline.prepare(source), rows)[0]
