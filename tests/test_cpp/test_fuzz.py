"""Mutated files are answered by the C interface with a status and a sentence. `make fuzz` does it under sanitizers."""

from __future__ import annotations

from pathlib import Path

from fuzz import native

CASES = 200


def test_mutated_files_are_answered(release_build: Path, tmp_path: Path) -> None:
    kinds, faults = native.run(native.prepared(release_build / "libsdic.so"), CASES, tmp_path)
    assert not faults
    assert set(kinds) == {"right", "refused"}
