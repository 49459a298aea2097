"""Cached pictures: drawn portraits and folders."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.errors import FileError, SdicError
from sdic_runtime.pictures import prepare
from sdic_train.data import datasets
from sdic_train.data.datasets import cache_folder, coordinates, draw_portraits, joined, open_pictures, open_portraits
from sdic_train.portraits.portraits import PARAMETERS, sample


def _draw(folder: Path, count: int, photo: bool = False, seed: int = 0) -> list[int]:
    return list(draw_portraits(folder, count, 32, photo, seed, processes=1))


def test_drawn_portraits_are_those_of_sample_with_their_labels(tmp_path: Path) -> None:
    assert _draw(tmp_path, 5, photo=True, seed=3) == [5]
    found = open_portraits(tmp_path, 32, photo=True, seed=3)
    for index in range(5):
        picture, person = sample(3, index, 32, photo=True)
        assert np.array_equal(found.pictures[index], picture)
        assert np.array_equal(found.values[index], person.array())
        assert np.array_equal(found.coordinates[index], coordinates(3, index))


def test_what_is_drawn_is_kept(tmp_path: Path) -> None:
    _draw(tmp_path, 3)
    path = next(tmp_path.iterdir())
    before = path.stat().st_mtime_ns
    assert _draw(tmp_path, 3) == []
    assert path.stat().st_mtime_ns == before


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in the place of processes, which take seconds to start."""
    monkeypatch.setattr(datasets, "ProcessPoolExecutor", lambda processes, *context: ThreadPoolExecutor(1))


@pytest.mark.usefixtures("threads")
def test_a_chunk_that_is_too_short_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK", 4)
    _draw(tmp_path, 2)
    assert _draw(tmp_path, 6) == [4, 6] and len(open_portraits(tmp_path, 32, False)) == 6
    assert _draw(tmp_path, 3) == [] and len(open_portraits(tmp_path, 32, False)) == 6
    assert _draw(tmp_path, 7) == [7] and len(open_portraits(tmp_path, 32, False)) == 7
    sorted(tmp_path.iterdir())[0].write_bytes(b"PK\3\4 and nothing more")
    assert _draw(tmp_path, 7) == [7] and len(open_portraits(tmp_path, 32, False)) == 7


@pytest.mark.usefixtures("threads")
def test_a_stop_does_not_wait_for_what_has_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, slow = [], datasets._draw

    def draw(seed: int, indices: range, size: int, photo: bool) -> dict[str, Any]:
        begun.append(indices)
        return slow(seed, indices[:1], size, photo)

    monkeypatch.setattr(datasets, "_draw", draw)
    drawing = draw_portraits(tmp_path, 1000 * datasets.CHUNK, 32, photo=False)
    next(drawing)
    drawing.close()  # type: ignore[attr-defined]
    assert len(begun) < 900


def test_drawing_does_not_copy_a_process_that_has_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[Any] = []

    def pool(processes: int, context: Any, *initializer: Any) -> ThreadPoolExecutor:
        pools.append(context)
        return ThreadPoolExecutor(processes)

    monkeypatch.setattr(datasets, "ProcessPoolExecutor", pool)
    _draw(tmp_path, 2)
    assert [context.get_start_method() for context in pools] == ["spawn"]


def test_a_process_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(ThreadPoolExecutor):
        def __init__(self, processes: int, *context: Any) -> None:
            super().__init__(processes)

        def submit(self, *call: Any) -> Any:
            future = Future[None]()
            future.set_exception(BrokenProcessPool("a process ended abruptly"))
            return future

    monkeypatch.setattr(datasets, "ProcessPoolExecutor", Dying)
    with pytest.raises(SdicError, match=r"^a process that draws died, perhaps because memory runs out; use fewer --processes$"):
        _draw(tmp_path, 2)


