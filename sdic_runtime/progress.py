"""Progress bars for people: on standard error, only on a terminal, and only for what takes longer than a second."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
DELAY_SECONDS = 1.0  # work that ends sooner shows no bar


def shown() -> bool:
    """Whether standard error is a terminal, the only place where a bar is drawn."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(text: str, error: bool = False) -> None:
    """Print a line on standard output (standard error with `error`) without tearing a bar that is being drawn."""
    stream = sys.stderr if error else sys.stdout
    if stream.isatty():  # a name of a file may hold what moves the cursor, or worse; a pipe gets it as it is
        text = "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
    if shown():
        from tqdm import tqdm

        tqdm.write(text, file=stream)
    else:
        stream.write(f"{text}\n")


def quiet_decoders() -> None:
    """Have Pillow say nothing of damaged metadata, which costs no picture. For programs: it holds for the whole process."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "picture") -> Iterator[Item]:
    """Yield `items` unchanged while a bar counts them. `total` is needed for a percentage when `items` has no length. Closing the iterator
    early (an error, Ctrl-C) removes the bar."""
    if not shown():
        yield from items
        return
    from tqdm import tqdm

    with tqdm(items, desc=description, total=total, unit=unit, file=sys.stderr, delay=DELAY_SECONDS, leave=False) as bar:
        yield from bar


@contextmanager
def byte_progress(description: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """A function that counts bytes on a bar with speed and remaining time. `done`: how many are there already."""
    if not shown():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(
        desc=description,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        delay=DELAY_SECONDS,
        leave=False,
    ) as bar:
        yield bar.update
