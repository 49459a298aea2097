"""What inversions hold for their edits: what stays as it is whatever the edit, made once, and bounded over all inversions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sdic_runtime.inversion import Held


class Common(NamedTuple):
    """What edits of one inversion have in common, by the pipeline that edits, program and value, and the bytes of it."""

    values: Mapping[tuple[object, str, str], Held] = {}
    bytes: int = 0


class Prepared(NamedTuple):
    """What the program "prepare" gave for an inversion, by name, and the pipeline that made it."""

    maker: object = None
    values: Mapping[str, Held] = {}


@dataclass(eq=False)
class Still:
    """What stays as it is when an inversion is edited: what edits have in `common`, made by the first of them, and which there were, by
    pipeline, program and first style row; and what was `prepared` last. Not saved, pickled or copied. Each is replaced and never changed,
    so that threads may share them."""

    common: Common = field(default_factory=Common)
    asked: frozenset[tuple[object, str, int]] = frozenset()
    prepared: Prepared = field(default_factory=Prepared)


class Stills:
    """What the inversions that were edited last hold: at most `limit` bytes together. May be used from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: tuple[weakref.ref[Still], ...] = ()  # the last one last
        self._lock = threading.Lock()

    def bound(self, last: Still) -> None:
        """Let go what is too much, that of the `last` one last. Other threads go on with what they have of it."""
        with self._lock:
            size, kept = last.common.bytes, [last]
            for still in (still for known in reversed(self._known) if (still := known()) is not None and still is not last):
                if size + still.common.bytes <= self.limit:
                    size += still.common.bytes
                    kept.insert(0, still)
                else:
                    still.common = Common()
            self._known = tuple(map(weakref.ref, kept))
