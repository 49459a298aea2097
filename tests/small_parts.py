"""Small models of the methods whose model is in several files, and these files in the released containers with the released names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small_methods import LARGER, PREFIXES
from torch import nn

from sdic_train.config import ModelConfig
from sdic_train.networks.clcae.attention import OneKey
from sdic_train.networks.clcae.model import CLCAE, CLCAEConfig
from sdic_train.networks.fs.model import FS
from sdic_train.networks.hyperstyle.config import HyperConfig
from sdic_train.networks.hyperstyle.hypernet import SharedNetwork
from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.networks.stylegan2 import ToRGB

CHANNELS = {**LARGER.channels, 64: 16}
BASE = {item.name: getattr(LARGER, item.name) for item in fields(ModelConfig)} | {"channels": CHANNELS}
HYPER = HyperConfig(
    **BASE | {"encoder": replace(LARGER.encoder, pyramid=False, form="psp")},
    tuned=(5, 6, 8, 9, 11, 12, 14, 15, 17, 18),
    backbone=(4, 6, 8, 16),
    units=(1, 2, 1, 1),
    narrow=6,
    wide=5,
)
ATTENTIVE = CLCAEConfig(**BASE | {"encoder": replace(LARGER.encoder, form="psp")}, hidden=12)
STYLED = replace(LARGER, channels=CHANNELS, encoder=replace(LARGER.encoder, form="psp"))
BUILDERS: Mapping[str, Callable[[], Any]] = {
    "hyperstyle": lambda: HyperStyle(HYPER),
    "clcae": lambda: CLCAE(ATTENTIVE),
    "fs": lambda: FS(STYLED),
}


def small_model(method: str, seed: int = 5) -> Any:
    """In evaluation mode, with batch norms that change something, and pictures that mostly stay within [-1, 1]."""
    torch.manual_seed(seed)
    model = BUILDERS[method]().eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.7, 1.3)
            part.weight.data.uniform_(0.8, 1.2)
            part.bias.data.normal_(0, 0.1)
        elif isinstance(part, ToRGB):
            part.conv.weight.data *= 0.2
        elif isinstance(part, OneKey):
            part.in_proj_bias.data.normal_(0, 0.1)
        elif isinstance(part, SharedNetwork):
            for weight, deviation in ((part.w1, 0.05), (part.b1, 0.05), (part.w2, 0.25), (part.b2, 0.05)):
                weight.data.normal_(0, deviation)
    for name, weight in model.named_parameters():
        if name.endswith(".noise.weight"):
            weight.data.normal_(0, 0.1)
        elif re.fullmatch(r"encoder\.linear\.weight|encoder\.styles(_others)?\..*\.weight", name):
            weight.data *= 3  # so that the code depends on the picture
    model.latent_avg.normal_(0, 0.5)
    if isinstance(model, CLCAE):
        model.latent_avg[:] = model.latent_avg[:1].clone()
        model.average = average_tensor(model.config.working)
    return model


def average_picture(side: int) -> np.ndarray:
    """CLCAE's average picture: uint8 [S, S, 3]."""
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([255 * x, 255 * y, 90 + 80 * x * y], 2).astype(np.uint8)


def average_tensor(side: int) -> torch.Tensor:
    return torch.from_numpy(average_picture(side).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1))


def released(model: nn.Module, *parts: str) -> dict[str, torch.Tensor]:
    """The weights of some parts of a model (our prefixes) under the released names."""
    prefixes = {ours: prefix for prefix, ours in PREFIXES.items()}
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    return {prefixes[name.partition(".")[0] + "."] + name.partition(".")[2]: tensor for name, tensor in state.items()}


def _hyperstyle(path: Path, model: HyperStyle, **changes: Any) -> list[Path]:
    state = released(model, "generator.", "hypernet.")
    for layer in model.config.shared:  # the same tensors again, as the released file has them
        for part in ("w1", "b1", "w2", "b2"):
            state[f"hypernet.refinement_blocks.{layer}.hypernet.{part}"] = state[f"hypernet.shared_weight_hypernet.{part}"]
    options = {"dataset_type": "ffhq_hypernet", "encoder_type": "SharedWeightsHyperNetResNet", "input_nc": 6}
    torch.save({"state_dict": state, "opts": options, "latent_avg": model.latent_avg, "global_step": 0, **changes}, path)
    encoder = path.with_name("w_encoder.pt")
    content = {"state_dict": released(model, "encoder.", "generator."), "opts": {"encoder_type": "WEncoder"}, "latent_avg": torch.ones(16)}
    torch.save(content, encoder)
    return [encoder]


def _clcae(path: Path, model: CLCAE, **changes: Any) -> list[Path]:
    options = {"dataset_type": "ffhq_encode_inversion", "encoder_type": "GradualStyleEncoder", "input_nc": 3, "learn_in_w": True}
    torch.save({"state_dict": released(model, "encoder.", "generator."), "opts": options, "iter": 1.0, **changes}, path)
    generator, average = path.with_name("generator.pt"), path.with_name("image_avg.png")
    torch.save({"g_ema": model.generator.state_dict(), "latent_avg": model.latent_avg[0]}, generator)
    Image.fromarray(average_picture(model.config.working)).save(average)
    return [generator, average]


def _fs(path: Path, model: FS, **changes: Any) -> list[Path]:
    torch.save({**model.fs.state_dict(), **changes}, path)
    generator = path.with_name("psp.pt")
    options = {"dataset_type": "ffhq_encode", "output_size": model.config.resolution}
    torch.save({"state_dict": released(model, "generator."), "latent_avg": model.latent_avg, "opts": options}, generator)
    return [generator]


WRITERS: Mapping[str, Callable[..., list[Path]]] = {"hyperstyle": _hyperstyle, "clcae": _clcae, "fs": _fs}


def write_small(path: Path, method: str, model: Any = None, **changes: Any) -> list[Path]:
    """Write the checkpoint `path`; the other files of the model, which lie beside it."""
    return WRITERS[method](path, model or small_model(method), **changes)
