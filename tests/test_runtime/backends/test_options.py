"""What options may be: read from what was written, and checked by the annotations of `load`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.backends.options import check_option, check_threads, device_of, read_option
from sdic_runtime.errors import ArgumentError


def load(
    bundle: Any,
    *,
    count: int | None = None,
    switch: bool = False,
    share: float = 0.5,
    device: str = "cpu",
    weights: str | Path | None = None,
    sizes: list[int] | None = None,
    anything: Any = None,
) -> None:
    """A backend's `load`."""


OPTIONS = inspect.signature(load).parameters


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "3", 3),
        ("count", "null", None),
        ("count", "x", "x"),
        ("switch", "true", True),
        ("share", "0.5", 0.5),
        ("device", "0", "0"),
        ("device", "cuda:1", "cuda:1"),
        ("weights", "123", "123"),
        ("weights", "null", None),
        ("sizes", "[1]", [1]),
        ("anything", "[" * 100_000, "[" * 100_000),
        ("unknown", "7", 7),
    ],
)
def test_what_is_written_becomes_what_the_option_takes(name: str, text: str, value: object) -> None:
    assert read_option(OPTIONS.get(name), text) == value


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("count", "x", "count is 'x'; give a whole number"),
        ("count", True, "count is True; give a whole number"),
        ("count", 1.5, "count is 1.5; give a whole number"),
        ("switch", 7, "switch is 7; use true or false"),
        ("share", "half", "share is 'half'; give a number"),
        ("device", 0, "device is 0; give text"),
        ("weights", 1, "weights is 1; give text"),
    ],
)
def test_values_of_other_kinds_are_one_sentence(name: str, value: object, sentence: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_option(OPTIONS[name], name, value)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 3), ("count", None), ("switch", True), ("share", 1), ("weights", Path("a")), ("sizes", 7), ("anything", []), ("unknown", 1)],
)
def test_values_that_fit_and_options_that_say_nothing(name: str, value: object) -> None:
    check_option(OPTIONS.get(name), name, value)


def test_annotations_need_not_be_text() -> None:
    option = inspect.Parameter("threads", inspect.Parameter.KEYWORD_ONLY, annotation=int | None)
    check_option(option, "threads", 2)
    with pytest.raises(ArgumentError, match="^threads is 'x'; give a whole number$"):
        check_option(option, "threads", "x")


@pytest.mark.parametrize("threads", [0, -1, True, "x", 1.0])
def test_threads_are_at_least_one(threads: object) -> None:
    check_threads(None)
    check_threads(1)
    with pytest.raises(ArgumentError, match="; give a whole number of at least 1, or None for all cores$"):
        check_threads(threads)


def test_devices() -> None:
    assert device_of("cpu", ("cpu", "cuda")) == ("cpu", 0) and device_of("cuda:12", ("cpu", "cuda")) == ("cuda", 12)
    for device in ("mps", "foo", "0", "cuda:", "cuda:x", "cuda:²", "cuda:-1", ""):
        with pytest.raises(ArgumentError, match=f'^the device is "{device}"; use cpu, cuda or cuda:N$'):
            device_of(device, ("cpu", "cuda"))
