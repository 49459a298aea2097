"""A photograph at its own size and at a half, a quarter, an eighth of it: what is looked at small need not be made from all of it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_runtime.faces.align import Square

if TYPE_CHECKING:
    from PIL.Image import Image

LEFT = 1.5  # pixels of a level for each pixel of what is made from it, at least: the rest is resampled with a filter


class Levels:
    """`photo` reduced by powers of two, each made once, when it is asked for."""

    def __init__(self, photo: Image) -> None:
        self.photo = photo
        self._made = [photo]

    def for_step(self, step: float) -> tuple[Image, int]:
        """The level for a result with one pixel for every `step` of the photograph's, and by how much it is reduced."""
        number = 0
        while step >= LEFT * 2 ** (number + 1) and min(self._made[number].size) > 1:
            number += 1
            if number == len(self._made):
                self._made.append(self._made[-1].reduce(2))
        return self._made[number], 2**number

    def resized(self, size: tuple[int, int]) -> Image:
        """All of the photograph in `size` pixels, antialiased."""
        from PIL import Image

        level, _ = self.for_step(min(self.photo.width / size[0], self.photo.height / size[1]))
        return level.resize(size, Image.Resampling.BILINEAR)

    def cut(self, square: Square, size: int, pad: bool = True) -> Image:
        """See `Square.cut`."""
        level, factor = self.for_step(square.side / size)
        return square.scaled(1 / factor).cut(level, size, pad)


def levels_of(photo: Image | Levels) -> Levels:
    return photo if isinstance(photo, Levels) else Levels(photo)
