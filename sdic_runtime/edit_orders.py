"""Edits as text, the same on every command line: NAME[:STRENGTH], and several at once with commas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import Directions, load_direction
from sdic_runtime.edits import GANSPACE_PRESETS, CombinedEdit, Direction, GanSpaceEdit, Pca, as_edit, check_number, fingerprint
from sdic_runtime.errors import ArgumentError

FORM = "NAME:STRENGTH, such as smile:2, or several with commas"
FILE_SUFFIXES = (".safetensors", ".npy", ".npz")


@dataclass(frozen=True)
class EditOrder:
    """One edited picture to be made: edits by name, each with its strength.

    A name is that of a direction of the bundle, a direction file, a GANSpace preset of the bundle's domain ("eyes"), or a GANSpace
    component as INDEX/START/END/SIGMA ("54/7/8/20"). GANSpace needs a PCA basis: the file `pca`, or else the bundle's only one.
    """

    parts: tuple[tuple[str, float], ...]
    pca: Path | None = None

    @classmethod
    def parse(cls, text: str, pca: Path | None = None) -> EditOrder:
        """Read "smile", which is "smile:1", or "smile:2,age:-1". Raises ArgumentError."""
        parts = []
        for part in text.split(","):
            name, _, strength = part.rpartition(":") if ":" in part else (part, "", "1")
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

    def _found(self, name: str, bundle: Bundle, directions: Directions) -> Direction | Pca | GanSpaceEdit:
        presets = GANSPACE_PRESETS.get(bundle.manifest.domain, {})
        if name not in directions and name.endswith(FILE_SUFFIXES):
            return load_direction(name)
        if name not in directions and (name in presets or "/" in name):
            return GanSpaceEdit(self._basis(directions), *(presets[name] if name in presets else _component(name)))
        return directions[name]  # raises for an unknown name, with the names there are

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


def _short(name: str) -> str:
    """The name, or that of a file without its folders and its ending."""
    return Path(name).stem if name.endswith(FILE_SUFFIXES) else name


def _for_file(words: Iterable[str]) -> str:
    return re.sub(r"[^\w.+-]", "-", "_".join(words))


def _component(text: str) -> tuple[int, int, int, float]:
    try:
        index, start, end, sigma = text.split("/")
        return int(index), int(start), int(end), float(sigma)
    except ValueError:
        raise ArgumentError(f'"{text}" is not a GANSpace component INDEX/START/END/SIGMA, such as 54/7/8/20') from None
