"""What is thrown at the library: for every kind of file seeds, a mutation, and the reading of it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tiny_bundle import SIZES, write_bundle

from fuzz.mutations import Rng, mutated_archive, mutated_bytes, mutated_json, mutated_safetensors
from sdic_runtime.errors import LONGEST, SdicError

SMALL_ARRAYS = {"mean": (1, 8), "comp": (6, 1, 8), "std": (6,)}


@dataclass(frozen=True)
class Target:
    """`make(rng, folder)` writes a mutated file into the empty `folder` and gives its path. `read` says what is there: a right result, or
    it raises an SdicError."""

    make: Callable[[Rng, Path], Path]
    read: Callable[[Path], Any]


def verdict(read: Callable[[Path], Any], path: Path) -> tuple[str, str]:
    """("right" or "refused", what was said), or ("fault", why) for any answer but these."""
    try:
        return "right", repr(read(path))[:100]
    except SdicError as error:
        said = str(error)
        good = 0 < len(said) <= LONGEST and said.isprintable() and not said.endswith(".")
        return ("refused" if good else "fault"), said
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"[:LONGEST]


@cache
def sound_bundle() -> Path:
    """The tiny bundle, with the external weights of one graph in a file, in a folder of this process."""
    import atexit
    import tempfile

    import onnx

    folder = Path(tempfile.mkdtemp(prefix="sdic-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    bundle = write_bundle(folder / "tiny")
    path = bundle / "onnx/fp32/dicn.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="dicn.onnx.data", size_threshold=70)
    data = json.loads((bundle / "bundle.json").read_text())
    data["weights"] = {"onnx/fp32/dicn.onnx": ["onnx/fp32/dicn.onnx.data"]}
    _list_again(bundle, data, "onnx/fp32/dicn.onnx", "onnx/fp32/dicn.onnx.data")
    return bundle


def _list_again(bundle: Path, data: dict[str, Any], *names: str) -> None:
    for name in names:
        content = (bundle / name).read_bytes()
        data["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "bundle.json").write_text(json.dumps(data))


def make_bundle(rng: Rng, folder: Path) -> Path:
    """A manifest, or a file of the bundle with the hash that belongs to it, so that more than the hash must hold."""
    bundle = Path(shutil.copytree(sound_bundle(), folder / "bundle"))
    text = (bundle / "bundle.json").read_bytes()
    if rng.integers(0, 2):
        changed = mutated_json(rng, text).encode(errors="surrogatepass") if rng.integers(0, 4) else mutated_bytes(rng, text)
        (bundle / "bundle.json").write_bytes(changed)
        return bundle
    names = sorted(json.loads(text)["files"])
    name = names[int(rng.integers(0, len(names)))]
    content = (bundle / name).read_bytes()
    change = mutated_safetensors if name.endswith(".safetensors") else mutated_bytes
    # Weights far away from the structure of a graph make no difference: its beginning and end are where it matters.
    (bundle / name).write_bytes(change(rng, content))
    _list_again(bundle, json.loads(text), name)
    return bundle


def read_bundle(bundle: Path) -> Any:
    """Open it, load every stage, and run what a user runs."""
    from sdic_runtime.backends.onnxruntime import load
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.pipeline import Pipeline

    opened = Bundle.open(bundle)
    opened.check()
    if (bundle / "bundle.json").read_bytes() == (sound_bundle() / "bundle.json").read_bytes():
        return "unchanged"
    pipeline = Pipeline(opened, load(opened, threads=1))
    for name in pipeline.directions:
        pipeline.directions[name]
    inversion = pipeline.invert(np.zeros((9, 7, 3), np.uint8))
    assert inversion.pixels.shape == pipeline.bundle.manifest.shape("picture", 1), inversion.pixels.shape
    return inversion


@cache
def sound_inversion() -> bytes:
    from sdic_runtime.pipeline import Pipeline

    path = sound_bundle().parent / "inversion.safetensors"
    pipeline = Pipeline.load(sound_bundle(), backend="onnxruntime", threads=1)
    pipeline.invert([np.zeros((9, 7, 3), np.uint8), np.full((7, 9, 3), 200, np.uint8)]).save(path)
    return path.read_bytes()


def make_inversion(rng: Rng, folder: Path) -> Path:
    path = folder / "inversion.safetensors"
    path.write_bytes(mutated_safetensors(rng, sound_inversion()))
    return path


def read_inversion(path: Path) -> Any:
    from sdic_runtime.inversion import Inversion

    inversion = Inversion.load(path)
    assert inversion.pixels.shape[0] == len(inversion) and len(inversion.images) == len(inversion)
    return inversion


@cache
def sound_directions() -> Mapping[str, bytes]:
    """Suffix -> a direction or a basis in that form."""
    import torch

    arrays = {name: np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape) for name, shape in SMALL_ARRAYS.items()}
    npz, npy, one, basis = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, **arrays)
    np.save(npy, arrays["mean"])
    torch.save(torch.ones(1, SIZES["C"]), one)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, basis, _use_new_zipfile_serialization=False)
    direction = (sound_bundle() / "directions/age.safetensors").read_bytes()
    return {".safetensors": direction, ".npz": npz.getvalue(), ".npy": npy.getvalue(), ".pt": one.getvalue(), ".pth": basis.getvalue()}


def make_direction(rng: Rng, folder: Path) -> Path:
    suffixes = sorted(sound_directions())
    suffix = suffixes[int(rng.integers(0, len(suffixes)))]
    change = {".safetensors": mutated_safetensors, ".npz": mutated_archive, ".pt": mutated_archive}.get(suffix, mutated_bytes)
    path = folder / f"direction{suffix}"
    path.write_bytes(change(rng, sound_directions()[suffix]))
    return path


def read_direction(path: Path) -> Any:
    from sdic_export.directions.files import read_direction

    return read_direction(path, SIZES)


@cache
def sound_pictures() -> Mapping[str, bytes]:
    """Format -> a small picture with metadata."""
    from PIL import Image, features

    noise = np.random.default_rng(0).integers(0, 256, (24, 17, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: dict[str, tuple[str, dict[str, Any]]] = {
        "PNG": ("RGBA", {"exif": exif}),
        "JPEG": ("RGB", {"exif": exif}),
        "WEBP": ("RGBA", {"exif": exif}),
        "GIF": ("RGB", {}),
        "BMP": ("RGB", {}),
        "TIFF": ("RGBA", {"compression": "tiff_lzw"}),
        "PPM": ("RGB", {}),
    }
    if features.check("avif"):
        forms["AVIF"] = ("RGB", {})
    made = {}
    for name, (mode, options) in forms.items():
        stream = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(stream, name, **options)
        made[name] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(stream, "PNG")
    return {**made, "gray16": stream.getvalue()}


def make_picture(rng: Rng, folder: Path) -> Path:
    names = sorted(sound_pictures())
    path = folder / "picture.bin"
    path.write_bytes(mutated_bytes(rng, sound_pictures()[names[int(rng.integers(0, len(names)))]]))
    return path


def read_picture(path: Path) -> Any:
    from sdic_runtime.pictures import prepare

    array = prepare(path, SIZES, (0, SIZES["R"]))
    assert array.shape == (1, 3, SIZES["S"], SIZES["S"]) and np.isfinite(array).all()
    return array.shape


@cache
def sound_checkpoints() -> Mapping[str, bytes]:
    """Suffix -> a small checkpoint: two of torch.save's forms, and safetensors."""
    import torch
    from small_methods import small_container, small_model

    from sdic_train.checkpoints.load import save_checkpoint

    model = small_model("e4e")
    content = small_container("e4e", model)
    archive, legacy = io.BytesIO(), io.BytesIO()
    torch.save(content, archive)
    torch.save({**content, "state_dict": dict(list(content["state_dict"].items())[:40])}, legacy, _use_new_zipfile_serialization=False)
    path = sound_bundle().parent / "checkpoint.safetensors"
    save_checkpoint(path, model.config, model.latent_avg, encoder=model.encoder, generator=model.generator)
    return {".pt": archive.getvalue(), ".pth": legacy.getvalue(), ".safetensors": path.read_bytes()}


