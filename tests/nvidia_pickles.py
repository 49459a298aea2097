"""Pickles as NVIDIA's repositories write them, made of our own small generators: objects of persistent classes with their source beside."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdic_train.networks.stylegan2 import Generator

SOURCE = "raise SystemExit('this source must never run')"


def names(generator: Generator, average: Tensor) -> dict[str, Tensor]:
    """Every tensor of a generator under NVIDIA's name, in NVIDIA's shape."""
    ours = generator.state_dict()
    layers = {"b4.conv1": ("conv1", 0)}
    rgbs = {"b4.torgb": "to_rgb1"}
    for block in range(len(generator.to_rgbs)):
        size = 8 << block
        layers |= {f"b{size}.conv{half}": (f"convs.{2 * block + half}", 2 * block + half + 1) for half in (0, 1)}
        rgbs[f"b{size}.torgb"] = f"to_rgbs.{block}"
    found = {"synthesis.b4.const": ours["input.input"][0]}
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    for theirs, (layer, number) in layers.items():
        found |= {
            f"synthesis.{theirs}.weight": ours[f"{layer}.conv.weight"][0],
            f"synthesis.{theirs}.affine.weight": ours[f"{layer}.conv.modulation.weight"],
            f"synthesis.{theirs}.affine.bias": ours[f"{layer}.conv.modulation.bias"],
            f"synthesis.{theirs}.noise_strength": ours[f"{layer}.noise.weight"][0],
            f"synthesis.{theirs}.bias": ours[f"{layer}.activate.bias"],
            f"synthesis.{theirs}.noise_const": ours[f"noises.noise_{number}"][0, 0],
            f"synthesis.{theirs}.resample_filter": kernel,
        }
    for theirs, layer in rgbs.items():
        found |= {
            f"synthesis.{theirs}.weight": ours[f"{layer}.conv.weight"][0],
            f"synthesis.{theirs}.affine.weight": ours[f"{layer}.conv.modulation.weight"],
            f"synthesis.{theirs}.affine.bias": ours[f"{layer}.conv.modulation.bias"],
            f"synthesis.{theirs}.bias": ours[f"{layer}.bias"].flatten(),
            f"synthesis.{theirs.split('.')[0]}.resample_filter": kernel,
        }
    for index in range(len(generator.style) - 1):
        found |= {f"mapping.fc{index}.{leaf}": ours[f"style.{index + 1}.{leaf}"] for leaf in ("weight", "bias")}
    return {name: tensor.clone() for name, tensor in (found | {"mapping.w_avg": average}).items()}


def settings(generator: Generator) -> dict[str, dict[str, Any]]:
    """Module -> the plain attributes that matter."""
    config = generator.config
    blocks = {f"synthesis.b{4 << index}": {"architecture": "skip", "use_fp16": False} for index in range(len(generator.to_rgbs) + 1)}
    layers = {f"{block}.conv1": {"use_noise": True, "conv_clamp": None, "activation": "lrelu"} for block in blocks}
    mapping = {f"mapping.fc{index}": {"activation": "lrelu", "bias_gain": 0.01} for index in range(config.mapping_layers)}
    whole = {"z_dim": config.style_width, "w_dim": config.style_width, "c_dim": 0, "img_channels": 3}
    return {"": whole | {"img_resolution": config.resolution}, **blocks, **layers, **mapping}


class Recorded:
    """A module of a persistent class: pickled as its class name, source and attributes."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> Any:
        module = sys.modules["torch_utils.persistence"]
        easy = sys.modules["dnnlib.util"].EasyDict
        meta = easy(type="class", version=6, module_src=SOURCE, class_name=self.class_name, state=self.state)
        return module._reconstruct_persistent_obj, (meta,)


def tree(
    tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]], class_name: str = "Generator", prefix: str = ""
) -> Recorded:
    """The module below `prefix`, with its parameters, buffers and modules in it."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    buffers = ("noise_const", "resample_filter", "w_avg")
    children = dict.fromkeys(name.partition(".")[0] for name in own if "." in name)
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (name, torch.nn.Parameter(tensor)) for name, tensor in own.items() if "." not in name and name not in buffers
        ),
        "_buffers": OrderedDict((name, tensor) for name, tensor in own.items() if name in buffers),
        "_non_persistent_buffers_set": set(),
        "_modules": OrderedDict((child, tree(tensors, attributes, "Module", f"{prefix}{child}.")) for child in children),
        "_init_args": (),
        "_init_kwargs": {"channel_base": np.int64(16384)},
        **attributes.get(prefix.removesuffix("."), {}),
    }
    return Recorded(class_name, state)


@contextmanager
def their_modules() -> Iterator[None]:
    """NVIDIA's modules by name, for the time of writing: pickle names what it writes."""

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("nothing of a file may be called")

    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")
    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})  # type: ignore[attr-defined]
    modules = {"torch_utils": ModuleType("torch_utils"), "torch_utils.persistence": persistence, "dnnlib": ModuleType("dnnlib")}
    modules["dnnlib.util"] = util
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def write_pickle(path: Path, tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]], protocol: int = 4) -> Path:
    """A snapshot of training: discriminator, generator, its average, and settings beside."""
    with their_modules():
        easy = sys.modules["dnnlib.util"].EasyDict
        other = Recorded("Discriminator", {"_parameters": OrderedDict(weight=torch.ones(3)), "_buffers": {}, "_modules": {}})
        beside = easy(class_name="training.dataset.ImageFolderDataset", path=Path("data.zip"), resolution=np.int64(128), mean=np.ones(3))
        ema = tree(tensors, attributes)
        content = {"training_set_kwargs": beside, "D": other, "G": tree({}, {}), "G_ema": ema, "augment_pipe": None}
        path.write_bytes(pickle.dumps(content, protocol))
    return path
