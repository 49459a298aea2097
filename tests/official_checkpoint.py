"""Checkpoints in the released container with every weight drawn from its own name, and the inputs behind the expected numbers.

The drawing is the same on every machine, so that what the official code computed from such a checkpoint
(`data/sdic_ffhq1024.expected.npz`) can be compared with.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).with_name("data")
Shapes = dict[str, tuple[int, ...]]

BLUR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / np.float32(64) * np.float32(4)


def face_shapes() -> Shapes:
    """Name -> shape of every tensor in the released face model."""
    listed = json.loads((DATA / "sdic_ffhq1024.keys.json").read_text(encoding="utf-8"))
    return {name: tuple(entry[0]) for name, entry in listed.items()}


def car_shapes() -> Shapes:
    """The same for the car model: a 512 generator with 16 rows; `condition_shift3` keeps 18 channels, so `aff1d` reads 144 rows."""
    dropped = re.compile(r"encoder\.styles\.1[67]\.|decoder\.convs\.1[45]\.|decoder\.to_rgbs\.7\.|decoder\.noises\.noise_1[56]$")
    narrowed = re.compile(r"SAF\.aff1d\.(sen\.3|att|att2|agg)\b")
    shapes = {name: shape for name, shape in face_shapes().items() if not dropped.match(name)}
    return {name: tuple(16 if size == 18 else size for size in shape) if narrowed.match(name) else shape for name, shape in shapes.items()}


def drawn(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """The tensor called `name`, of healthy magnitude."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), salt]))
    for applies, make in RULES:
        if applies(name, shape):
            return make(rng, shape)
    return _normal(rng, shape) * np.float32((1.6 / int(np.prod(shape[1:]))) ** 0.5)


def container(shapes: Shapes, salt: int = 0) -> dict[str, Any]:
    """What `torch.save` wrote in the release: weights, options, and the mean latent code."""
    import torch

    rows = sum(bool(re.fullmatch(r"encoder\.styles\.\d+\.linear\.weight", name)) for name in shapes)
    options = {
        "stylegan_size": 2 ** (rows // 2 + 1),
        "dataset_type": "ffhq_encode" if rows == 18 else "cars_encode",
        "start_from_latent_avg": True,
        "encoder_type": "Encoder4Editing",
    }
    state = {name: torch.from_numpy(np.asarray(drawn(name, shape, salt))) for name, shape in shapes.items()}
    return {"state_dict": state, "opts": options, "latent_avg": torch.from_numpy(drawn("latent_avg", (rows, 512), salt))}


def write_checkpoint(path: Path, shapes: Shapes, salt: int = 0) -> Path:
    """Write such a checkpoint: about 1.3 GB for faces."""
    import torch

    torch.save(container(shapes, salt), path)
    return path


def example_pictures(seed: int, count: int) -> np.ndarray:
    """The pictures behind the expected numbers, [count, 3, 256, 256] in [-1, 1]; picture i is drawn from seed + i."""
    y, x = np.mgrid[0:256, 0:256] / 255.0
    pictures = []
    for index in range(count):
        rng = np.random.default_rng(seed + index)
        rate, phase = rng.uniform(2, 9, 6), rng.uniform(0, 6, 3)
        stripes = 0.15 * np.sign(np.sin(rate[5] * 6 * (x - y)))
        red = np.sin(rate[0] * x + rate[1] * y + phase[0])
        green = np.cos(rate[2] * y * x + phase[1])
        blue = np.sin(rate[3] * (x - 0.5) ** 2 * 4 + rate[4] * (y - 0.5) ** 2 * 4 + phase[2])
        pictures.append(np.clip(0.8 * np.stack([red, green, blue]) + stripes, -1, 1))
    return np.stack(pictures).astype(np.float32)


def example_edits(seed: int, rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The direction [1, rows, 512] of the expected edits, used at strength 1.5, and the basis of the GANSpace edit (54, 7, 8, 20)."""
    rng = np.random.default_rng(1000 + seed)
    direction = rng.standard_normal((1, rows, 512)).astype(np.float32) * np.float32(0.2)
    comp = rng.standard_normal((80, 1, 512)).astype(np.float32)
    comp /= np.linalg.norm(comp, axis=2, keepdims=True)
    mean = (0.1 * rng.standard_normal((1, 512))).astype(np.float32)
    return direction, {"mean": mean, "comp": comp, "std": np.sort(rng.uniform(0.5, 3, 80).astype(np.float32))[::-1].copy()}


def expected() -> dict[str, np.ndarray]:
    """What the official code computed from the face checkpoint (salt 0), the picture of seed 11 and the edits of seed 11."""
    with np.load(DATA / "sdic_ffhq1024.expected.npz") as file:
        return dict(file)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape, dtype=np.float32)


def _leaf(*leaves: str) -> Callable[[str, tuple[int, ...]], bool]:
    return lambda name, shape: name.rsplit(".", 1)[-1] in leaves


def _is_vector(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 1


def _is_equalized(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("decoder.") or ".linear.weight" in name or "condition_shift3" in name


# The first rule that applies draws the tensor.
RULES: tuple[tuple[Callable[[str, tuple[int, ...]], bool], Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]], ...] = (
    (_leaf("kernel"), lambda rng, shape: BLUR),
    (_leaf("num_batches_tracked"), lambda rng, shape: np.zeros(shape, np.int64)),
    (_leaf("running_var"), lambda rng, shape: 0.75 + 0.5 * _uniform(rng, shape)),
    (_leaf("running_mean"), lambda rng, shape: 0.1 * _normal(rng, shape)),
    (_leaf("latent_avg"), lambda rng, shape: 0.5 * _normal(rng, shape)),
    (lambda name, shape: ".noises." in name, _normal),
    (lambda name, shape: name.endswith("modulation.bias"), lambda rng, shape: 1 + 0.1 * _normal(rng, shape)),
    (_leaf("bias"), lambda rng, shape: 0.05 * _normal(rng, shape)),
    (lambda name, shape: ".noise." in name, lambda rng, shape: 0.1 * _normal(rng, shape)),
    (
        lambda name, shape: _is_vector(name, shape) and name.endswith("res_layer.4.weight"),
        lambda rng, shape: (0.2 * (0.8 + 0.4 * _uniform(rng, shape))).astype(np.float32),
    ),
    (_is_vector, lambda rng, shape: (1.0 * (0.8 + 0.4 * _uniform(rng, shape))).astype(np.float32)),
    (lambda name, shape: name.endswith("modulation.weight"), lambda rng, shape: 0.3 * _normal(rng, shape)),
    (_is_equalized, _normal),
)
