"""Picture sets as cached uint8 arrays: procedural portraits drawn once, or a folder of pictures brought to one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdic_runtime.errors import BackendError, FileError, SdicError, printable
from sdic_runtime.files import reason, replacing, sha256
from sdic_runtime.folders import PICTURE_SUFFIXES, files_in
from sdic_runtime.pictures import fit, load_picture, to_bytes
from sdic_runtime.processes import deaf, serve_parent
from sdic_train.portraits.portraits import PARAMETERS, Parameter, sample

CHUNK = 500  # pictures that one process draws at a time
SIDED_KINDS = {"sides", "switch", "rare"}  # of parameters whose values omit the middle
HELD_OUT_SEED = 900_000  # data sets of this seed and above are never trained on


@dataclass(frozen=True, eq=False)
class PictureSet:
    """`pictures` uint8 [N, size, size, 3]. For portraits also the person drawn: `values` in the units of `PARAMETERS`,
    `coordinates` the standard normal numbers that those values were made from; both float32 [N, parameters]."""

    pictures: NDArray[np.uint8]
    values: NDArray[np.float32] | None = None
    coordinates: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.pictures)


def coordinates(seed: int, index: int) -> NDArray[np.float32]:
    """The person `sample(seed, index)` as a vector whose entries have mean 0 and variance 1: every parameter's chance as a normal quantile,
    but a parameter with two sides as its standardised value, so that nobody stands between the sides (half a pair of glasses)."""
    chances = np.random.default_rng([seed, index]).random(len(PARAMETERS))
    return np.asarray([_coordinate(entry, chance) for entry, chance in zip(PARAMETERS, chances, strict=True)], np.float32)


def _coordinate(parameter: Parameter, chance: float) -> float:
    if parameter.kind not in SIDED_KINDS:
        return NormalDist().inv_cdf(min(max(chance, 1e-4), 1 - 1e-4))
    mean, deviation = _moments(parameter)
    return (parameter.value(chance) - mean) / deviation


@cache
def _moments(parameter: Parameter) -> tuple[float, float]:
    """Mean and standard deviation of a parameter's values."""
    values = np.asarray([parameter.value((step + 0.5) / 6000) for step in range(6000)])
    return float(values.mean()), float(values.std())


def _draw(seed: int, indices: Sequence[int], size: int, photo: bool) -> dict[str, Any]:
    """The fields of the `PictureSet` of these indices."""
    pictures, persons = zip(*(sample(seed, index, size, photo=photo) for index in indices), strict=True)
    values = np.stack([person.array() for person in persons])
    return {"pictures": np.stack(pictures), "values": values, "coordinates": np.stack([coordinates(seed, index) for index in indices])}


def draw_portraits(folder: Path, count: int, size: int, photo: bool, seed: int = 0, processes: int = 2) -> Iterator[int]:
    """Draws `count` portraits into `folder`, which `open_portraits` reads; yields the number drawn so far. Finished chunks are kept, but
    one with too few portraits, the last of a smaller `count`, is drawn anew."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = [start for start in range(0, count, CHUNK) if _held(_chunk(folder, start, size, photo, seed)) < min(CHUNK, count - start)]
    drawn = count - sum(min(CHUNK, count - start) for start in starts)
    # Not forked: a copy of a process with threads, such as those of PyTorch, can wait for ever for what only they would do.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), serve_parent)
    try:
        with deaf():
            jobs = {start: pool.submit(_draw, seed, range(start, min(start + CHUNK, count)), size, photo) for start in starts}
        for start, job in jobs.items():
            arrays = job.result()
            with replacing(_chunk(folder, start, size, photo, seed)) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
            drawn += len(arrays["pictures"])
            yield drawn
    except BrokenProcessPool as error:
        raise BackendError("a process that draws died, perhaps because memory runs out; use fewer --processes") from error
    finally:  # after Ctrl-C, what has not begun is not drawn
        pool.shutdown(cancel_futures=True)


def open_portraits(folder: Path, size: int, photo: bool, seed: int = 0, limit: int | None = None) -> PictureSet:
    """Reads what `draw_portraits` left in `folder`, at most `limit` pictures."""
    paths = sorted(folder.glob(_chunk(folder, 0, size, photo, seed).name.replace("_0000000.", "_*.")))
    if not paths:
        kind = "photos" if photo else "portraits"
        there = [str(number) for number in _seeds(folder, size, photo) if (number >= HELD_OUT_SEED) == (seed >= HELD_OUT_SEED)]
        only = f", only with {', '.join(there)}; choose that with --data-seed, or draw them" if there else "; draw them"
        raise FileError(f"{folder} holds no {kind} of {size} pixels with seed {seed}{only} with `sdic-train dataset`")
    parts = []
    for path in paths:
        with np.load(path) as file:
            parts.append([file[entry.name] for entry in fields(PictureSet)])
    return PictureSet(*(np.concatenate(part)[:limit] for part in zip(*parts, strict=True)))


def open_pictures(folder: Path, size: int, photo: bool, seed: int = 0) -> PictureSet:
    """What a data folder holds: a cached folder of pictures if there is one, also of a larger size, else the portraits."""
    held_out = seed >= HELD_OUT_SEED
    path = _cached(folder, size, held_out)
    if not path.exists():
        larger = [number for each in folder.glob(_cached(folder, 0, held_out).name.replace("0", "*")) if (number := _size(each)) > size]
        if not larger:
            return open_portraits(folder, size, photo, seed)
        _reduce(_cached(folder, min(larger), held_out), path, size)
    return PictureSet(np.load(path, mmap_mode="r"))


def _size(path: Path) -> int:
    """pictures_256.npy -> 256; 0 for another name."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _reduce(source: Path, target: Path, size: int) -> None:
    """Write the pictures of a cache at a smaller size, for networks that work at another one than the generator. Raises FileError."""
    pictures = np.load(source, mmap_mode="r")
    with replacing(target) as temporary:
        cache = _Cache(temporary, size, len(pictures))
        for picture in pictures:
            cache.add(_squared(Image.fromarray(picture), size))
        cache.close()


