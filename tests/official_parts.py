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
from official_checkpoint import DATA, Shapes, drawn, example_edits, example_pictures, face_shapes
from official_methods import GANSPACE, SEED, STRENGTH, Arrays, cut, picture_parts, stats

from sdic_runtime.backends.base import Backend
from sdic_runtime.edits import GanSpaceEdit
from sdic_runtime.edits import edited as apply_edit
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


def _drawn_clcae(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Smaller RGB layers and biases of the attention's first projection."""
    value = drawn(name, shape, salt)
    if ".to_rgb" in name and name.endswith(".conv.weight"):
        return value * np.float32(0.2)
    return value * np.float32(0.05 if name.endswith("in_proj_bias") else 1)


def average_picture() -> np.ndarray:
    """CLCAE's average picture as its PNG holds it: uint8 [256, 256, 3]."""
    return np.rint((0.5 * example_pictures(4242, 1)[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


def write_clcae(path: Path, salt: int = 0) -> tuple[Path, list[Path]]:
    """1.5 GB: the weights, the generator's file with the mean code, the average picture."""
    import torch
    from PIL import Image

    body = parts_of("encoder.input_layer.", "encoder.body.", "encoder.latlayer", "decoder.")
    state = tensors({**listed("clcae"), **body}, _drawn_clcae, salt)
    options = {"dataset_type": "ffhq_encode_inversion", "encoder_type": "GradualStyleEncoder", "input_nc": 3, "learn_in_w": True}
    torch.save({"state_dict": state, "opts": {**options, "device": torch.device("cuda", 0)}, "iter": 1.0}, path)
    generator, average = path.with_suffix(".generator.pt"), path.with_suffix(".average.png")
    own = {name.removeprefix("decoder."): tensor for name, tensor in state.items() if name.startswith("decoder.")}
    torch.save({"g_ema": own, "latent_avg": torch.from_numpy(_drawn_clcae("latent_avg", (512,), salt))}, generator)
    Image.fromarray(average_picture()).save(average)
    return path, [generator, average]


def clcae_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    direction, pca = example_edits(SEED, 18)
    made = values(backend, "invert", image=image)
    latent, own = made["latent"], made["feature_16"]
    kept = {name: made[name] for name in ("values", "level")}
    got = {"w": made["w"][:, 0], "w_plus": latent, **_map16("F", made["content"]), **_map16("F_R", own)}
    got |= _level("p1", made["level"]) | _level("attended", made["attended"]) | picture_parts("inversion", made["picture"])
    pooled = made["picture"].reshape(-1, 3, 256, 4, 256, 4).mean((3, 5))
    got |= stats("inversion_256", pooled)
    moved = made["w"] + np.float32(STRENGTH) * direction[:, :1]
    edited = values(backend, "edit", w=moved, feature_16=own, **kept)
    changed = edited["feature_16_2"]
    got |= {"w_edit": moved[:, 0], "w_plus_edit": edited["latent"], **_map16("F_edit_encoder", edited["content"])}
    got |= _map16("F_E", changed) | _map16("F_edit", edited["content"] + changed - own) | picture_parts("edit", edited["picture"])
    for name, code in (("inversion_w_plus", latent), ("inversion_w", made["w"]), ("edit_w_plus", edited["latent"])):
        got |= _without_slice(name, values(backend, "baseline", latent=code)["picture"])
    for name, component in (("ganspace", (54, 7, 8, 20)), ("ganspace_low", (16, 3, 6, 25))):
        code = apply_edit(latent, GanSpaceEdit(pca, *component), 1.0)
        edited = values(backend, "edit_ganspace", latent=code, content=made["content"], feature_16=own)
        got |= {f"{name}.w_plus": code, **_map16(f"{name}.F_edit", made["content"] + edited["feature_16_2"] - own)}
        got |= picture_parts(f"edit_{name}", edited["picture"])
    return got


def _map16(name: str, array: np.ndarray) -> Arrays:
    return {f"{name}.slice": array[:, ::16], **stats(name, array)}


def _level(name: str, array: np.ndarray) -> Arrays:
    return {f"{name}.slice": array[:, ::37, ::5, ::5], **stats(name, array)}


def _without_slice(name: str, picture: np.ndarray) -> Arrays:
    return {key: array for key, array in picture_parts(name, picture).items() if not key.endswith("slice")}


def _drawn_fs(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Small branches of the units, codes of a standard deviation near one, a content of the size of the generator's own feature."""
    factor = 1.0
    if name.endswith(".bn3.weight"):
        factor = 0.2
    elif name.startswith("enc.styles.") and name.endswith("weight"):
        factor = 0.25
    elif name == "enc.content_layer.5.weight":
        factor = 0.15
    elif name.startswith("decoder.to_rgb") and name.endswith(".conv.weight"):
        factor = 0.35
    return drawn(name, shape, salt) * np.float32(factor) if factor != 1 else drawn(name, shape, salt)


def write_fs(path: Path, salt: int = 0) -> tuple[Path, list[Path]]:
    """0.6 GB: the encoder's weights alone, and a file in pSp's container that has the generator and its mean code."""
    import torch

    encoder = tensors(listed("fs"), _drawn_fs, salt)
    torch.save({name.removeprefix("enc."): tensor for name, tensor in encoder.items()}, path)
    generator = path.with_suffix(".generator.pt")
    average = torch.from_numpy(drawn("latent_avg", (18, 512), salt))
    state = tensors(parts_of("decoder."), _drawn_fs, salt)
    torch.save({"state_dict": state, "latent_avg": average, "opts": {"output_size": 1024}}, generator)
    return path, [generator]


def fs_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    """Of pictures at 1024 with constant 4 x 4 tiles, which the encoder sees as `image`."""
    direction, pca = example_edits(SEED, 18)
    made = values(backend, "invert", image=image.repeat(4, axis=2).repeat(4, axis=3))
    latent, content, own = made["latent"], made["content"], made["feature_16"]
    got = {"w": latent, **stats("w", latent), **_content("F", content), **picture_parts("inversion", made["picture"])}
    codes = {"edit": latent + np.float32(STRENGTH) * direction, "edit_ganspace": apply_edit(latent, GanSpaceEdit(pca, *GANSPACE), 1.0)}
    for name, code in codes.items():
        edited = values(backend, "edit", latent=code, content=content, feature_16=own)
        changed = edited["feature_16_2"]
        got |= {f"{name}.w": code, **_content(f"{name}.F_w", own), **_content(f"{name}.F_w_edit", changed)}
        got |= _content(f"{name}.F", content + changed - own) | picture_parts(name, edited["picture"])
    return got


def _content(name: str, array: np.ndarray) -> Arrays:
    return {f"{name}.slice": array[:, ::7, ::2, ::2], **stats(name, array)}


METHODS = {
    "hyperstyle": Parts("hyperstyle", write_hyperstyle, hyperstyle_arrays, 1e-3, {}),
    "clcae": Parts("clcae", write_clcae, clcae_arrays, 3e-4, {}),
    "fs": Parts("fs", write_fs, fs_arrays, 3e-4, {"research": True}),
}


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
