"""The paper's Table 1 for any models and bundles, and a table of edits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.edits import Direction
from sdic_train.data.pairs import drawn_pairs
from sdic_train.evaluation.fid import frechet_distance
from sdic_train.evaluation.measures import Judges
from sdic_train.evaluation.models import Inverter
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.portraits.portraits import ATTRIBUTES, PARAMETERS, Parameter

SECONDS = "seconds"
HEADINGS = {SECONDS: "Time (s)", "edit seconds": "edit (s)"}
# The columns of the paper's table, and behind them those that it does not have.
ORDER = ("ID", "SSIM", "PSNR", "LPIPS", "L2", SECONDS, "MS-SSIM", "FID", "moved", "others", "identity", "edit seconds")
Rows = Mapping[str, Mapping[str, float | str]]
Pictures = NDArray[np.uint8]  # [N, H, W, 3]


@dataclass(frozen=True)
class Timing:
    """How times are measured: `runs` calls with one picture each, in turn from the set, behind `warm_up` calls that are not counted."""

    runs: int = 10
    warm_up: int = 2

    def median(self, call: Callable[[int], object]) -> float:
        """The middle of the wall-clock seconds of call(number of the call), the first that counts being call(0)."""
        seconds = []
        for number in range(-self.warm_up, self.runs):
            start = time.perf_counter()
            call(number)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[self.warm_up :])


def inversion_row(inverter: Inverter, pictures: Pictures, judges: Judges, timing: Timing, batch: int = 8) -> dict[str, float]:
    """Column -> mean over the pictures: those of `Judges.distances`; FID between the inversions and the pictures; and the median seconds of
    inverting one picture, encoder included, to pixels on the host."""
    parts, seen = list[dict[str, Tensor]](), list[tuple[NDArray[np.float64], NDArray[np.float64]]]()
    for part in batches(pictures, batch):
        picture, target = inverter.picture(inverter.invert(inverter.image(part))), inverter.target(part)
        parts.append(judges.distances(picture, target))
        if judges.features is not None:
            seen.append((judges.features(picture), judges.features(target)))
    row = {column: float(torch.cat([part[column].cpu() for part in parts]).mean()) for column in parts[0]}
    if seen and len(pictures) > 1:
        ours, theirs = zip(*seen, strict=True)
        row["FID"] = frechet_distance(np.concatenate(ours), np.concatenate(theirs))
    singles = [inverter.image(pictures[index : index + 1]) for index in range(min(len(pictures), timing.runs))]
    return {**row, SECONDS: timing.median(lambda number: inverter.invert(singles[number % len(singles)]))}


def edit_rows(
    inverter: Inverter,
    pictures: Pictures,
    directions: Mapping[str, Direction],
    strengths: Mapping[str, float],
    reader: PortraitReader,
    timing: Timing,
    batch: int = 8,
) -> dict[str, dict[str, float]]:
    """Attribute -> what its edit does to portraits that lack it, or have it (then the strength is negative).

    `moved`     the change of the attribute as a share of the distance between its two sides' means
    `others`    the mean absolute change of the other attributes, on the same scale
    `identity`  cosine similarity with the unedited inversion, apart from the attribute itself: who dyes their hair stays the same person
    `seconds`   the median of one edit of one stored inversion, to pixels on the host
    """
    names = [name for name in directions if name in ATTRIBUTES]
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in names}
    for part in batches(pictures, batch):
        inverted = inverter.invert(inverter.image(part))
        with torch.no_grad():
            before = inverter.picture(inverted)
            for name in names:
                rising = lacks(reader, name, before)
                ways = {up: inverter.shown(inverter.edit(inverted, directions[name], up * strengths[name])) for up in signs(rising)}
                after = torch.where(rising[:, None, None, None], ways.get(1, before), ways.get(-1, before))
                parts[name].append(changes(reader, name, before, after, rising))
    means = {name: mean_changes(found) for name, found in parts.items()}
    one = inverter.invert(inverter.image(pictures[:1]))

    def seconds(name: str) -> float:
        return timing.median(lambda _: inverter.edit(one, directions[name], strengths[name]))

    return {name: {"strength": strengths[name], **means[name], SECONDS: seconds(name)} for name in names}


def drawn_rows(reader: PortraitReader, names: Sequence[str], seed: int, count: int, size: int) -> dict[str, dict[str, float]]:
    """Attribute -> what `edit_rows` measures where the edit is perfect: the photos of a data set, drawn once more with the person on the
    other side. No edit should be asked for more than that."""
    rows = {}
    with torch.no_grad():
        for name in names:
            pairs = drawn_pairs(name, count, size, seed)
            rows[name] = mean_changes([changes(reader, name, *pair[:2], torch.tensor([pair.amount > 0])) for pair in pairs])
    return rows


def lacks(reader: PortraitReader, name: str, picture: Tensor) -> Tensor:
    """Which portraits are on an attribute's lower side; [N]."""
    place, entry = _attribute(name)
    return reader(picture)[:, place] <= (entry.threshold or 0.0)


