"""What commands work on: pictures to invert, or inversions that were saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_runtime.errors import ArgumentError, FileError, SdicError
from sdic_runtime.folders import BACKGROUND, INVERSION, STANDARD_INPUT, standard_input

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pictures import PictureLike
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.subjects import Reader, Subject, Wishes

PIPED = "the picture on standard input"


def existing(source: Path) -> Path:
    """The source itself, when it is a file or standard input. Raises FileError before anything is loaded for nothing."""
    if source.is_dir():
        raise FileError(f"{source} is a folder; name one picture or one inversion in it")
    if source != STANDARD_INPUT and not source.exists():
        raise FileError(f"there is no file {source}; name a picture, or an inversion written by: sdic-run invert IMG --save")
    return source


def picture_at(source: Path, profiles: bool = True) -> Path | Image.Image:
    """What a pipeline inverts: the path itself, or the decoded picture where it can be read only once: standard input, a pipe. Raises
    PictureError."""
    return source if source != STANDARD_INPUT and (source.is_file() or not source.exists()) else decoded(source, profiles)


def decoded(source: Path, profiles: bool = True) -> Image.Image:
    """The picture in a file, or on standard input; `profiles`: see `load_picture`. Raises PictureError."""
    from sdic_runtime.pictures import decode_picture, load_picture

    if source == STANDARD_INPUT:
        return decode_picture(BytesIO(standard_input().read()), PIPED, profiles=profiles)
    return load_picture(source, profiles)


def is_inversion(source: Path) -> bool:
    """Whether the file's name says that it is a saved inversion and not a picture."""
    return source.suffix.lower() == INVERSION


def subject_at(reader: Reader, source: Path) -> Subject:
    """What is inverted of the picture at `source`. Raises SdicError, also where no face is found in a photograph."""
    name = PIPED if source == STANDARD_INPUT else str(source)
    if not reader.photographs:
        return reader.read(picture_at(source, reader.profiles), name)
    from sdic_runtime.faces import read_photo

    return reader.read(read_photo(BytesIO(standard_input().read()), name) if source == STANDARD_INPUT else source, name)


def inversion_of(
    pipeline: Pipeline, source: Path, wishes: Wishes, photo: Path | None = None, batch: int | None = None
) -> tuple[Inversion, Subject | None]:
    """The inversion in a .safetensors file, with the subject that it is of where `photo` names that; or that of a picture, with its
    subject, whose notices are printed. Raises SdicError."""
    from sdic_runtime.cli.options import notice
    from sdic_runtime.decoding.shapes import SQUASH
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.subjects import Reader

    if is_inversion(source) and photo is None:
        if wishes.paste:
            raise ArgumentError(f"--paste is for photographs, and {source} is a saved inversion; name its photograph with --photo")
        ignored = {"aligned": wishes.aligned, "crop": wishes.crop, "ignore-profiles": not (pipeline.profiles or wishes.keep)}
        if name := wishes.said or next((name for name, given in ignored.items() if given), None):
            raise ArgumentError(f"--{name} is about pictures that are inverted, and {source} is a saved inversion; omit it")
        return Inversion.load(source), None
    reader = Reader(pipeline.bundle.manifest, wishes, pipeline.profiles)
    if is_inversion(source):
        assert photo is not None
        if not reader.photographs or wishes.face or wishes.crop_only:
            raise ArgumentError("--photo pastes a saved inversion into its photograph, with a bundle of aligned faces; omit other choices")
        inversion = Inversion.load(source)
        subject = reader.matching(photo, inversion.images, str(photo))
    elif photo is not None:
        raise ArgumentError(f"--photo is for a saved inversion, and {source} is none; omit it")
    else:
        subject = subject_at(reader, source)
        inversion = pipeline.invert(list(subject.pictures), batch, shape=SQUASH).named([subject.name] * len(subject.pictures))
    for text in subject.notices:
        notice(text)
    return inversion, subject


def masks_of(pipeline: Pipeline, source: Path, wishes: Wishes, photo: Path | None) -> dict[str, np.ndarray]:
    """The `extras` of edits that `--keep` asks for, none where it is omitted or about a photograph's paste. Raises SdicError."""
    pasted = wishes.photographs(pipeline.bundle.manifest) and (photo is not None or not is_inversion(source))
    if pasted or not wishes.keep:
        return {}
    if len(wishes.keep) > 1 or BACKGROUND in wishes.keep:
        raise ArgumentError(f"--keep {' and '.join(wishes.keep)} is for photographs with a model of aligned faces; here give one mask")
    return pipeline.masks(picture_at(Path(wishes.keep[0])))


def compared_picture(source: Path, bundles: Sequence[Path | None], wishes: Wishes) -> Image.Image:
    """What all of `bundles` are compared on: the picture, or where one of them is of aligned faces, the chosen face's crop. Raises
    SdicError."""
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.cli.options import notice
    from sdic_runtime.subjects import Reader

    opened = []
    for bundle in bundles:
        with suppress(SdicError):  # what runs it says what is wrong with it
            opened.append(Bundle.open(bundle).manifest)
    manifest = next((manifest for manifest in opened if manifest.faces), opened[0] if opened else None)
    if manifest is None:
        return decoded(source)
    reader = Reader(manifest, wishes)
    subject = subject_at(reader, source) if reader.photographs else reader.read(decoded(source), str(source))
    for text in subject.notices:
        notice(text)
    picture = subject.pictures[0]  # of --face all the largest
    assert not isinstance(picture, str | os.PathLike)
    return picture


def as_seen(pipeline: Pipeline, picture: PictureLike) -> Image.Image:
    """The picture as the networks see it: at the working size, without the bars of a letterboxed domain."""
    from sdic_runtime.decoding.shapes import SQUASH
    from sdic_runtime.pictures import to_images, working_rows

    rows = working_rows(pipeline.sizes, pipeline.model.visible_rows)
    return to_images(pipeline.prepare(picture, SQUASH), rows)[0]
