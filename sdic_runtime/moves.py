"""Which form of editing an edit takes, and what the caller may give to it beside the codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from sdic_runtime.bundle.manifest import Manifest
from sdic_runtime.errors import ArgumentError
from sdic_runtime.program import MASK_AXES, STYLE_KIND, STYLES, Move


def move_of(manifest: Manifest, move: str | None, eq6: str | None, kinds: Collection[str]) -> Move:
    """The form of editing called `move` or `eq6`, or the first for edits of `kinds`. Raises ArgumentError."""
    if None not in (move, eq6) and move != eq6:
        raise ArgumentError(f'move is "{move}" and eq6 is "{eq6}"; give one of them')
    label, name = ("eq6", eq6) if move is None else ("move", move)
    styled = {program for program, steps in manifest.programs.items() if STYLES in steps.takes}
    further = set(kinds) - {STYLE_KIND}
    able = {known: form for known, form in manifest.moves.items() if STYLE_KIND not in kinds or form.program in styled}
    fitting = [known for known, form in able.items() if further <= set(form.kinds)]
    if name is not None and name not in list(manifest.moves):
        raise ArgumentError(f'{label} is "{name}"; the bundle "{manifest.name}" has: {", ".join(manifest.moves) or "none"}')
    if not fitting:
        what = f"edits of the kind {next(iter(kinds))}" if len(kinds) == 1 else f"the kinds {' and '.join(sorted(kinds))} in one edit"
        raise ArgumentError(f'the bundle "{manifest.name}" has no move for {what}')
    if name is not None and name not in fitting:
        meant = " and ".join(manifest.moves[name].kinds)
        raise ArgumentError(f'{label} is "{name}", which is for edits of the kind {meant}; for this edit use: {", ".join(fitting)}')
    return manifest.moves[name or fitting[0]]


def extras_of(manifest: Manifest, extras: Mapping[str, np.ndarray], program: str, count: int) -> dict[str, np.ndarray]:
    """The caller's own inputs of an edit of `count` pictures, float32 [count, ...]. Raises ArgumentError."""
    if not isinstance(extras, Mapping):
        raise ArgumentError(f"the extras are {extras!r:.60}; give arrays by their names")
    arrays, known = {}, manifest.programs[program].zeros
    for name, value in extras.items():
        if name not in known:
            raise ArgumentError(f'this edit takes no extra "{name}"; it takes: {", ".join(known) or "none"}')
        shape = manifest.shape(name, count)
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f'the extra "{name}" is {value!r:.60}; expected finite numbers of shape {list(shape)}') from error
        if array.shape not in (shape, (1, *shape[1:])) or not np.isfinite(array).all():
            raise ArgumentError(f'the extra "{name}" has shape {list(array.shape)}; expected finite numbers of shape {list(shape)}')
        arrays[name] = np.broadcast_to(array, shape)
    return arrays


def masks_of(manifest: Manifest) -> list[str]:
    """The extras that are masks. Raises ArgumentError where edits take none."""
    taken = dict.fromkeys(name for move in manifest.moves.values() for name in manifest.programs[move.program].zeros)
    names = [name for name in taken if manifest.tensors[name] == MASK_AXES]
    if not names:
        raise ArgumentError(f'the edits of the bundle "{manifest.name}" ({manifest.method}) take no mask; omit it')
    return names
