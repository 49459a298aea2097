"""Edits as text, the same on every command line: NAME[:STRENGTH], and several at once with commas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import SUFFIXES, Directions, load_direction
from sdic_runtime.edits import GANSPACE_PRESETS, CombinedEdit, Direction, GanSpaceEdit, Pca, as_edit, check_number, fingerprint
from sdic_runtime.errors import ArgumentError
from sdic_runtime.styles import STYLE_PRESETS, StyleDirection

FORM = "NAME:STRENGTH, such as smile:2, or several with commas"
COMPONENT_FORM = "choose a component: INDEX/START/END/SIGMA, such as 0/0/4/2, moves the style rows START to END - 1"


@dataclass(frozen=True)
class EditOrder:
    """One edited picture to be made: edits by name, each with its strength.

    A name is that of a direction of the bundle, a direction file, a preset of the bundle's domain (GANSpace's "eyes", StyleSpace's
    "black_hair"), a GANSpace component as INDEX/START/END/SIGMA ("54/7/8/20"), or a channel in style space as LAYER/CHANNEL ("9/6").
    GANSpace needs a PCA basis: the file `pca`, or else the bundle's only one.
    """

    parts: tuple[tuple[str, float], ...]
    pca: Path | None = None

    @classmethod
    def parse(cls, text: str, pca: Path | None = None) -> EditOrder:
        """Read "smile", which is "smile:1", or "smile:2,age:-1". Raises ArgumentError."""
        parts = []
        for part in text.split(","):
            name, _, strength = part.rpartition(":") if ":" in part and not _is_file(part.rpartition(":")[2]) else (part, "", "1")
            if not name:
                raise ArgumentError(f'--edit is "{text}"; give {FORM}')
            parts.append((name, check_number(strength, f'the strength of "{name}"')))
        return cls(tuple(parts), pca)

    @property
    def label(self) -> str:
        """Names and strengths, fit for the name of a file: "smile+2_age-1"."""
        return _for_file(f"{_short(name)}{strength:+g}" for name, strength in self.parts)

    @property
    def name(self) -> str:
        """The same without strengths of 1, for what shows many strengths."""
        return _for_file(_short(name) + (f"{strength:+g}" if strength != 1 else "") for name, strength in self.parts)

    def edit(self, bundle: Bundle, directions: Directions | None = None) -> CombinedEdit:
        """The edit, checked against the bundle's model; to be applied at strength 1. Raises ArgumentError or FileError."""
        known = directions if directions is not None else Directions(bundle)
        edit = CombinedEdit([(as_edit(self._found(name, bundle, known)), strength) for name, strength in self.parts])
        edit.check(bundle.manifest.sizes)
        return edit

    def fingerprint(self, bundle: Bundle) -> str:
        """See `edits.fingerprint`."""
        return fingerprint(self.edit(bundle), bundle.manifest.sizes)

    def strength_range(self, bundle: Bundle, directions: Directions | None = None) -> tuple[float, float] | None:
        """The useful range of a factor on all strengths: no part leaves its own. None where no part has one."""
        first, last = -math.inf, math.inf
        for useful, strength, _ in self._ranges(bundle, directions):
            if strength:
                low, high = sorted(end / strength for end in useful)
                first, last = max(first, low), min(last, high)
        return (first, last) if -math.inf < first < last < math.inf else None

    def excesses(self, bundle: Bundle, directions: Directions | None = None, factors: Sequence[float] = (1.0,)) -> list[str]:
        """A sentence for every part whose strength, times the largest of `factors`, is beyond its useful range."""
        found = []
        for (low, high), strength, name in self._ranges(bundle, directions) if factors else ():
            worst = max((strength * factor for factor in factors), key=lambda value: max(value - high, low - value))
            if not low <= worst <= high:
                found.append(
                    f'the strength {worst:g} of "{name}" is beyond its useful range, {low:g} to {high:g}: expect a damaged picture'
                )
        return found

    def _ranges(self, bundle: Bundle, directions: Directions | None) -> Iterator[tuple[tuple[float, float], float, str]]:
        known = directions if directions is not None else Directions(bundle)
        for name, strength in self.parts:
            useful = getattr(self._found(name, bundle, known), "strength_range", None)
            if useful is not None:
                yield useful, strength, name

    def _found(self, name: str, bundle: Bundle, directions: Directions) -> Direction | GanSpaceEdit | StyleDirection:
        domain, layers = bundle.manifest.domain, bundle.manifest.style_layers
        if name in directions or _is_file(name):
            found = directions[name] if name in directions else load_direction(name, bundle.manifest.sizes)
            if isinstance(found, Pca):
                raise ArgumentError(f'"{name}" is a PCA basis of {len(found.std)} components, and no edit by itself; {COMPONENT_FORM}')
            return found
        if name in GANSPACE_PRESETS.get(domain, {}):
            return GanSpaceEdit(self._basis(directions), *GANSPACE_PRESETS[domain][name])
        if name in STYLE_PRESETS.get(domain, {}):
            return StyleDirection.preset(layers, domain, name)
        numbers = name.split("/")
        if len(numbers) > 1 and any(number.isdecimal() for number in numbers):
            if len(numbers) == 2:
                return StyleDirection.of_channels(layers, [(*_channel(name), 1.0)], name)
            component = _component(name)
            return GanSpaceEdit(self._basis(directions), *component)
        raise ArgumentError(_unknown(name, bundle))

    def _basis(self, directions: Directions) -> Pca:
        """The PCA basis in the file, or the one basis among the bundle's directions."""
        if self.pca is not None:
            found = load_direction(self.pca)
            if not isinstance(found, Pca):
                raise ArgumentError(f"{self.pca} holds a direction, not a PCA basis with mean, comp and std; name the basis with --pca")
            return found
        bases = [found for found in directions.values() if isinstance(found, Pca)]
        if len(bases) != 1:
            raise ArgumentError(f"the bundle holds {len(bases)} PCA bases; name the one for a GANSpace edit with --pca FILE")
        return bases[0]


