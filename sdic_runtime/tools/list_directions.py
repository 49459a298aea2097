"""Everything that a bundle can be edited along, as a list."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import KINDS, Directions
from sdic_runtime.edit_orders import presets
from sdic_runtime.edits import GANSPACE_PRESETS, GANSPACE_RANGE, Pca
from sdic_runtime.styles import STYLE_PRESETS

PRESET_KINDS = {"ganspace": "GANSpace preset", "style": "StyleSpace preset"}


@dataclass(frozen=True)
class Listed:
    """A direction, a PCA basis or a preset. `strength_range`: useful strengths, None where they are not known. `style_rows`: the rows
    (first, end) that it moves, None for all or none."""

    name: str
    kind: str
    strength_range: tuple[float, float] | None = None
    style_rows: tuple[int, int] | None = None
    components: int | None = None  # of a PCA basis
    method: str = ""
    licence: str = ""

    @property
    def useful(self) -> str:
        if self.components is not None:
            return f"{self.components} components"
        return "not known" if self.strength_range is None else "{:g} to {:g}".format(*self.strength_range)

    @property
    def rows(self) -> str:
        return "" if self.style_rows is None else f"{self.style_rows[0]} to {self.style_rows[1] - 1}"

    @property
    def made(self) -> str:
        return "; ".join(text for text in (self.method, self.licence) if text)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def listed(bundle: Bundle) -> list[Listed]:
    """The directions of the bundle by name, then the presets of its domain that it can run. Raises BundleError for a damaged file."""
    entries = []
    for name, found in Directions(bundle).items():
        components = len(found.std) if isinstance(found, Pca) else None
        useful, rows = getattr(found, "strength_range", None), getattr(found, "rows", None)
        entries.append(Listed(name, KINDS[type(found)], useful, rows, components, found.method, found.licence))
    runnable, domain = presets(bundle), bundle.manifest.domain
    for name in runnable["ganspace"]:
        _, first, end, _ = GANSPACE_PRESETS[domain][name]
        entries.append(Listed(name, PRESET_KINDS["ganspace"], GANSPACE_RANGE, (first, end)))
    entries += [Listed(name, PRESET_KINDS["style"], STYLE_PRESETS[domain][name][2]) for name in runnable["style"]]
    return entries
