"""Edits as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import save_direction
from sdic_runtime.edit_orders import EditOrder, parsed
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError, SdicError


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
        ("my/dir/mine:2", 'there is no direction "my/dir/mine"; the bundle "tiny" has: '),  # a file without its ending
        ("1/2/3:2", '"1/2/3" is not a GANSpace component INDEX/START/END/SIGMA'),
    ],
)
def test_edits_that_are_refused(tiny_bundle: Path, text: str, message: str) -> None:
    with pytest.raises(SdicError, match=message):
        EditOrder.parse(text).edit(Bundle.open(tiny_bundle))


@pytest.mark.parametrize(
    ("text", "useful"),
    [
        ("smile", (-3, 3)),
        ("smile:2", (-1.5, 1.5)),
        ("smile:-2", (-1.5, 1.5)),
        ("smile:2,2/1/4/3:0.5", (-1.5, 1.5)),
        ("smile:0.5,2/1/4/3", (-1.5, 1.5)),
        ("age", None),
        ("smile:0", None),
    ],
)
def test_a_sweep_goes_as_far_as_every_part_is_useful(tiny_bundle: Path, text: str, useful: tuple[float, float] | None) -> None:
    assert EditOrder.parse(text).strength_range(Bundle.open(tiny_bundle)) == useful


def test_strengths_beyond_the_useful_range_are_told(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert EditOrder.parse("smile:3,age:1000").excesses(bundle) == []  # age does not say its range
    told = EditOrder.parse("smile:-1000,2/1/4/3:2").excesses(bundle)
    assert told == [
        'the strength -1000 of "smile" is beyond its useful range, -3 to 3: expect a damaged picture',
        'the strength 2 of "2/1/4/3" is beyond its useful range, -1.5 to 1.5: expect a damaged picture',
    ]
    assert EditOrder.parse("smile:2").excesses(bundle, factors=(-1, 2))[0].startswith('the strength 4 of "smile"')


def test_what_is_no_edit_is_answered_with_what_there_is(tiny_bundle: Path) -> None:
    for text, sentence in {
        "basis": '"basis" is a PCA basis of 6 components, and no edit by itself; choose a component: INDEX/START/END/SIGMA',
        "eyes": '"eyes" is a preset for models of "faces", and the bundle "tiny" is of "test"; its directions are: age, basis, smile',
        "smille": 'there is no direction "smille"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?',
    }.items():
        with pytest.raises(SdicError, match=re.escape(sentence)):
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


def test_edits_that_would_be_called_alike_are_refused() -> None:
    assert [order.label for order in parsed(["smile:2", "smile:2.0", "smile", "age"])] == ["smile+2", "smile+1", "age+1"]
    for first, second, called, name in (
        ("smile:2", "smile.safetensors:2", "label", "smile+2"),
        ("x/smile.pt:2", "y/smile.pt:2", "label", "smile+2"),
        ("smile:1", "smile:1.0000001", "label", "smile+1"),
        ("smile", "smile.npy", "name", "smile"),
    ):
        with pytest.raises(ArgumentError) as caught:
            parsed([first, second], None, called)
        sentence = f'the edits "{first}" and "{second}" would both be called "{name}"; omit one of them, or rename its file'
        assert str(caught.value) == sentence


def test_names_of_files_may_have_a_drive_and_capitals(tmp_path: Path, tiny_bundle: Path) -> None:
    assert EditOrder.parse(r"C:\d\smile.pt").parts == ((r"C:\d\smile.pt", 1.0),)
    assert EditOrder.parse(r"C:\d\smile.pt:-2").parts == ((r"C:\d\smile.pt", -2.0),)
    bundle = Bundle.open(tiny_bundle)
    save_direction(tmp_path / "made.safetensors", Direction(np.ones(bundle.manifest.sizes["C"]), "made"))
    upper = (tmp_path / "made.safetensors").rename(tmp_path / "MADE.SAFETENSORS")
    assert EditOrder.parse(f"{upper}:2").label == "MADE+2"
    assert EditOrder.parse(f"{upper}:2").edit(bundle)
    with pytest.raises(SdicError, match='there is no direction "./smile"'):
        EditOrder.parse("./smile").edit(bundle)
