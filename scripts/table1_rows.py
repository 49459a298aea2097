"""The rows of Table 1: what the runs of `train_table1.py` are called, their means over seeds, and the tables as text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

LABELS = {  # method -> row, in the order of the table
    "e4e": "e4e", "psp": "pSp", "restyle-psp": "ReStyle (pSp)", "restyle-e4e": "ReStyle (e4e)", "hyperstyle": "HyperStyle", "hfgi": "HFGI",
    "fs": "FS", "clcae": "CLCAE", "sfe": "StyleFeatureEditor", "sdic": "SDIC",
}  # fmt: skip
ABLATIONS = {"sdic-without-context": "SDIC without context", "sdic-affine": "SDIC with affine fusion"}
WHOLE = LABELS["sdic"]  # what the ablations are compared with
PLACES = {"PSNR": 2, "L2": 4}  # digits behind the point, of the columns that do not have three
Row = Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """The runs of one method; `runs`: row -> run, one for each seed."""

    label: str
    runs: Mapping[str, str]
    ablation: bool = False

    def among(self, rows: Mapping[str, Row]) -> list[Row]:
        return [rows[label] for label in self.runs]

    def having(self, rows: Mapping[str, Row]) -> Group:
        """Without the runs that have no row."""
        return replace(self, runs={label: run for label, run in self.runs.items() if label in rows})


def parsed(run: str) -> tuple[str, int]:
    """The method and the seed of a run: sdic-1 is seed 1 of sdic, sdic is seed 0."""
    method, _, seed = run.rpartition("-")
    return (method, int(seed)) if method and seed.isdigit() else (run, 0)


def grouped(runs: Iterable[str]) -> list[Group]:
    """Runs by their methods: first those of `LABELS`, then others, then the ablations."""
    seeds: dict[str, dict[int, str]] = {}
    for run in runs:
        method, seed = parsed(run)
        seeds.setdefault(method, {})[seed] = run
    order = [*LABELS, *(method for method in seeds if method not in ABLATIONS), *ABLATIONS]
    return [group_of(method, seeds[method]) for method in dict.fromkeys(order) if method in seeds]


def group_of(method: str, seeds: Mapping[int, str]) -> Group:
    """A single run of a method has the method's label, others say their seeds."""
    label = {**LABELS, **ABLATIONS}.get(method, method)
    alone = len(seeds) == 1 and method not in ABLATIONS
    return Group(label, {label if alone else f"{label}, seed {seed}": seeds[seed] for seed in sorted(seeds)}, method in ABLATIONS)


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Column -> mean."""
    return {column: statistics.fmean(row[column] for row in rows) for column in rows[0]}


def shown(column: str, value: float) -> str:
    return f"{value:.{PLACES.get(column, 3)}f}"


def spread(rows: Sequence[Row]) -> dict[str, str]:
    """Column -> its least and its greatest value."""
    values = {column: [row[column] for row in rows] for column in rows[0]}
    return {column: f"{shown(column, min(found))} to {shown(column, max(found))}" for column, found in values.items()}


def over_seeds(groups: Sequence[Group], rows: Mapping[str, Row]) -> dict[str, dict[str, str]]:
    """For every group the rows of its seeds, and of their mean and spread where there are several."""
    found = dict[str, dict[str, str]]()
    for group in groups:
        found |= {label: cells(rows[label]) for label in group.runs}
        if len(group.runs) > 1:
            every = group.among(rows)
            found |= {f"{group.label}, mean": cells(means(every)), f"{group.label}, least to most": spread(every)}
    return found


def cells(row: Row) -> dict[str, str]:
    return {column: shown(column, value) for column, value in row.items()}


def text(groups: Sequence[Group], rows: Mapping[str, Row], more: Mapping[str, Row]) -> str:
    """The tables as Markdown. `rows`: those of all runs in `groups`; `more`: further rows of the first table."""
    main, ablations = [each for each in groups if not each.ablation], [each for each in groups if each.ablation]
    several = [each for each in main if len(each.runs) > 1]
    parts = [markdown({label: cells(row) for label, row in {**{each.label: means(each.among(rows)) for each in main}, **more}.items()})]
    if several:
        counts = " and ".join(f"{each.label} ({len(each.runs)})" for each in several)
        parts += [f"The rows of methods with several seeds are means over them: {counts}. The seeds:", markdown(over_seeds(several, rows))]
    if ablations:
        whole = [each for each in main if each.label == WHOLE]
        parts += ["The ablations:", markdown(over_seeds([*whole, *ablations], rows))]
    return "\n\n".join(parts)


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    from sdic_train.evaluation import evaluate

    return evaluate.markdown(rows, "method", evaluate.ORDER)
