"""Edits as options of a command line, turned into one combined edit with a name for files and captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import SdicError

if TYPE_CHECKING:
    from sdic_runtime.pipeline import Pipeline

GANSPACE_FORM = "index,start,end,sigma, such as 54,7,8,20"


@dataclass(frozen=True)
class Chosen:
    """One edit the user asked for, under the name that files and captions show."""

    label: str  # name and signed strength: "smile+2"
    edit: Any
    strength: float


def chosen_edits(
    pipeline: Pipeline,
    directions: Sequence[str],
    files: Sequence[Path],
    ganspace: Sequence[str],
    pca: Path | None,
    strengths: Sequence[float],
) -> list[Chosen]:
    """The edits that the options stand for, checked against the pipeline's model.

    strengths  one for each of `directions` and then `files`, in order; GANSpace edits carry their own in sigma
    Raises SdicError for an unknown direction, a wrong number of strengths, a strength that is not finite, or an edit of another model.
    """
    named = [(name, pipeline.directions[name]) for name in directions] + [direction_of(path) for path in files]
    if not named and not ganspace:
        raise SdicError(
            f"give at least one edit: --direction, --direction-file or --ganspace; the bundle's directions are: {listed(pipeline)}"
        )
    if len(strengths) != len(named):
        raise SdicError(
            f"{len(named)} direction(s) and {len(strengths)} --strength value(s) were given; give one --strength for each direction"
        )
    from sdic_runtime.edits import as_edit, check_number

    pairs = zip(named, strengths, strict=True)
    chosen = [labelled(name, as_edit(edit), check_number(strength, "the strength")) for (name, edit), strength in pairs]
    chosen += [ganspace_edit(pipeline, text, pca) for text in ganspace]
    for choice in chosen:
        choice.edit.check(pipeline.sizes)
    return chosen


def labelled(name: str, edit: Any, strength: float) -> Chosen:
    """An edit under its name and strength."""
    return Chosen(f"{name}{strength:+g}", edit, strength)


def listed(pipeline: Pipeline) -> str:
    """The names of the bundle's directions."""
    return ", ".join(sorted(pipeline.directions)) or "none"


def direction_of(path: Path) -> tuple[str, Any]:
    """The direction in a file, under the file's name."""
    from sdic_runtime.edits import load_direction

    return path.stem, load_direction(path)


def ganspace_edit(pipeline: Pipeline, text: str, pca: Path | None) -> Chosen:
    """The GANSpace edit that "eyes" or "54,7,8,20" stands for, with the basis in the file `pca` or else the bundle's only one."""
    from sdic_runtime.edits import GANSPACE_PRESETS, GanSpaceEdit

    domain = pipeline.bundle.manifest.domain
    presets = GANSPACE_PRESETS.get(domain, {})
    if text in presets:
        index, start, end, sigma = presets[text]
    else:
        index, start, end, sigma = numbers(text, domain, presets)
    basis = pca_of(pipeline, pca)
    label = text if text in presets else f"component{index}{sigma:+g}"
    return Chosen(label, GanSpaceEdit(basis, index, start, end, sigma), 1.0)


def numbers(text: str, domain: str, presets: Any) -> tuple[int, int, int, float]:
    """The four numbers of a GANSpace edit."""
    parts = text.split(",")
    try:
        index, start, end = (int(part) for part in parts[:3])
        (sigma,) = (float(part) for part in parts[3:])
    except ValueError:
        known = f"a preset of {domain} ({', '.join(presets)}) or " if presets else ""
        raise SdicError(f'--ganspace "{text}" is not {known}{GANSPACE_FORM}') from None
    return index, start, end, sigma


def pca_of(pipeline: Pipeline, path: Path | None) -> Any:
    """The PCA basis in the file, or the one basis among the bundle's directions."""
    from sdic_runtime.edits import Pca, load_direction

    if path is not None:
        found = load_direction(path)
        if not isinstance(found, Pca):
            raise SdicError(f"{path} holds a direction, not a PCA basis with mean, comp and std; name the basis with --pca")
        return found
    bases = [load_direction(pipeline.bundle.file(file)) for file in pipeline.bundle.manifest.directions.values()]
    bases = [basis for basis in bases if isinstance(basis, Pca)]
    if len(bases) != 1:
        raise SdicError(f"the bundle holds {len(bases)} PCA bases; name the one for --ganspace with --pca FILE")
    return bases[0]


def combined(chosen: Sequence[Chosen]) -> Any:
    """All the edits as one, to be applied at strength 1."""
    from sdic_runtime.edits import CombinedEdit

    return CombinedEdit([(choice.edit, choice.strength) for choice in chosen])


def file_label(chosen: Sequence[Chosen]) -> str:
    """The labels joined, fit for a file name."""
    return name_for_file("_".join(choice.label for choice in chosen))


def name_for_file(text: str) -> str:
    """The text with everything replaced that does not belong into a file name."""
    return re.sub(r"[^\w.+-]", "-", text)