def make_checkpoint(rng: Rng, folder: Path) -> Path:
    suffixes = sorted(sound_checkpoints())
    suffix = suffixes[int(rng.integers(0, len(suffixes)))]
    path = folder / f"checkpoint{suffix}"
    content = sound_checkpoints()[suffix]
    if suffix == ".pth" and rng.integers(0, 2):  # the pickles in front of the numbers
        content = mutated_bytes(rng, content[:4000]) + content[4000:]
    elif suffix == ".pth":
        content = mutated_bytes(rng, content)
    else:
        content = mutated_archive(rng, content) if suffix == ".pt" else mutated_safetensors(rng, content)
    path.write_bytes(content)
    return path


def read_checkpoint(path: Path) -> Any:
    from sdic_train.checkpoints.load import load_model, read_checkpoint
    from sdic_train.networks.encoded import Encoded

    checkpoint = read_checkpoint(path)
    if checkpoint.kind in ("e4e", "pSp"):
        load_model(checkpoint, Encoded)
    return checkpoint.kind


TARGETS: dict[str, Target] = {
    "bundle": Target(make_bundle, read_bundle),
    "inversion": Target(make_inversion, read_inversion),
    "direction": Target(make_direction, read_direction),
    "picture": Target(make_picture, read_picture),
    "checkpoint": Target(make_checkpoint, read_checkpoint),
}
