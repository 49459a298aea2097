"""The figures that the paper prints, beside which ours stand, and which of them are misprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

FILE = Path(__file__).with_suffix(".json")
MARK = "†"
L2_STEP, PSNR_STEP = 0.001, 0.1  # what the last digit of a printed figure stands for


@dataclass(frozen=True)
class Published:
    """One row. `figures`: column -> number. `about`: columns whose number is computed from a rounded one. `misprints`: column -> why."""

    figures: Mapping[str, float]
    about: tuple[str, ...] = ()
    misprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> dict[str, str]:
        """Column -> what is wrong with its figure: the known misprints, and an L2 that its PSNR rules out."""
        found = dict(self.misprints)
        if {"L2", "PSNR"} <= set(self.figures) and contradicts(self.figures["L2"], self.figures["PSNR"]):
            found["L2"] = f"a PSNR of {self.figures['PSNR']:g} dB needs an L2 of {least_l2(self.figures['PSNR']):.4f} or more"
        return found

    def cells(self) -> dict[str, str]:
        """Column -> how its figure is printed."""
        cells = {name: f"{'~' if name in self.about else ''}{value:g}" for name, value in self.figures.items()}
        return cells | {name: f"{cells.get(name, '-')}{MARK}" for name in self.faults}


@dataclass(frozen=True)
class Table:
    """All rows, by method."""

    source: str
    methods: Mapping[str, Published]


def least_l2(psnr: float) -> float:
    """The smallest mean L2 on [-1, 1] of pictures whose mean PSNR on [0, 1] is `psnr` dB: 4 * 10^(-PSNR / 10), by Jensen's inequality."""
    return 4 * 10 ** (-psnr / 10)


def contradicts(l2: float, psnr: float) -> bool:
    """Whether no pictures can have this mean L2 and this mean PSNR, whatever was rounded off."""
    return l2 + L2_STEP / 2 < least_l2(psnr + PSNR_STEP / 2)


def published() -> Table:
    """The paper's figures, as far as they are known here."""
    return msgspec.json.decode(FILE.read_bytes(), type=Table)
