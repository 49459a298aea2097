"""Pictures with one face, by turning, scaling, mirroring, dimming and compressing a photograph; and pictures without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from skimage import data

CENTRE = np.array([225.0, 106.0])  # of the face in `astronaut`
EYES = 44.4  # pixels between its eyes
# What scikit-image ships without a face (`camera` has one in profile).
FACELESS = (
    *("brick", "cell", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "hubble_deep_field", "immunohistochemistry"),
    *("microaneurysms", "moon", "page", "retina", "rocket", "text", "horse", "checkerboard", "logo"),
)


@dataclass(frozen=True)
class Variant:
    """`centre`: where the face is; `eyes`: pixels between its eyes; `angle`: degrees by which it is turned."""

    picture: Image.Image
    centre: np.ndarray
    eyes: float
    angle: float


def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


def variants(count: int, seed: int = 0, most_turned: float = 180) -> Iterator[Variant]:
    """`astronaut` with eyes 20 to 90 pixels apart, turned by up to `most_turned` degrees (half of them by less than 30), half of them
    mirrored, at .35 to 1.4 of its brightness, compressed with a quality of 12 to 95."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        picture, centre = astronaut(), CENTRE
        if index % 2:
            picture, centre = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.array([512 - centre[0], centre[1]])
        eyes = float(np.exp(rng.uniform(np.log(20), np.log(90))))
        side = round(512 * eyes / EYES)
        picture, centre = picture.resize((side, side), Image.Resampling.LANCZOS), centre * side / 512
        angle = float(rng.uniform(-1, 1) * (min(30, most_turned) if index % 4 < 2 else most_turned))
        if angle:
            turn = np.radians(-angle)
            matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            centre = matrix @ (centre - side / 2) + np.array(picture.size) / 2
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.35, 1.4))
        compressed = BytesIO()
        picture.save(compressed, "JPEG", quality=int(rng.integers(12, 96)))
        yield Variant(Image.open(compressed).convert("RGB"), centre, eyes, angle)


def faceless() -> Iterator[tuple[str, Image.Image]]:
    """50 pictures: textures, things, a cat, text, the sky, parts of `astronaut` without the face, and drawn shapes."""
    for name in FACELESS:
        picture = Image.fromarray(np.asarray(getattr(data, name)()))
        yield name, picture.convert("RGB")
    from sklearn.datasets import load_sample_images

    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        yield name, Image.fromarray(pixels)
        yield f"{name} mirrored", Image.fromarray(pixels[:, ::-1])
    yield "suit", astronaut().crop((0, 200, 512, 512))
    yield "rocket model", astronaut().crop((300, 0, 512, 512))
    for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_LEFT_RIGHT):
        yield f"cat {turn.name}", Image.fromarray(data.chelsea()).transpose(turn)
        yield f"coffee {turn.name}", Image.fromarray(data.coffee()).transpose(turn)
    rng = np.random.default_rng(1)
    for index in range(18):
        yield f"drawn {index}", drawn(rng)


def drawn(rng: np.random.Generator) -> Image.Image:
    """Ellipses, boxes and lines of any colour."""
    picture = Image.new("RGB", (500, 400), tuple(rng.integers(0, 256, 3).tolist()))
    drawing = ImageDraw.Draw(picture)

    def colour() -> tuple[int, ...]:
        return tuple(rng.integers(0, 256, 3).tolist())

    for _ in range(12):
        (left, right), (top, bottom) = np.sort(rng.integers(0, 500, 2)), np.sort(rng.integers(0, 400, 2))
        shape = (drawing.ellipse, drawing.rectangle, drawing.line)[rng.integers(3)]
        shape((int(left), int(top), int(right), int(bottom)), fill=colour())
    return picture
