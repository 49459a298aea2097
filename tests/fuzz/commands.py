"""The commands that `interruptions` interrupts, at the smallest sizes, and what they work on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_bundle import write_bundle

ONE_THREAD = ("--backend", "onnxruntime:threads=1")


@dataclass
class Inputs:
    """Made once, when first asked for; no command changes them."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def bundle(self) -> Path:
        return write_bundle(self.folder / "tiny")

    @cached_property
    def pictures(self) -> Path:
        folder = self.folder / "pictures"
        folder.mkdir()
        for number in range(16):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{number:02}.png")
        return folder

    @cached_property
    def direction(self) -> Path:
        np.save(self.folder / "smile.npy", np.arange(8.0, dtype=np.float32))
        np.save(self.folder / "beard.npy", np.arange(8.0, dtype=np.float32)[::-1])
        return self.folder

    @cached_property
    def checkpoint(self) -> Path:
        from small_methods import write_small

        return write_small(self.folder / "e4e.pt", "e4e")

    @cached_property
    def clip(self) -> Path:
        from clips import moving, write_clip

        return write_clip(self.folder / "clip.mp4", moving(110, (96, 80), 60, 3), sound=4)

    @cached_property
    def data(self) -> Path:
        from sdic_train.data.datasets import draw_portraits

        folder = self.folder / "data"
        folder.mkdir()
        for _ in draw_portraits(folder, 8, 128, photo=False, seed=0, processes=1):
            pass
        return folder


Words = Callable[[Inputs, Path], list[Any]]


@dataclass(frozen=True)
class Command:
    """`words`: the line, for an output folder. `whole`: what below that folder is replaced in one step. `grows`: files that may be those of
    an earlier moment of an undisturbed run."""

    name: str
    words: Words
    prepare: Callable[[Inputs, Path], object] = lambda inputs, out: None
    whole: tuple[str, ...] = ()
    grows: tuple[str, ...] = ()


def program(kind: str, *words: object) -> list[Any]:
    return [sys.executable, "-m", f"sdic_{kind}.cli.app", *words]


def copy_bundle(inputs: Inputs, out: Path) -> None:
    shutil.copytree(inputs.bundle, out / "b")


def directions(inputs: Inputs, out: Path) -> list[Any]:
    files = [inputs.direction / name for name in ("smile.npy", "beard.npy")]
    return program("export", "directions", "add", out / "b", *files, "--replace")


def train(inputs: Inputs, out: Path) -> list[Any]:
    options = ("--sizes", "tiny", "--steps", 12, "--batch", 2, "--save-minutes", 0, "--device", "cpu", "--threads", 1)
    return program("train", "generator", "--data", inputs.data, "--recipe", "stylegan2", *options, "--out", out)


def dataset(inputs: Inputs, out: Path) -> list[Any]:
    return program("train", "dataset", "--count", 1500, "--size", 32, "--processes", 2, "--out", out)


def pictures(word: str, *options: object) -> Words:
    return lambda inputs, out: program("runtime", word, inputs.pictures, "--bundle", inputs.bundle, *options, "--save", "--out", out)


def build(inputs: Inputs, out: Path) -> list[Any]:
    return program("export", "build", inputs.checkpoint, "--no-parts", "--no-cpu-graphs", "--out", out / "b", "--force")


def video(inputs: Inputs, out: Path) -> list[Any]:
    line = ("--bundle", inputs.bundle, *ONE_THREAD, "--edit", "smile:2")
    return program("runtime", "video", inputs.clip, *line, "--out", out / "smile.mp4")


TRAINED = ("losses.csv", "state.pt")
BATCH = ("--backend", "onnxruntime", "--edit", "smile:2", "--workers")
ALL = (
    Command("invert", pictures("invert", *ONE_THREAD, "--side-by-side")),
    Command("batch", pictures("batch", *BATCH, 2)),
    Command("directions", directions, copy_bundle, ("b",)),
    Command("video", video),
    Command("build", build, whole=("b",)),
    Command("rebuild", build, copy_bundle, ("b",)),
    Command("train", train, grows=TRAINED),
    Command("dataset", dataset),
    Command("ray", pictures("batch", *BATCH, 1, "--executor", "ray")),
)
COMMANDS = {command.name: command for command in ALL}
