"""Edits of a latent code: directions, GANSpace components, and several combined.

Every edit offers `offset(latent)`, and the edited code is latent + strength * offset(latent).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from sdic_runtime.errors import ArgumentError
from sdic_runtime.parsing.arrays import finite_array
from sdic_runtime.program import STYLE_KIND
from sdic_runtime.styles import StyleDirection

# Domain -> name -> (component, first row, end row, sigma): the edits published with SDIC and StyleFeatureEditor.
GANSPACE_PRESETS: dict[str, dict[str, tuple[int, int, int, float]]] = {
    "faces": {
        "eyes": (54, 7, 8, 20.0), "beard": (58, 7, 9, -20.0), "lip": (34, 10, 11, 20.0), "face_roundness": (37, 0, 5, 20.0),
        "nose_length": (51, 4, 5, -30.0), "eyebrow_thickness": (37, 8, 9, 20.0), "head_angle_up": (11, 1, 4, -10.5),
        "displeased": (36, 4, 7, 10.0),
    },
    "cars": {
        "left": (0, 0, 5, 2.0), "right": (0, 0, 5, -2.0), "cube": (16, 3, 6, 25.0), "color": (22, 9, 11, -8.0), "grass": (41, 9, 11, -18.0),
    },
}  # fmt: skip


GANSPACE_RANGE = (-1.5, 1.5)  # useful strengths of these: StyleFeatureEditor's authors use coordinates to about 30 where sigma is 20
UNKNOWN_RANGE = (-3.0, 3.0)  # of a direction that does not say its own
LARGEST_NUMBER = float(np.finfo(np.float32).max)


@runtime_checkable
class Edit(Protocol):
    """A change of latent codes."""

    def offset(self, latent: np.ndarray) -> np.ndarray:
        """What strength 1 adds to `latent` [N, L, C]: float32, of a shape that broadcasts to it."""

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise ArgumentError when the edit does not fit latent codes of these sizes."""