def changes(reader: PortraitReader, name: str, before: Tensor, after: Tensor, rising: Tensor) -> dict[str, Tensor]:
    """`moved`, `others` and `identity` of `edit_rows` of each picture; [N]."""
    columns = [_attribute(each)[0] for each in ATTRIBUTES]
    spans = torch.tensor([_attribute(each)[1].span for each in ATTRIBUTES])
    own = ATTRIBUTES.index(name)
    change = (reader(after) - reader(before))[:, columns] / spans
    return {
        "moved": torch.where(rising, change[:, own], -change[:, own]),
        "others": torch.cat([change[:, :own], change[:, own + 1 :]], 1).abs().mean(1),
        "identity": (reader.identity(before, name) * reader.identity(after, name)).sum(1),
    }


def mean_changes(found: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """The means over all pictures."""
    return {measure: float(torch.cat([each[measure] for each in found]).mean()) for measure in found[0]}


def _attribute(name: str) -> tuple[int, Parameter]:
    """The place of an attribute among the parameters, and what it is."""
    return next((place, entry) for place, entry in enumerate(PARAMETERS) if entry.name == name)


def signs(rising: Tensor) -> list[int]:
    """The signs of the edits that a batch needs: 1 for those that rise, -1 for others."""
    return [sign for sign, wanted in ((1, rising), (-1, ~rising)) if bool(wanted.any())]


def mean_edit(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The columns that edits add to the table of inversions: the means over the attributes."""
    columns = ("moved", "others", "identity", SECONDS)
    means = {column: statistics.fmean(row[column] for row in rows.values()) for column in columns} if rows else {}
    return {f"edit {column}" if column == SECONDS else column: value for column, value in means.items()}


def batches(pictures: Pictures, size: int) -> Iterator[Pictures]:
    """`size` pictures at a time."""
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def markdown(rows: Rows, first: str, order: Sequence[str] = ()) -> str:
    """A Markdown table with one row per entry: the columns that rows have, those of `order` first; "-" where a row lacks one."""
    there = dict.fromkeys(column for row in rows.values() for column in row)
    columns = [*(column for column in order if column in there), *(column for column in there if column not in order)]
    lines = [f"| {first} | {' | '.join(HEADINGS.get(column, column) for column in columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    lines += [f"| {name} | {' | '.join(_cell(values.get(column)) for column in columns)} |" for name, values in rows.items()]
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else "-" if value is None else f"{value:.4g}"


def default_strengths(directions: Mapping[str, Direction]) -> dict[str, float]:
    """The upper end of each useful range: the distance between an attribute's two sides."""
    return {name: (direction.strength_range[1] if direction.strength_range else 3.0) for name, direction in directions.items()}


def only_directions(edits: Mapping[str, object], names: Sequence[str] | None = None) -> dict[str, Direction]:
    """The constant directions among `edits`, all or those in `names`."""
    return {name: edit for name, edit in edits.items() if isinstance(edit, Direction) and (names is None or name in names)}
