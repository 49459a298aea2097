"""`sdic-run directions`, and how useful ranges show in the other commands."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.directions import load_direction

BACKEND = ("--backend", "onnxruntime:threads=1")


def test_directions_are_listed(run: Any, tiny_bundle: Path) -> None:
    code, lines, errors = run("directions", "--bundle", tiny_bundle)
    assert code == 0 and errors == ""
    assert [line.split()[0] for line in lines[2:]] == ["age", "basis", "smile"]
    assert lines[2].split()[1:] == ["direction", "not", "known", "2", "to", "4", "random"]
    assert lines[3].split()[1:] == ["pca", "6", "components", "random"] and lines[4].split()[2:5] == ["-3", "to", "3"]
    code, lines, _ = run("directions", "--bundle", tiny_bundle, "--json", "-")
    entries = json.loads("\n".join(lines))
    assert code == 0 and entries[2] == {
        "name": "smile",
        "kind": "direction",
        "strength_range": [-3.0, 3.0],
        "style_rows": None,
        "components": None,
        "method": "random",
        "licence": "",
    }


def test_presets_are_listed_where_the_bundle_can_run_them(run: Any, make_bundle: Any) -> None:
    code, lines, _ = run("directions", "--bundle", make_bundle("faces", domain="faces"))
    listed = {line.split()[0]: line for line in lines[2:]}
    assert code == 0 and "GANSpace preset" in listed["eyes"] and "-1.5 to 1.5" in listed["eyes"] and "7 to 7" in listed["eyes"]
    assert "black_hair" not in listed  # needs style space


def test_the_embedded_bundle_is_listed_at_once_and_says_so(run: Any) -> None:
    code, lines, errors = run("directions")
    assert code == 0 and "embedded demo bundle" in errors
    low, high = load_direction(DEMO_FOLDER / "directions/smile.safetensors").strength_range  # type: ignore[union-attr, misc]
    assert any(line.startswith("smile") and f" {low:g} to {high:g} " in line for line in lines)


def test_strengths_are_evenly_spaced_and_the_middle_of_two_sides_is_zero() -> None:
    from sdic_runtime.cli.sweep import evenly_spaced

    for end in (5.9, 1.9, 3.3, 0.7, 2.43):
        found = evenly_spaced(-end, end, 7)
        assert (found[0], found[3], found[6]) == (-end, 0, end)
        assert [after - before for before, after in pairwise(found)] == pytest.approx([end / 3] * 6)


def test_a_sweep_takes_the_useful_range(run: Any, photos: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdic_runtime.cli import sweep

    swept: list[list[float]] = []
    inner = sweep.edited_frames
    monkeypatch.setattr(sweep, "edited_frames", lambda *given: swept.append(given[3]) or inner(*given))
    common = ("sweep", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--steps", 3)
    code, _, errors = run(*common, "--edit", "smile:2", "--edit", "age")
    assert code == 0, errors
    assert run(*common, "--edit", "smile", "--to", 1)[0] == 0
    assert swept == [[-1.5, 0.0, 1.5], [-3.0, 0.0, 3.0], [-3.0, -1.0, 1.0]]
    code, lines, errors = run(*common, "--edit", "smile", "--from", -9)
    assert code == 0 and 'warning: the strength -9 of "smile" is beyond its useful range, -3 to 3' in errors and len(lines) == 2


def test_a_strength_that_destroys_the_picture_is_warned_of(run: Any, photos: Path, tiny_bundle: Path) -> None:
    code, lines, errors = run("edit", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--edit", "smile:1000", "--edit", "smile:3")
    assert code == 0 and len(lines) == 2
    assert errors.count("warning: ") == 1 and 'the strength 1000 of "smile" is beyond its useful range, -3 to 3' in errors
