"""Small models of the methods with random weights, and their checkpoints in the released containers with the released names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from sdic_train.checkpoints.recognise import KINDS, PREFIXES, SFE_PREFIXES
from sdic_train.config import TINY, DiscrepancyConfig, EncoderConfig, ModelConfig
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.hfgi.consultation import HFGISizes
from sdic_train.networks.hfgi.model import HFGI
from sdic_train.networks.restyle import ReStyle
from sdic_train.networks.sfe.backbone import SFESizes
from sdic_train.networks.sfe.model import SFE, SFEInverter
from sdic_train.networks.stylegan2 import ToRGB

# The working size of a released model is 256, and of a smaller generator its picture's.
ENCODER = replace(TINY.encoder, widths=(4, 6, 8, 16))
SMALL = replace(TINY, encoder=ENCODER, working=128, discrepancy=DiscrepancyConfig(), domain="faces")
LARGER = replace(SMALL, resolution=256, working=256, channels={**SMALL.channels, 256: 4})
PSP = replace(SMALL, encoder=replace(ENCODER, form="psp"))
RESTYLE = {form: replace(SMALL, encoder=replace(ENCODER, form=form, inputs=6, pyramid=False)) for form in ("psp", "e4e")}
SFE_SIZES = SFESizes(widths=(4, 6, 8, 10), units=(2, 1, 2, 1), body=2)
HFGI_SIZES = HFGISizes(aligner=(4, 6, 8, 10), ascent=(9, 7, 5), consultation=(4, 6, 8))


def _hfgi() -> HFGI:
    return HFGI(LARGER, HFGI_SIZES)


Small: TypeAlias = Encoded | SFEInverter
BUILDERS: Mapping[str, Callable[[], Small]] = {  # method -> its small model
    "e4e": lambda: Encoded(SMALL),
    "psp": lambda: Encoded(PSP),
    "restyle-psp": lambda: ReStyle(RESTYLE["psp"]),
    "restyle-e4e": lambda: ReStyle(RESTYLE["e4e"]),
    "hfgi": _hfgi,
    "sfe": lambda: SFE(LARGER, SFE_SIZES),
    "sfe-inverter": lambda: SFEInverter(replace(LARGER, encoder=EncoderConfig()), SFE_SIZES),  # without an e4e
}
Network = TypeVar("Network", bound=nn.Module)
KIND = {kind.method: name for name, kind in KINDS.items()}


def small_model(method: str, seed: int = 5) -> Small:
    """In evaluation mode, with batch norms that change something, and pictures that mostly stay within [-1, 1]."""
    torch.manual_seed(seed)
    model = randomized(BUILDERS[method]().eval().requires_grad_(False))
    for part in model.modules():
        if isinstance(part, ToRGB):
            part.conv.weight.data *= 0.2
    for name, weight in model.named_parameters():
        if name.endswith(".noise.weight"):
            weight.data.normal_(0, 0.1)
        elif name.startswith(("encoder.styles.", "inverter.fs_backbone.styles.")) and name.endswith(".weight"):
            weight.data *= 3  # so that the code depends on the picture
    model.latent_avg.normal_(0, 0.5)
    if isinstance(model, ReStyle):
        model.prepare()
    return model


def randomized(module: Network) -> Network:
    """With batch norms that change something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.7, 1.3)
            part.weight.data.uniform_(0.8, 1.2)
            part.bias.data.normal_(0, 0.1)
    return module


def small_container(method: str, model: Small, **changes: Any) -> dict[str, Any]:
    """What `torch.save` wrote in the release."""
    marks = {"sfe": "inverter.fs_backbone.", "sfe-inverter": "encoder.fs_backbone."}
    prefixes = SFE_PREFIXES[marks[method]] if method in marks else PREFIXES
    released = {ours: prefix for prefix, ours in prefixes.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        part, dot, rest = name.partition(".")
        if dot:
            state[released[part + dot] + rest] = tensor
    types = KINDS[KIND[method]].encoder_types or ("Encoder4Editing",)
    options = {"dataset_type": "ffhq_encode", "encoder_type": types[0], "start_from_latent_avg": True}
    return {"state_dict": state, "opts": options, "latent_avg": model.latent_avg, **changes}


def split_sfe(folder: Path, model: Small) -> tuple[Path, list[Path]]:
    """StyleFeatureEditor's light file, and the generator's and e4e's that belong to it."""
    whole = small_container("sfe", model)
    state, average = whole["state_dict"], model.latent_avg[0].clone()

    def part(prefix: str, to: str) -> dict[str, torch.Tensor]:
        return {to + name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

    model.latent_avg[:] = average  # the generator's file has one row
    light, others = folder / "light.pt", [folder / "generator.pt", folder / "e4e.pt"]
    torch.save({"state_dict": part("encoder.", "encoder.") | part("inverter.", "inverter.")}, light)
    torch.save({"g_ema": part("decoder.", ""), "latent_avg": average}, others[0])
    encoder = part("e4e_encoder.", "encoder.") | part("decoder.", "decoder.")
    torch.save({"state_dict": encoder, "opts": {"encoder_type": "Encoder4Editing"}, "latent_avg": model.latent_avg + 1}, others[1])
    return light, others


def write_small(path: Path, method: str, model: Small | None = None, **changes: Any) -> Path:
    torch.save(small_container(method, model or small_model(method), **changes), path)
    return path


def small_images(config: ModelConfig, count: int = 2) -> torch.Tensor:
    """Smooth pictures [count, 3, S, S] in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return nn.functional.interpolate(coarse, size=(config.working, config.working), mode="bicubic").clamp(-1, 1)
