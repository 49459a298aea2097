"""Streams of pictures: `Pipeline.invert_many`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_pictures import photo
from PIL import Image

from sdic_runtime import ArgumentError, OutOfMemoryError, PictureError, Pipeline

CLOSE = {"rtol": 0, "atol": 2e-5}


class Tensor:
    """What a tensor of PyTorch shows of itself."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self.array[index])

    def __iter__(self) -> Any:
        return (self[index] for index in range(len(self)))


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_an_array_of_pictures_is_a_stream_of_them(kind: Any, pipeline: Pipeline, image: np.ndarray) -> None:
    """In the layouts that `invert` takes: float32 as the network takes it, uint8 as pictures lie in memory."""
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    for pictures, whole in ((image, pipeline.invert(image)), (bytes_, pipeline.invert(list(bytes_)))):
        results = list(pipeline.invert_many(kind(pictures), batch=2))
        assert [len(result.inversion) for result in results if result.inversion is not None] == [1, 1, 1]
        for index, result in enumerate(results):
            assert result.inversion is not None
            np.testing.assert_allclose(result.inversion.pixels, whole[index].pixels, **CLOSE)
    assert list(pipeline.invert_many(kind(image[:0]))) == []


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 64, 64), (4,)])
def test_an_array_of_one_picture_is_no_stream(kind: Any, shape: tuple[int, ...], pipeline: Pipeline) -> None:
    with pytest.raises(ArgumentError) as told:
        list(pipeline.invert_many(kind(np.zeros(shape, np.float32))))
    advice = "give [N, H, W, 3] or [N, 3, S, S], a list of pictures, or call invert for one"
    assert str(told.value) == f"the pictures are an array of shape {list(shape)}; {advice}"


def test_arrays_that_do_not_fit_are_told_apart(pipeline: Pipeline, image: np.ndarray) -> None:
    with pytest.raises(PictureError, match=r"^the float32 picture has shape \[1, 3, 32, 64\]; expected \[N, 3, 64, 64\]$"):
        list(pipeline.invert_many(image[:, :, :32]))
    with pytest.raises(PictureError, match=r"^the picture array has type float64; use uint8 \[H, W, 3\] or float32 \[N, 3, 64, 64\]"):
        list(pipeline.invert_many(image.astype(np.float64)))
    results = list(pipeline.invert_many(np.concatenate([image[:1], 9 * image[1:2], image[2:]]), keep_going=True))
    assert [result.error is None for result in results] == [True, False, True]


@pytest.mark.parametrize("pictures", ["photo.png", Path("photo.png"), None])
def test_a_stream_is_more_than_one_picture(pipeline: Pipeline, pictures: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^the pictures are .*; give a list or another iterable of pictures, or call invert for one$"):
        list(pipeline.invert_many(pictures))


def test_files_come_in_bounded_batches_with_the_numbers_of_one_at_a_time(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo(tmp_path / f"{index}.png", index) for index in range(7)]
    sizes: list[int] = []
    plain = pipeline._invert
    monkeypatch.setattr(pipeline, "_invert", lambda image, *rest: sizes.append(len(image)) or plain(image, *rest))
    results = list(pipeline.invert_many(iter(paths), batch=3))
    assert sizes == [3, 3, 1]
    for path, result in zip(paths, results, strict=True):
        assert result.name == str(path) and result.error is None and result.inversion is not None
        assert len(result.inversion) == 1 and result.inversion.names == (str(path),)
        np.testing.assert_allclose(result.inversion.pixels, pipeline.invert(path).pixels, **CLOSE)


def test_a_bad_file_is_reported_and_the_others_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    paths = [photo(tmp_path / "a.png"), tmp_path / "bad.png", photo(tmp_path / "b.png", 1), tmp_path / "missing.png"]
    results = list(pipeline.invert_many(paths, batch=2, keep_going=True))
    assert [result.inversion is None for result in results] == [False, True, False, True]
    assert "bad.png is not a picture" in str(results[1].error) and "there is no picture at" in str(results[3].error)
    np.testing.assert_array_equal(results[2].inversion.pixels, pipeline.invert(paths[2]).pixels)  # type: ignore[union-attr]
    with pytest.raises(PictureError, match="bad.png is not a picture"):
        list(pipeline.invert_many(paths, batch=2))


def test_a_stream_may_hold_any_kind_of_picture(pipeline: Pipeline, tmp_path: Path, image: np.ndarray) -> None:
    """Also arrays of several pictures, among pictures that fail."""
    path = photo(tmp_path / "a.png")
    stream = [path, image, str(path), Image.open(path), image[1:], np.asarray(Image.open(path)), 17, image[:1].astype(np.float64), b"x"]
    results = list(pipeline.invert_many(iter(stream), batch=2, keep_going=True))
    assert [result.name for result in results] == [str(path), "", str(path), "", "", "", "", "", ""]
    assert [0 if result.inversion is None else len(result.inversion) for result in results] == [1, 3, 1, 1, 2, 1, 0, 0, 0]
    assert [type(result.error).__name__ for result in results[6:]] == ["ArgumentError", "PictureError", "ArgumentError"]
    for source, result in zip(stream[:6], results, strict=False):
        want, got = pipeline.invert(source), result.inversion  # type: ignore[arg-type]
        assert got is not None and result.error is None and got.names == want.names
        for name in want.tensors:
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), **CLOSE, err_msg=name)
    with pytest.raises(ArgumentError, match="a picture cannot be made from int"):
        list(pipeline.invert_many(iter(stream)))
    assert [result.inversion for result in pipeline.invert_many(iter([17]), keep_going=True)] == [None]
    assert list(pipeline.invert_many([])) == []


def test_a_picture_that_needs_too_much_memory_fails_alone(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [photo(tmp_path / "a.png"), photo(tmp_path / "huge.png", 1), photo(tmp_path / "b.png", 2)]
    plain = pipeline.prepare

    def prepare(picture: Any, shape: str | None) -> np.ndarray:
        if picture == paths[1]:
            raise MemoryError
        return plain(picture, shape)

    monkeypatch.setattr(pipeline, "prepare", prepare)
    results = list(pipeline.invert_many(paths, keep_going=True))
    assert [result.inversion is None for result in results] == [False, True, False]
    assert isinstance(results[1].error, OutOfMemoryError)
    assert str(results[1].error) == f"not enough memory to prepare {paths[1]}; make it smaller"
    with pytest.raises(OutOfMemoryError, match=r"not enough memory to prepare .*huge\.png"):
        list(pipeline.invert_many(paths))


def test_files_are_read_only_when_their_turn_comes(pipeline: Pipeline, tmp_path: Path) -> None:
    first = photo(tmp_path / "a.png")
    results = pipeline.invert_many([first, tmp_path / "later.png"], batch=1)
    assert next(results).inversion is not None
    photo(tmp_path / "later.png", 5)
    assert next(results).inversion is not None