def parsed(texts: Iterable[str], pca: Path | None = None, called: str = "label") -> list[EditOrder]:
    """What texts ask for, each once. Raises ArgumentError, also where two have the same `called`, label or name: one's file would replace
    the other's."""
    orders: dict[str, tuple[EditOrder, str]] = {}
    for text in texts:
        order = EditOrder.parse(text, pca)
        name = getattr(order, called)
        first, words = orders.setdefault(name, (order, text))
        if first != order:
            raise ArgumentError(f'the edits "{words}" and "{text}" would both be called "{name}"; omit one of them, or rename its file')
    return [order for order, _ in orders.values()]


def presets(bundle: Bundle) -> dict[str, list[str]]:
    """The presets of the bundle's domain that it can run, by kind: GANSpace with a basis, StyleSpace with style space."""
    manifest = bundle.manifest
    bases = any(isinstance(found, Pca) for found in Directions(bundle).values())
    ganspace = list(GANSPACE_PRESETS.get(manifest.domain, {})) if bases else []
    return {"ganspace": ganspace, "style": list(STYLE_PRESETS.get(manifest.domain, {})) if manifest.style_layers else []}


def _unknown(name: str, bundle: Bundle) -> str:
    """What there is, for a name that there is not."""
    manifest = bundle.manifest
    other = [domain for table in (GANSPACE_PRESETS, STYLE_PRESETS) for domain, names in table.items() if name in names]
    if other:
        why = f'"{name}" is a preset for models of "{other[0]}", and the bundle "{manifest.name}" is of "{manifest.domain}"'
        return f"{why}; its directions are: {', '.join(sorted(manifest.directions)) or 'none'}"
    further = [preset for names in presets(bundle).values() for preset in names]
    close = get_close_matches(name, [*manifest.directions, *further], 1)
    known = ", ".join(sorted(manifest.directions)) or "none"
    known += f", and the presets {', '.join(further)}" if further else ""
    return f'there is no direction "{name}"; the bundle "{manifest.name}" has: {known}' + (f'; did you mean "{close[0]}"?' if close else "")


def _short(name: str) -> str:
    """The name, or that of a file without its folders and its ending."""
    return Path(name).stem if _is_file(name) else name


def _is_file(name: str) -> bool:
    """Whether an edit's name is that of a direction file."""
    return name.lower().endswith(SUFFIXES)


def _for_file(words: Iterable[str]) -> str:
    return re.sub(r"[^\w.+-]", "-", "_".join(words))


def _channel(text: str) -> tuple[int, int]:
    try:
        layer, channel = map(int, text.split("/"))
        return layer, channel
    except ValueError:
        raise ArgumentError(f'"{text}" is no channel in style space LAYER/CHANNEL, such as 9/6') from None


def _component(text: str) -> tuple[int, int, int, float]:
    try:
        index, start, end, sigma = text.split("/")
        return int(index), int(start), int(end), float(sigma)
    except ValueError:
        raise ArgumentError(f'"{text}" is not a GANSpace component INDEX/START/END/SIGMA, such as 54/7/8/20') from None