def test_coordinates_have_mean_zero_and_variance_one_and_grow_with_the_parameter() -> None:
    found = np.stack([coordinates(11, index) for index in range(3000)])
    assert np.abs(found.mean(0)).max() < 0.08
    assert np.abs(found.std(0) - 1).max() < 0.08
    values = np.stack([sample(11, index, 32)[1].array() for index in range(40)])
    for column, entry in enumerate(PARAMETERS):
        order = np.argsort(values[:, column], kind="stable")
        assert (np.diff(found[:40, column][order]) >= -1e-6).all(), entry.name


def test_nobody_stands_between_the_sides() -> None:
    names = [entry.name for entry in PARAMETERS]
    found = np.stack([coordinates(0, index) for index in range(300)])
    for name in ("glasses", "smile", "baldness"):
        assert np.abs(found[:, names.index(name)]).min() > 0.3


@pytest.mark.usefixtures("threads")
def test_sets_can_be_joined(tmp_path: Path) -> None:
    _draw(tmp_path, 2)
    _draw(tmp_path, 3, photo=True, seed=1)
    both = joined(open_portraits(tmp_path, 32, False, 0), open_portraits(tmp_path, 32, True, 1))
    assert len(both) == 5 and both.pictures.shape == (5, 32, 32, 3) and both.coordinates.shape == (5, len(PARAMETERS))


def test_an_empty_folder_names_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(SdicError) as caught:
        open_portraits(tmp_path, 32, photo=True, seed=4)
    assert str(caught.value) == f"{tmp_path} holds no photos of 32 pixels with seed 4; draw them with `sdic-train dataset`"


@pytest.mark.usefixtures("threads")
def test_a_seed_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    for seed in (1, 20, 3, 900_000):
        _draw(tmp_path, 1, photo=True, seed=seed)
    _draw(tmp_path, 1, seed=5)
    for seed, there in ((0, "1, 3, 20"), (900_001, "900000")):
        with pytest.raises(FileError) as caught:
            open_portraits(tmp_path, 32, photo=True, seed=seed)
        choice = f"only with {there}; choose that with --data-seed, or draw them with `sdic-train dataset`"
        assert str(caught.value) == f"{tmp_path} holds no photos of 32 pixels with seed {seed}, {choice}"


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        array = random.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(array).convert("L" if index % 3 == 0 else "RGB").save(folder / f"{index}.png")


