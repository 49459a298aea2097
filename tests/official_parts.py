"""Methods whose model is in several files: their checkpoints in the released containers, and what the official code computed from them.

As `official_methods`, of which this is the second half.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from official_checkpoint import DATA, Shapes, drawn, example_edits, face_shapes
from official_methods import SEED, STRENGTH, Arrays, cut, picture_parts, stats

from sdic_runtime.backends.base import Backend
from sdic_runtime.program import run

LAYERS = (5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24)  # that the released HyperStyle tunes
SHARING = LAYERS[:6]


@dataclass(frozen=True)
class Parts:
    """A method's released files (`write`: path, salt -> the checkpoint at path, and the others), how its expected arrays come from a
    backend, and what it asks for when it is built."""

    name: str
    write: Callable[[Path, int], tuple[Path, list[Path]]]
    computed: Callable[[Backend, np.ndarray], Arrays]
    limit: float  # largest difference, in standard deviations of the expected array
    options: Mapping[str, Any]

    def expected(self) -> Arrays:
        with np.load(DATA / "methods" / f"{self.name}.expected.npz") as file:
            return dict(file)


def listed(name: str) -> Shapes:
    content = json.loads((DATA / "methods" / f"{name}.keys.json").read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, shape in content.items()}


def parts_of(*prefixes: str) -> Shapes:
    """Of SDIC's file, whose generator and whose encoder's body all methods have."""
    return {name: shape for name, shape in face_shapes().items() if name.startswith(prefixes)}


def tensors(shapes: Shapes, draw: Callable[[str, tuple[int, ...], int], np.ndarray], salt: int) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(np.asarray(draw(name, shape, salt))) for name, shape in shapes.items()}


def values(backend: Backend, program: str, **given: np.ndarray) -> Arrays:
    """Every value that a program makes on the way, on the host."""
    steps = backend.method.programs[program]
    names = [value for step in steps.steps for value in step.outputs.values()]
    every = msgspec.structs.replace(steps, gives={**{name: name for name in names}, **steps.gives})
    made = run(every, backend, {name: backend.upload(array) for name, array in given.items()})
    return {name: backend.download(tensor) for name, tensor in made.items()}


def _drawn_hyperstyle(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Changes of weights of about a tenth."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), salt]))
    if name.startswith("hypernet.shared_weight_hypernet."):
        scale = {"w2": 512**-0.5, "b2": 0.05, "w1": 0.1 * 512**-0.5, "b1": 0.02}[name.rsplit(".", 1)[-1]]
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    if re.fullmatch(r"hypernet\.refinement_blocks\.\d+\.output\.[01]\.(weight|bias)", name):
        scale = 0.08 * (1.6 / 512) ** 0.5 if name.endswith("weight") else 0.02
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    if re.fullmatch(r"hypernet\.body\.\d+\.bn2\.weight", name):
        return (0.3 * (0.8 + 0.4 * rng.random(shape, dtype=np.float32))).astype(np.float32)
    if name == "encoder.linear.weight":
        return 0.5 * rng.standard_normal(shape, dtype=np.float32)
    return drawn(name, shape, salt)


def write_hyperstyle(path: Path, salt: int = 0) -> tuple[Path, list[Path]]:
    """1.7 GB. The shared network stands under seven names and once in the file; the second file has a mean code that nobody reads."""
    import torch

    shapes, encoder = listed("hyperstyle"), path.with_suffix(".w_encoder.pt")
    own = {name: shape for name, shape in shapes.items() if name.startswith("hypernet.")}
    state = tensors({**own, **parts_of("decoder.")}, _drawn_hyperstyle, salt)
    for layer in SHARING:
        for part in ("w1", "b1", "w2", "b2"):
            state[f"hypernet.refinement_blocks.{layer}.hypernet.{part}"] = state[f"hypernet.shared_weight_hypernet.{part}"]
    options = {"dataset_type": "ffhq_hypernet", "encoder_type": "SharedWeightsHyperNetResNet", "input_nc": 6, "output_size": 1024}
    average = torch.from_numpy(drawn("latent_avg", (18, 512), salt))
    torch.save({"state_dict": state, "opts": options, "latent_avg": average, "global_step": 0, "best_val_loss": None}, path)
    linear = {name: shape for name, shape in shapes.items() if name.startswith("encoder.")}
    state = tensors({**parts_of("encoder.input_layer.", "encoder.body.", "decoder."), **linear}, _drawn_hyperstyle, salt)
    torch.save({"state_dict": state, "opts": {"encoder_type": "WEncoder"}, "latent_avg": average + 1}, encoder)
    return path, [encoder]


def hyperstyle_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    """Of a bundle with five iterations. Values are called as the steps of the program made them: those of iteration t have _t behind."""
    direction, _ = example_edits(SEED, 18)
    made = values(backend, "invert", image=image)
    latent, names = made["latent"], [f"delta_{layer}" for layer in LAYERS]
    moved = latent + np.float32(STRENGTH) * direction
    got = {"w": latent, "w_edit": moved, "initial.slice": made["initial"][:, :, ::4, ::4], **stats("initial", made["initial"])}
    for iteration in range(1, 6):
        got |= stats(f"iteration{iteration}", made[f"picture_{iteration + 1}"])
    for iteration, ending in ((1, "1"), (5, "")):
        feature = made["feature_1" if iteration == 1 else "feature"]
        got |= {f"feature{iteration}.slice": feature[:, ::7], **stats(f"feature{iteration}", feature)}
        deltas = {name: made[f"{name}_{iteration + 1}"] for name in names}
        for layer, delta in zip(LAYERS, deltas.values(), strict=True):
            full = delta if delta.ndim == 5 else np.broadcast_to(delta[..., None, None], (*delta.shape, 3, 3))
            cuts = (slice(size // 16, None, size // 8) for size in full.shape[1:3])
            got |= {f"delta{iteration}.{layer}.slice": full[(slice(None), *cuts)], **stats(f"delta{iteration}.{layer}", full)}
        got |= picture_parts(f"inversion{ending}", made[f"picture_{iteration + 1}"])
        got |= picture_parts(f"edit{ending}", values(backend, "edit", latent=moved, **deltas)["picture"])
    return got


METHODS = {"hyperstyle": Parts("hyperstyle", write_hyperstyle, hyperstyle_arrays, 1e-3, {})}


def shortened(name: str, array: np.ndarray) -> np.ndarray:
    """What the repository keeps of an expected array."""
    return array if ".slice" in name and array.shape[-1] <= 16 else cut(name, array)


def worst_ratios(got: Arrays, want: Arrays) -> Sequence[tuple[float, str]]:
    """Every array's largest difference over the standard deviation of what is expected (of statistics: the deviation that they state), the
    largest first. Of a batch the first picture is compared."""
    found = []
    for name, array in got.items():
        expected = want[name]
        assert array.shape[1:] == expected.shape[1:], name
        deviation = expected.std() if not name.endswith(".stats") else expected[1]
        found.append((float(np.abs(array[: len(expected)] - expected).max() / deviation), name))
    return sorted(found, reverse=True)