def check_number(value: Any, what: str) -> float:
    """`value` as a finite float. Raises ArgumentError, naming it by `what`."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"{what} is {value!r:.60}; give a finite number")
    if abs(number) > LARGEST_NUMBER:
        raise ArgumentError(f"{what} is {value!r:.60}; give a number of at most {LARGEST_NUMBER:.1e}")
    return number


@dataclass(frozen=True, eq=False)
class Direction:
    """A constant offset in latent space, such as an InterFaceGAN boundary normal.

    `vector` may be [C], [1, C], [L, C] or [1, L, C] and is kept as float32 [1, C] (the same for every style row) or [L, C].
    `rows` (first, end) restricts it to those style rows; `strength_range` is a suggestion for sliders.
    """

    vector: np.ndarray
    name: str = ""
    method: str = ""
    strength_range: tuple[float, float] | None = None
    rows: tuple[int, int] | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        array = finite_array(self.vector, self._label)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim == 1:
            array = array[None]
        if array.ndim != 2 or 0 in array.shape:
            raise ArgumentError(f"{self._label} has shape {list(array.shape)}; expected [C], [1, C], [L, C] or [1, L, C]")
        object.__setattr__(self, "vector", array)

    @property
    def _label(self) -> str:
        return f'the direction "{self.name}"' if self.name else "the direction"

    def offset(self, latent: np.ndarray) -> np.ndarray:
        if self.rows is None:
            return self.vector[None]
        offset = np.zeros((1, *latent.shape[1:]), np.float32)
        offset[:, slice(*self.rows)] = self.vector[slice(*self.rows)] if len(self.vector) > 1 else self.vector
        return offset

    def check(self, sizes: Mapping[str, int]) -> None:
        (rows, width), (all_rows, style_width) = self.vector.shape, (sizes["L"], sizes["C"])
        if width != style_width or rows not in (1, all_rows):
            whole, found = f"[{all_rows}, {style_width}]", f"{self._label} has shape [{rows}, {width}]"
            raise ArgumentError(f"{found}, and this model's latent codes are {whole}; use [1, {style_width}] or {whole}")
        _check_rows(self.rows, sizes, self._label)


@dataclass(frozen=True, eq=False)
class Pca:
    """A GANSpace basis: `mean` [1, C], `comp` [k, 1, C] with unit rows, `std` [k], all float32."""

    mean: np.ndarray
    comp: np.ndarray
    std: np.ndarray
    name: str = ""
    method: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        mean, comp, std = (finite_array(getattr(self, part), f"the PCA basis' {part}") for part in ("mean", "comp", "std"))
        width = mean.shape[-1] if mean.ndim else 0
        if width < 1 or mean.size != width or std.ndim != 1 or comp.shape not in ((len(std), 1, width), (len(std), width)):
            found = f"mean {list(mean.shape)}, comp {list(comp.shape)} and std {list(std.shape)}"
            raise ArgumentError(f"the PCA basis has {found}; expected [1, C], [k, 1, C] and [k]")
        if not (std > 0).all():
            raise ArgumentError("the PCA basis has a component with a standard deviation of zero or less; make it again")
        for part, array in (("mean", mean.reshape(1, width)), ("comp", comp.reshape(-1, 1, width)), ("std", std)):
            object.__setattr__(self, part, array)


@dataclass(frozen=True, eq=False)
class GanSpaceEdit:
    """An edit along one component of a GANSpace basis, on the style rows start..end-1.

    `mode="set"` (the released form) moves the code to the coordinate `sigma`, in standard deviations: the present coordinate is
    <w[0] - mean, comp[index]> / std[index], read off style row 0. `mode="add"` moves it by `sigma` from wherever it is.
    `pca` is a `Pca` or a mapping with mean, comp and std.
    """

    pca: Any
    index: int
    start: int
    end: int
    sigma: float
    mode: str = "set"

    def __post_init__(self) -> None:
        basis = self.pca
        if not isinstance(basis, Pca):
            if not isinstance(basis, Mapping) or not {"mean", "comp", "std"} <= set(basis):
                raise ArgumentError("a GANSpace edit needs a PCA basis: a Pca, or a mapping with mean, comp and std")
            basis = Pca(basis["mean"], basis["comp"], basis["std"])
            object.__setattr__(self, "pca", basis)
        count = len(basis.std)
        if not isinstance(self.index, int | np.integer) or not 0 <= self.index < count:
            raise ArgumentError(f"the GANSpace component {self.index} does not exist; the basis has components 0 to {count - 1}")
        if self.mode not in ("set", "add"):
            raise ArgumentError(f'the GANSpace mode is "{self.mode}"; use "set" or "add"')
        check_number(self.sigma, "the GANSpace sigma")

    @property
    def strength_range(self) -> tuple[float, float]:
        """A suggestion for sliders."""
        return GANSPACE_RANGE

    @classmethod
    def preset(cls, pca: Any, domain: str, name: str, mode: str = "set") -> GanSpaceEdit:
        """The published edit `name` of `domain`, see GANSPACE_PRESETS. `pca` must be the basis published with it."""
        known = [f"{place}/{edit}" for place, edits in GANSPACE_PRESETS.items() for edit in edits]
        if f"{domain}/{name}" not in known:
            raise ArgumentError(f"there is no GANSpace preset {domain}/{name}; the presets are: {', '.join(known)}")
        return cls(pca, *GANSPACE_PRESETS[domain][name], mode=mode)

    def offset(self, latent: np.ndarray) -> np.ndarray:
        component, deviation = self.pca.comp[self.index, 0], self.pca.std[self.index]
        amount = np.full(len(latent), self.sigma, np.float32)
        if self.mode == "set":
            amount -= (latent[:, 0] - self.pca.mean) @ component / deviation
        offset = np.zeros(latent.shape, np.float32)
        offset[:, self.start : self.end] = (amount * deviation)[:, None, None] * component
        return offset

    def check(self, sizes: Mapping[str, int]) -> None:
        width, style_width = self.pca.mean.shape[1], sizes["C"]
        if width != style_width:
            found = f"the PCA basis has width {width}, and this model's style width is {style_width}"
            raise ArgumentError(f"{found}; use a basis of this model")
        _check_rows((self.start, self.end), sizes, "the GANSpace edit")


@dataclass(frozen=True, eq=False)
class CombinedEdit:
    """Several edits at once, each with its own strength: sum of strength_i * offset_i, all read off the unedited code."""

    parts: Sequence[tuple[Any, float]]  # edits as `as_edit` takes them; here names stay names

    def __post_init__(self) -> None:
        if not isinstance(self.parts, list | tuple) or not all(isinstance(part, list | tuple) and len(part) == 2 for part in self.parts):
            raise ArgumentError(f"the combined edit is {self.parts!r:.60}; give a list of (edit, strength)")
        if not self.parts:
            raise ArgumentError("the combined edit is empty; give at least one (edit, strength)")
        edits = (edit if isinstance(edit, str) else as_edit(edit) for edit, _ in self.parts)
        strengths = (check_number(strength, "the strength") for _, strength in self.parts)
        object.__setattr__(self, "parts", tuple(zip(edits, strengths, strict=True)))

    def offset(self, latent: np.ndarray) -> np.ndarray:
        total = np.zeros((1, *latent.shape[1:]), np.float32)
        for edit, strength in self.parts:
            total = total + np.float32(strength) * edit.offset(latent)
        return total

    def check(self, sizes: Mapping[str, int]) -> None:
        for edit, _ in self.parts:
            edit.check(sizes)


def _check_rows(rows: tuple[int, int] | None, sizes: Mapping[str, int], label: str) -> None:
    count = sizes["L"]
    if rows is None:
        return
    if not isinstance(rows, list | tuple) or len(rows) != 2 or not all(isinstance(row, int | np.integer) for row in rows):
        raise ArgumentError(f"{label} is for the style rows {rows!r:.60}; give the first and the end as whole numbers")
    if not 0 <= rows[0] < rows[1] <= count:
        raise ArgumentError(f"{label} is for the style rows {rows[0]} to {rows[1]} (end not included), and this model has {count} rows")


EditLike: TypeAlias = "str | Edit | Pca | np.ndarray | Sequence[float] | Sequence[tuple[EditLike, float]]"  # see `as_edit`


def _is_combination(value: Any) -> bool:
    """A list of (edit, strength): pairs whose second half is one number and whose first half is not; a list [name, strength] counts too."""
    if not isinstance(value, list | tuple) or not value:
        return False

    def is_pair(part: Any) -> bool:
        return isinstance(part, list | tuple) and len(part) == 2 and (isinstance(part, tuple) or isinstance(part[0], str))

    if not all(map(is_pair, value)):
        return False
    return all(np.ndim(strength) == 0 and (isinstance(edit, str) or not np.isscalar(edit)) for edit, strength in value)


def as_edit(value: Any, directions: Mapping[str, Direction | StyleDirection | Pca] | None = None) -> Edit:
    """The edit that `value` stands for: an edit itself, a name in `directions`, an array [C], [1, C], [L, C] or [1, L, C], or a
    list of (edit, strength). Raises ArgumentError."""
    if isinstance(value, str):
        if directions is None:
            raise ArgumentError(f'the edit "{value}" is a name, and no directions were given to look it up in')
        value = directions[value]
    if isinstance(value, Pca):
        raise ArgumentError("a PCA basis is not an edit by itself; choose a component with GanSpaceEdit(pca, index, start, end, sigma)")
    if _is_combination(value):
        value = CombinedEdit(value)
    if isinstance(value, CombinedEdit):
        return CombinedEdit([(as_edit(edit, directions), strength) for edit, strength in value.parts])
    if hasattr(value, "offset") and hasattr(value, "check"):
        return value
    if value is None or isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(isinstance(part, str) for part in value)):
        raise ArgumentError(f"an edit cannot be made from {value!r:.60}; give a name, a direction, an array, or a list of (edit, strength)")
    return Direction(value)


def kinds_of(edit: Edit) -> set[str]:
    """Which of `program.EDIT_KINDS` an edit is made of, and `program.STYLE_KIND`."""
    if isinstance(edit, CombinedEdit):
        return set().union(*(kinds_of(part) for part, _ in edit.parts if not isinstance(part, str)))
    return {STYLE_KIND if isinstance(edit, StyleDirection) else "ganspace" if isinstance(edit, GanSpaceEdit) else "direction"}


def style_offset(edit: Edit) -> np.ndarray | None:
    """What strength 1 of `edit` adds to the styles, [1, M]; None where it is no edit in style space."""
    if isinstance(edit, CombinedEdit):
        parts = [(style_offset(part), strength) for part, strength in edit.parts]
        offsets = [np.float32(strength) * offset for offset, strength in parts if offset is not None]
        return sum(offsets[1:], offsets[0]) if offsets else None
    return edit.style_offset if isinstance(edit, StyleDirection) else None


def edited(latent: np.ndarray, edit: Edit, strength: float) -> np.ndarray:
    """latent + strength * offset(latent), float32 [N, L, C]: `latent` is float32 [N, L, C]."""
    return latent + np.float32(strength) * edit.offset(latent)


def fingerprint(edit: Edit, sizes: Mapping[str, int]) -> str:
    """A hash over what an edit does to two different codes [L, C] and to the styles, whatever files it came from."""
    codes = np.zeros((2, sizes["L"], sizes["C"]), np.float32)
    codes[1] = np.linspace(-1, 1, codes[1].size).reshape(codes[1].shape)
    content, styles = np.broadcast_to(edit.offset(codes), codes.shape).tobytes(), style_offset(edit)
    return hashlib.sha256(content if styles is None else content + styles.tobytes()).hexdigest()