def joined(*sets: PictureSet) -> PictureSet:
    """Several labelled sets as one."""
    return PictureSet(*(np.concatenate([getattr(part, entry.name) for part in sets]) for entry in fields(PictureSet)))


def cache_folder(
    source: Path, folder: Path, size: int, held_out: float = 0.05, dropped: dict[Path, str] | None = None
) -> Iterator[tuple[int, int]]:
    """Brings every picture below `source` to size x size, as the runtime prepares its input, and stores them in `folder`, one after the
    other; yields how many were kept for training and held out so far.

    A picture is held out when the hash of its file falls into the share `held_out`, so that copies stay on one side; with 1 all are. What
    was cached in `folder` before is removed, also at other sizes and on the other side: its pictures may be on another side now.
    Visible files that are no pictures or cannot be read are passed over, and put into `dropped` with the reason; no picture at all is a
    FileError.
    """
    if not source.is_dir():
        raise FileError(f"{source} is not a folder; name a folder of pictures")
    dropped = {} if dropped is None else dropped
    paths = files_in(source.rglob("*"))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as files:
            sides: dict[bool, _Cache] = {}
            for path in paths:
                try:
                    share = int(sha256(path)[:8], 16) / 2**32
                    picture = square(path, size) if path.suffix.lower() in PICTURE_SUFFIXES else None
                except OSError as error:
                    dropped[path] = printable(f"cannot read {path}: {reason(error)}")
                    continue
                except SdicError as error:
                    dropped[path] = str(error)
                    continue
                if picture is None:
                    dropped[path] = f"{path} is no picture by its name"
                    continue
                side = share < held_out
                if side not in sides:
                    sides[side] = _Cache(files.enter_context(replacing(_cached(folder, size, side))), size, len(paths))
                    files.callback(sides[side].close)
                sides[side].add(picture)
                yield tuple(sides[side].count if side in sides else 0 for side in (False, True))  # type: ignore[misc]
            if not sides or (held_out < 1 and False not in sides):
                kind = "pictures for training" if held_out < 1 else "pictures"
                raise FileError(f"{source} holds no {kind} ({', '.join(PICTURE_SUFFIXES)}); name a folder that does")
            for path in caches(folder):
                if path not in [_cached(folder, size, side) for side in sides]:
                    _remove(path)
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def caches(folder: Path) -> list[Path]:
    """The files that `cache_folder` left in a folder, and those of smaller sizes that were made of them."""
    found = [path for side in (False, True) for path in folder.glob(_cached(folder, 0, side).name.replace("0", "*"))]
    return sorted(
        path for path in found if _size(path) and path.name in [_cached(folder, _size(path), side).name for side in (False, True)]
    )


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise FileError(f"cannot remove {path}, whose pictures were cached before ({reason(error)}); remove it") from error


class _Cache:
    """A file of pictures [N, size, size, 3] that numpy reads, written one by one: N is known at the end."""

    def __init__(self, path: Path, size: int, most: int) -> None:
        self.count, self._size, self._file = 0, size, path.open("wb")
        self._length = self._header(most)

    def add(self, picture: NDArray[np.uint8]) -> None:
        self._file.write(picture.tobytes())
        self.count += 1

    def close(self) -> None:
        self._file.seek(0)
        if self._header(self.count) != self._length:  # numpy leaves room for the number to grow
            raise FileError(f"the header of {self._file.name} changed its length; report it")
        self._file.close()

    def _header(self, count: int) -> int:
        shape = (count, self._size, self._size, 3)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return self._file.tell()


def square(path: Path, size: int) -> NDArray[np.uint8]:
    """A picture as the runtime decodes it and brings it to a square: uint8 [size, size, 3]. Raises PictureError."""
    return _squared(load_picture(path), size)


def _squared(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    return to_bytes(fit(picture, {"R": size, "S": size}, (0, size)))[0]


def _cached(folder: Path, size: int, held_out: bool) -> Path:
    return folder / f"{'held_out' if held_out else 'pictures'}_{size}.npy"


def _chunk(folder: Path, start: int, size: int, photo: bool, seed: int) -> Path:
    return folder / f"{'photo' if photo else 'plain'}_{size}_{seed}_{start:07d}.npz"


def _held(path: Path) -> int:
    """The portraits of a chunk; 0 where there is none that can be read."""
    try:
        with np.load(path) as file:
            return len(file["values"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return 0


def _seeds(folder: Path, size: int, photo: bool) -> list[int]:
    """The seeds of the portraits of a kind and size in a folder."""
    words = [path.stem.split("_")[2] for path in folder.glob(f"{'photo' if photo else 'plain'}_{size}_*_*.npz")]
    return sorted({int(word) for word in words if word.isdecimal()})
