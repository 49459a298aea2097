"""Networks that judge how alike two pictures are, offered by other packages: what the runtime needs no network for is in `scores`.

A package offers one through the entry point group `sdic.judges`: "identity" and "perceptual" are those of `sdic-run compare`. An entry is
a function from the weights' file (or files, with commas between) to a judge.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sdic_runtime.errors import MissingExtraError

GROUP = "sdic.judges"
Judge: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pictures, targets [N, 3, H, W] in [-1, 1] -> a number for each, [N]
COLUMNS = {"identity": "ID", "perceptual": "LPIPS"}  # option -> column: cosine similarity (1 is the same), distance (0 is the same)


def load_judge(name: str, weights: Path) -> Judge:
    """The judge called `name` with these weights. Raises SdicError for weights that it does not know, MissingExtraError without its
    package."""
    missing = MissingExtraError("torch", "train", f"--{name}")
    found = next((entry for entry in entry_points(group=GROUP) if entry.name == name), None)
    if found is None:
        raise missing
    try:
        load: Callable[[Path], Judge] = found.load()
        return load(weights)
    except ImportError as error:
        raise missing from error