def test_a_folder_is_cached_and_split_by_content(tmp_path: Path) -> None:
    _pictures(tmp_path / "in", 30)
    (tmp_path / "in" / "broken.png").write_text("no picture")
    (tmp_path / "in" / "notes.txt").write_text("no picture either")
    (tmp_path / "in" / ".hidden.png").write_text("passed over")
    (tmp_path / "in" / "link.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    dropped: dict[Path, str] = {}
    kept, left = list(cache_folder(tmp_path / "in", tmp_path / "out", 16, held_out=0.3, dropped=dropped))[-1]
    assert kept + left == 30 and left > 0
    found = {path.name: reason.replace(str(path), "it") for path, reason in dropped.items()}
    assert "is not a picture" in found.pop("broken.png")
    assert found == {
        "link.png": "cannot read it: no such file or directory",
        "notes.txt": "it is no picture by its name",
        "pipe.png": "cannot read it: it is a pipe or a device and not a file",
    }
    for name in found:
        (tmp_path / "in" / name).unlink()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["held_out_16.npy", "pictures_16.npy"]
    training, held = open_pictures(tmp_path / "out", 16, False), open_pictures(tmp_path / "out", 16, False, seed=900_000)
    assert training.pictures.shape == (kept, 16, 16, 3) and held.pictures.shape == (left, 16, 16, 3)
    for path in (tmp_path / "in").glob("*.png"):  # a copy under another name falls on the same side
        path.rename(path.with_name(f"copy_{path.name}"))
    assert list(cache_folder(tmp_path / "in", tmp_path / "again", 16, held_out=0.3))[-1] == (kept, left)


def test_nothing_is_left_of_what_a_folder_held_before(tmp_path: Path) -> None:
    _pictures(tmp_path / "in", 20)
    out = tmp_path / "out"
    list(cache_folder(tmp_path / "in", out, 64, held_out=0.5))
    (out / "pictures_of_mine.npy").touch()
    open_pictures(out, 32, False, seed=900_000)
    list(cache_folder(tmp_path / "in", out, 64, held_out=0.0))
    assert sorted(path.name for path in out.iterdir()) == ["pictures_64.npy", "pictures_of_mine.npy"]
    with pytest.raises(FileError, match="holds no portraits"):  # they are trained on
        open_pictures(out, 64, False, seed=900_000)
    first = open_pictures(out, 32, False).pictures.copy()
    for path in (tmp_path / "in").iterdir():
        Image.open(path).rotate(180).save(path)
    list(cache_folder(tmp_path / "in", out, 64, held_out=0.0))
    again = open_pictures(out, 32, False).pictures
    assert len(again) == len(first) == 20 and not np.array_equal(again, first)


def test_what_is_removed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sdic_train.cli.app import main

    _pictures(tmp_path / "in", 20)
    words = ["dataset", "--from", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "16", "--held-out"]
    assert main([*words, "0.5"]) == 0 and "removed" not in capsys.readouterr().err
    assert main([*words, "0"]) == 0
    told = f"held_out_16.npy in {tmp_path / 'out'} were of what was prepared there before, and are removed"
    assert told in capsys.readouterr().err


def test_a_folder_may_be_a_test_set_as_a_whole(tmp_path: Path) -> None:
    _pictures(tmp_path / "in", 5)
    assert list(cache_folder(tmp_path / "in", tmp_path / "out", 16, held_out=1.0))[-1] == (0, 5)
    assert open_pictures(tmp_path / "out", 16, False, seed=900_000).pictures.shape == (5, 16, 16, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="empty holds no pictures "):
        list(cache_folder(tmp_path / "empty", tmp_path / "none", 16, held_out=1.0))


@pytest.mark.parametrize("kind", ["cut-out", "16-bit gray", "wide"])
def test_training_sees_a_picture_as_the_runtime_does(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    if kind == "cut-out":  # a red disc, and black where nothing is to be seen
        array = np.zeros((48, 48, 4), np.uint8)
        array[12:36, 12:36] = (255, 0, 0, 255)
    elif kind == "16-bit gray":
        array = np.linspace(0, 65535, 48 * 48).astype(np.uint16).reshape(48, 48)
    else:
        array = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "in" / "one.png")
    list(cache_folder(tmp_path / "in", tmp_path / "out", 16, held_out=0.0))
    cached = open_pictures(tmp_path / "out", 16, False).pictures
    want = prepare(tmp_path / "in" / "one.png", {"R": 16, "S": 16}, (0, 16))
    np.testing.assert_allclose(cached.transpose(0, 3, 1, 2) / 127.5 - 1, want, atol=1e-6)
    if kind == "cut-out":
        assert (cached[0, 0, 0] == 255).all()  # white
    if kind == "16-bit gray":
        assert cached.min() < 16 and abs(int(cached[0, 8, 8, 0]) - 128) < 16


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_pictures(make: bool, tmp_path: Path) -> None:
    source = tmp_path / "in"
    if make:
        source.mkdir()
    sentence = "holds no pictures for training" if make else "is not a folder; name a folder of pictures"
    with pytest.raises(SdicError, match=sentence):
        list(cache_folder(source, tmp_path / "out", 16))
    assert not (tmp_path / "out").exists()


def test_networks_that_work_at_a_smaller_size_get_the_same_pictures(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index in range(6):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (50 + index, 40, 3), dtype=np.uint8)).save(source / f"{index}.png")
    list(cache_folder(source, out, 64, held_out=0.0))
    whole, small = open_pictures(out, 64, photo=False), open_pictures(out, 32, photo=False)
    assert small.pictures.shape == (6, 32, 32, 3)
    for one, other in zip(whole.pictures, small.pictures, strict=True):
        sampled = np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR), int)
        assert np.abs(sampled - other).max() <= 1
    assert sorted(path.name for path in out.iterdir()) == ["pictures_32.npy", "pictures_64.npy"]
    with pytest.raises(FileError, match="holds no portraits of 128 pixels"):  # nothing is made larger
        open_pictures(out, 128, photo=False)
