"""Opens the networks that judge pictures from the files a user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from sdic_runtime.errors import CheckpointError
from sdic_runtime.parsing.contents import SAFETENSORS
from sdic_train.checkpoints.files import read_safetensors, weight_form
from sdic_train.losses.identity import load_identity
from sdic_train.losses.lpips import load_lpips
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader


def perceptual_network(path: Path | None) -> nn.Module | None:
    """LPIPS from "alexnet.pth,lpips.pth", the portraits' own distance from a reader's .safetensors, or None."""
    return _opened(path, PortraitPerceptual, load_lpips)


def identity_network(path: Path | None) -> nn.Module | None:
    """The identity loss of an IR-SE-50, IR-101 or MoCo checkpoint, the portraits' own from a reader's .safetensors, or None."""
    return _opened(path, PortraitIdentity, load_identity)


def _opened(path: Path | None, of_reader: Callable[[PortraitReader], nn.Module], load: Callable[[Path], nn.Module]) -> nn.Module | None:
    if path is None:
        return None
    return of_reader(open_reader(path)) if _is_reader(path) else load(path)


def _is_reader(path: Path) -> bool:
    """Whether the file is a portrait reader; `path` may also be two names with a comma between."""
    return path.is_file() and weight_form(path) == SAFETENSORS and read_safetensors(path)[1].get("format") == READER_FORMAT


def open_reader(path: Path) -> PortraitReader:
    """The portrait reader that `sdic-train reader` saved."""
    state, metadata = read_safetensors(path)
    if metadata.get("format") != READER_FORMAT:
        raise CheckpointError(f"{path} is not a portrait reader; make one with `sdic-train reader`")
    reader = PortraitReader()
    reader.load_state_dict(dict(state))
    return reader.eval()
