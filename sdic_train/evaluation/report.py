"""All rows of one evaluation, as Markdown and as JSON; models that fail have a sentence instead of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdic_train.evaluation.evaluate import ORDER, Timing, markdown, mean_edit
from sdic_train.evaluation.models import NAMES
from sdic_train.evaluation.published import Table


@dataclass
class Report:
    """`inversion`, `edits`, `methods`, `where`: by label, what was measured, the method's name, and what computed it. `tuned`: of labels
    whose generator was tuned, to how many "pictures", in how many "steps" on average, and the method of the "pivot". `failed`: label ->
    why."""

    pictures: int
    width: int
    timing: Timing
    inversion: dict[str, dict[str, float]] = field(default_factory=dict)
    edits: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    published: Table | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = {"pictures": self.pictures, "width": self.width, "runs": self.timing.runs, "warm_up": self.timing.warm_up}
        models = {
            label: {"method": self.methods[label], "where": self.where[label], **self.tuned.get(label, {})} for label in self.inversion
        }
        tables = {"inversion": self.inversion, "edits": self.edits} if self.edits else {"inversion": self.inversion}
        further: dict[str, Any] = {"failed": self.failed} if self.failed else {}
        if self.published is not None:
            rows = {method: {"figures": dict(row.figures), "misprints": row.faults} for method, row in self.published.methods.items()}
            further["published"] = {"source": self.published.source, "methods": rows}
        return {**measured, "models": models, **tables, **further}

    def markdown(self) -> str:
        """The table of inversions, how it was measured, and the table of edits."""
        rows: dict[str, dict[str, float | str]] = {}
        notes = [f"{self.pictures} pictures, judged at {self.width} pixels. {self._timed()}"]
        printed = dict(self.published.methods) if self.published else {}
        for label, row in self.inversion.items():
            rows[label] = {**row, **mean_edit(self.edits.get(label, {}))}
            method = label.lower() if label.lower() in printed else self.methods[label]
            if (theirs := printed.pop(method, None)) is not None:
                rows[f"{label}, the paper"] = dict(theirs.cells())
        rows |= {f"{_name(method)}, the paper": dict(theirs.cells()) for method, theirs in printed.items()}
        notes += [self._tuned(label) for label in self.tuned]
        notes += [f"{label} failed: {why}." for label, why in self.failed.items()]
        text = [markdown(rows, "method", ORDER), *notes, *self._misprints()] if rows else notes
        if self.edits:
            each = ((label, name, row) for label, rows_of in self.edits.items() for name, row in rows_of.items())
            edits = {f"{label}: {name}" if len(self.edits) > 1 else name: row for label, name, row in each}
            text.append(markdown(edits, "edit"))
        return "\n\n".join(text)

    def _timed(self) -> str:
        ran = "; ".join(dict.fromkeys(self.where.values()))
        return f"Times are of one picture: the median of {self.timing.runs} calls after {self.timing.warm_up} that are not counted ({ran})."

    def _tuned(self, label: str) -> str:
        about = self.tuned[label]
        how = f"the generator was tuned to each of the first {about['pictures']} pictures from {about['pivot']}'s code"
        time = "Its time is that of encoding and tuning, the median over these pictures"
        return f"{label}: {how}, {about['steps']:.0f} steps on average. {time}."

    def _misprints(self) -> list[str]:
        if self.published is None:
            return []
        faults = ((method, column, why) for method, row in self.published.methods.items() for column, why in row.faults.items())
        found = [f"{_name(method)}'s {column}: {why}" for method, column, why in faults]
        return [f"The paper: {self.published.source}." + (f" † is a misprint. {'. '.join(found)}." if found else "")]


def _name(method: str) -> str:
    return NAMES.get(method, method)
