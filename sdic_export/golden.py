"""Golden tensors: a few pictures, and what PyTorch makes of them in every stage. Every backend is held against them.

Latent codes and the input pictures are whole. Of a large map only every k-th row and column is kept, from k // 2 on; k is the tensor's
entry under "strides" in the file's metadata "golden", a JSON object that also has the edit's "strength".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime import chain
from sdic_runtime.errors import SdicError
from sdic_runtime.files import replacing
from sdic_runtime.stages import STAGES, Sizes

if TYPE_CHECKING:
    from sdic_runtime.backends.registry import Backend

FILE = "golden/golden.safetensors"
STRENGTH = 1.5
KEPT = 1 << 16  # elements of one picture's map that are kept at most
DIRECTION_DEVIATION = 0.2
WHOLE = ("image", "direction")  # inputs, which cannot be thinned
METADATA = "golden"  # one entry, because safetensors writes several in any order
# Chain tensor -> the stage that made it, in the order in which they are made. Edits run the head and the tail alone.
MADE_BY = {
    "latent": "e4e",
    "feature": "generator_head",
    "rgb": "generator_head",
    "reconstruction": "generator_preview",
    "discrepancy": "dipn",
    "latent_enhanced": "dicn",
    "residual": "dicn",
    "rgb_enhanced": "generator_head",
    "picture": "generator_tail",
    "edited.paper.picture": "generator_tail",
    "edited.released.picture": "generator_tail",
}
ALONE = {"rgb": "rgb", "rgb_enhanced": "rgb"}  # tensor of `run_chain` -> the output of its stage, for those that are asked for alone
TAIL_INPUTS = {"rgb": "rgb_enhanced", "latent": "latent_enhanced"}  # in an inversion the tail reads those of the enhanced code


@dataclass(frozen=True)
class Golden:
    """The golden tensors of a bundle, and how the maps among them were thinned."""

    tensors: Mapping[str, np.ndarray]
    strides: Mapping[str, int] = field(default_factory=dict)
    strength: float = STRENGTH

    def thinned(self, name: str, array: np.ndarray) -> np.ndarray:
        """The part of `array` [N, C, H, W] (or any whole tensor) that is kept of the tensor `name`."""
        return thin(array, self.strides.get(name, 1))


def smooth_pictures(side: int, count: int = 2) -> np.ndarray:
    """Synthetic pictures without noise: colour gradients, waves of a few periods, a soft disc; float32 [count, 3, side, side]."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1.0)
    pictures = []
    for index in range(count):
        rng = np.random.default_rng(index)
        periods, phases, centre = rng.uniform(0.5, 3, (3, 2)), rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.3, 0.7, 2)
        waves = [np.sin(2 * np.pi * (a * x + b * y) + phase) for (a, b), phase in zip(periods, phases, strict=True)]
        disc = 1 / (1 + np.exp(30 * (np.hypot(x - centre[0], y - centre[1]) - 0.25)))
        pictures.append(np.stack([0.55 * wave + 0.4 * disc * sign for wave, sign in zip(waves, (1, -1, 0.5), strict=True)]))
    return np.clip(np.stack(pictures), -1, 1).astype(np.float32)


def example_direction(sizes: Sizes) -> np.ndarray:
    """A random direction [1, L, C] for the golden edit."""
    rng = np.random.default_rng(0)
    return (DIRECTION_DEVIATION * rng.standard_normal((1, sizes.rows, sizes.style_width))).astype(np.float32)


def run_chain(backend: Backend, image: np.ndarray, direction: np.ndarray, strength: float = STRENGTH) -> dict[str, np.ndarray]:
    """Every tensor of MADE_BY, whole, as `backend` computes it from `image` [N, 3, S, S] and `direction` [1, L, C]."""
    tensors = chain.invert(backend, backend.upload(image))
    tensors["rgb"] = backend.run("generator_head", {"latent": tensors["latent"]}, ["rgb"])["rgb"]
    tensors["rgb_enhanced"] = backend.run("generator_head", {"latent": tensors["latent_enhanced"]}, ["rgb"])["rgb"]
    offset = np.float32(strength) * direction
    latent, enhanced = (backend.upload(backend.download(tensors[name]) + offset) for name in ("latent", "latent_enhanced"))
    for form in chain.EQ6_FORMS:
        tensors[f"edited.{form}.picture"] = chain.edit(backend, latent, enhanced, tensors["residual"], form)
    return {name: backend.download(tensors[name]) for name in MADE_BY}


def stage_inputs(stage: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `stage` reads in an inversion, from the tensors of `run_chain` and `image`."""
    renamed = TAIL_INPUTS if stage == "generator_tail" else {}
    return {name: tensors[renamed.get(name, name)] for name in STAGES[stage].inputs}


def make_golden(tensors: Mapping[str, np.ndarray], image: np.ndarray, direction: np.ndarray) -> Golden:
    """The golden tensors of the whole ones that `run_chain` gave."""
    every = {"image": image, "direction": direction, **tensors}
    strides = {name: stride_of(array) for name, array in every.items() if array.ndim == 4 and name not in WHOLE}
    return Golden({name: np.ascontiguousarray(thin(array, strides.get(name, 1))) for name, array in every.items()}, strides)


def stride_of(array: np.ndarray) -> int:
    """The smallest power of two that leaves at most KEPT elements of a picture's map [N, C, H, W]."""
    stride = 1
    while array[0].size > KEPT * stride * stride:
        stride *= 2
    return stride


def thin(array: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th row and column of [N, C, H, W], from stride // 2 on."""
    return array if stride == 1 else array[:, :, stride // 2 :: stride, stride // 2 :: stride]


def write_golden(path: Path, golden: Golden) -> None:
    """Write a golden file, whole or not at all."""
    from safetensors.numpy import save

    metadata = {METADATA: json.dumps({"strides": dict(golden.strides), "strength": golden.strength}, sort_keys=True)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(dict(golden.tensors), metadata))  # save_file would make it readable for its owner alone


def read_golden(path: Path) -> Golden:
    """Read a golden file. Raises SdicError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            described = json.loads((stream.metadata() or {})[METADATA])
        golden = Golden(tensors, {name: int(stride) for name, stride in described["strides"].items()}, float(described["strength"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SdicError(f"{path} is not a file of golden tensors ({error}); build the bundle again") from error
    missing = [name for name in (*WHOLE, *MADE_BY) if name not in tensors]
    if missing:
        raise SdicError(f"{path} lacks the golden tensors {', '.join(missing)}; build the bundle again")
    return golden
