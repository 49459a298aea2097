"""MediaPipe's face mesh: 468 points on a face, from a turned square around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces import networks
from sdic_runtime.faces.align import Square, ffhq_square
from sdic_runtime.faces.levels import Levels, levels_of

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 192  # the mesh's input, pixels
# Numbers of vertices; left and right as one sees the picture of an upright face.
LEFT_EYE = [33, 160, 158, 133, 153, 144]
RIGHT_EYE = [362, 385, 387, 263, 373, 380]
MOUTH = [61, 291]  # its corners
ACROSS, DOWN = (33, 263), (10, 152)  # the eyes' outer corners; forehead and chin
OVAL = [
    *[10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377],  # from the forehead's middle to the chin
    *[152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109],  # and back
]
AROUND_POINTS = 2.0  # the first square's side, in larger extents of the detector's six points
AROUND_MESH = (1.5, 1.35)  # those of the second and the third, in larger extents of the mesh before
HOPELESS = 0.01  # a score below it needs no second look
# Of the eye distance: how much closer to the middle and how much lower dlib's eyes lie, by which FFHQ was cut.
CLOSER, LOWER = 0.01, 0.01


@dataclass(frozen=True, eq=False)
class Landmarks:
    """`points` float64 [468, 3]: x, y in pixels of the photograph, and the depth on the same scale, smaller towards the camera. `left_eye`,
    `right_eye`, `mouth` float64 [2]: their centres, left and right as one sees an upright face. `score`: how sure the mesh is of a face, 0
    to 1."""

    points: np.ndarray
    left_eye: np.ndarray
    right_eye: np.ndarray
    mouth: np.ndarray
    score: float

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes' centres, in the picture's plane."""
        return float(np.hypot(*(self.right_eye - self.left_eye)))

    @property
    def turned(self) -> float:
        """Degrees between the direction that the face looks and the one to the camera: 0 from the front, 90 for a profile."""
        across, down = self.points[ACROSS[1]] - self.points[ACROSS[0]], self.points[DOWN[1]] - self.points[DOWN[0]]
        normal = np.cross(across, down)
        return float(np.degrees(np.arccos(np.clip(normal[2] / max(np.linalg.norm(normal), 1e-9), -1, 1))))

    @property
    def outline(self) -> np.ndarray:
        """float64 [36, 2]: the face's edge from the forehead to the chin, without hair."""
        return self.points[OVAL, :2]

    @property
    def square(self) -> Square:
        """What FFHQ cuts for this face."""
        across = self.right_eye - self.left_eye
        inward, lower = across * CLOSER, np.array((-across[1], across[0])) * LOWER
        return ffhq_square(self.left_eye + inward + lower, self.right_eye - inward + lower, self.mouth)


def landmarks(photo: Image | Levels, points: np.ndarray) -> Landmarks:
    """The mesh of the face whose six points (see `detect.Detection`) lie at `points` [6, 2]; each mesh places the square of the next."""
    levels = levels_of(photo)
    best = _mesh(levels, _square_around(points, points[0], points[1], (points[0] + points[1] + 2 * points[3]) / 4, AROUND_POINTS))
    if best.score < HOPELESS:
        return best
    for larger in AROUND_MESH:
        points = best.points[:, :2]
        mesh = _mesh(levels, _square_around(points, points[ACROSS[0]], points[ACROSS[1]], None, larger))
        if mesh.score > best.score / 2:
            best = mesh
    return best


def _square_around(points: np.ndarray, left: np.ndarray, right: np.ndarray, centre: np.ndarray | None, larger: float) -> Square:
    """A square with its horizontal along left to right, as large as `larger` extents of the points; in their middle without a centre."""
    axis = (right - left) / max(np.hypot(*(right - left)), 1e-9)
    turned = points @ np.array([axis, (-axis[1], axis[0])]).T
    low, high = turned.min(0), turned.max(0)
    if centre is None:
        centre = (low + high) / 2 @ np.array([axis, (-axis[1], axis[0])])
    half = axis * (max((high - low).max(), 1) * larger / 2)
    return Square((float(centre[0]), float(centre[1])), (float(half[0]), float(half[1])))


def _mesh(photo: Levels, square: Square) -> Landmarks:
    """The mesh of what is in the square; eyes and mouth are the mean of its and those of the mirrored picture's, which differ."""
    picture = np.asarray(photo.cut(square, SIDE, pad=False))
    found, scores = networks.run("mesh", np.stack([picture, picture[:, ::-1]]))
    seen, mirrored = found.reshape(2, -1, 3).astype(np.float64)
    mirrored[:, 0] = SIDE - mirrored[:, 0]
    centres = [
        (seen[one].mean(0) + mirrored[other].mean(0)) / 2 for one, other in ((LEFT_EYE, RIGHT_EYE), (RIGHT_EYE, LEFT_EYE), (MOUTH, MOUTH))
    ]
    points = np.column_stack([square.outward(seen[:, :2], SIDE), seen[:, 2] * square.side / SIDE])
    left, right, mouth = square.outward(np.array(centres)[:, :2], SIDE)
    return Landmarks(points, left, right, mouth, float(1 / (1 + np.exp(-scores.mean()))))
