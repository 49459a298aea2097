"""Arrays that `Pipeline.invert_many` takes as streams of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdic_runtime import ArgumentError, PictureError, Pipeline

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
