"""Edits as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import save_direction
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.edits import Direction
from sdic_runtime.errors import SdicError


@pytest.mark.parametrize(
    ("text", "parts", "label", "name"),
    [
        ("smile", (("smile", 1.0),), "smile+1", "smile"),
        ("smile:2,age:-1.5", (("smile", 2.0), ("age", -1.5)), "smile+2_age-1.5", "smile+2_age-1.5"),
        ("my/dir/mine.safetensors:3", (("my/dir/mine.safetensors", 3.0),), "mine+3", "mine+3"),
        ("54/7/8/-20:0.5", (("54/7/8/-20", 0.5),), "54-7-8--20+0.5", "54-7-8--20+0.5"),
    ],
)
def test_what_is_read_and_how_files_are_called(text: str, parts: tuple[tuple[str, float], ...], label: str, name: str) -> None:
    order = EditOrder.parse(text)
    assert (order.parts, order.label, order.name) == (parts, label, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '--edit is ""; give NAME:STRENGTH'),
        ("smile,", '--edit is "smile,"; give NAME:STRENGTH'),
        (":2", '--edit is ":2"; give NAME:STRENGTH'),
        ("smile:x", "the strength of \"smile\" is 'x'; give a finite number"),
        ("smile:nan", "give a finite number"),
        ("smil:1", 'there is no direction "smil"; .* did you mean "smile"'),
    ],
)
def test_edits_that_are_refused(tiny_bundle: Path, text: str, message: str) -> None:
    with pytest.raises(SdicError, match=message):
        EditOrder.parse(text).edit(Bundle.open(tiny_bundle))


def test_the_fingerprint_follows_the_content_and_not_the_name(
    make_bundle: Callable[..., Path], change: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_bundle()
    before = {text: EditOrder.parse(text).fingerprint(Bundle.open(folder)) for text in ("smile", "smile:2", "age", "2/1/4/3", "2/1/4/4")}
    assert len(set(before.values())) == len(before)
    direction = np.arange(8, dtype=np.float32)
    save_direction(folder / "directions/smile.safetensors", Direction(direction, "smile"))
    save_direction(tmp_path / "mine.safetensors", Direction(direction, "mine"))
    bundle = Bundle.open(change(folder, ["directions/smile.safetensors"]))
    after = EditOrder.parse("smile").fingerprint(bundle)
    assert after != before["smile"] and EditOrder.parse("age").fingerprint(bundle) == before["age"]
    assert EditOrder.parse(f"{tmp_path}/mine.safetensors").fingerprint(bundle) == after
