from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sdic_runtime.faces import Face, find


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def face(astronaut: Image.Image) -> Face:
    (found,) = find(astronaut)
    return found


@pytest.fixture(scope="session")
def dlib_points() -> np.ndarray:
    """float64 [3, 2]: the centres of left eye, right eye and mouth that dlib's 68 points give on `astronaut`, which are numbers of
    pixels."""
    return np.array([[203.67, 102.0], [247.0, 104.67], [224.0, 140.5]]) + 0.5
