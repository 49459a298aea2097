"""A sheet of Table 1: photos, and every method's inversions of them with one edit below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

SIZE = 128  # pixels of the demo domain


def sheet(models: Mapping[str, Path], photos: NDArray[Any], judge: Path, direction: Path) -> Image.Image:
    """`models`: the columns' names -> checkpoints. `photos` [N, H, W, 3]. The edit of `direction` brings each person to the other side of
    its attribute, which `judge` reads off the photo, by the distance between the sides."""
    import torch
    from PIL import Image

    from sdic_runtime.directions import load_direction
    from sdic_runtime.sheets import sheet as drawn
    from sdic_train.evaluation.evaluate import default_strengths
    from sdic_train.losses.networks import open_reader
    from sdic_train.portraits.portraits import PARAMETERS

    edit, name = load_direction(direction), direction.stem
    strength = default_strengths({name: edit})[name]
    place = next(index for index, entry in enumerate(PARAMETERS) if entry.name == name)
    with torch.no_grad():
        read = open_reader(judge)(torch.tensor(photos).permute(0, 3, 1, 2).float() / 127.5 - 1)[:, place]
    signs = [1.0 if value <= (PARAMETERS[place].threshold or 0.0) else -1.0 for value in read.tolist()]
    blank = Image.new("RGB", (SIZE, SIZE), "white")
    columns = [[picture for photo in photos for picture in (Image.fromarray(photo), blank)]]
    columns += [column(path, photos, edit, [sign * strength for sign in signs]) for path in models.values()]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return drawn(rows, ["input", *models], SIZE, ["inversion", name] * len(photos))


def column(path: Path, photos: NDArray[Any], edit: Any, strengths: list[float]) -> list[Image.Image]:
    """The inversion of every photo and its edit, from top to bottom."""
    from sdic_runtime.decoding.shapes import SQUASH
    from sdic_train.pipelines import Weights, pipeline_of

    code, model = Weights(path).read()
    found = []
    with pipeline_of(code, model, path) as pipeline:
        for photo, strength in zip(photos, strengths, strict=True):
            inversion = pipeline.invert(pipeline.prepare(photo, SQUASH))
            found += [inversion.images[0], pipeline.edit(inversion, edit, strength=strength).images[0]]
    return found
