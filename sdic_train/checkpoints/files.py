"""Opening weight files safely: no code runs from them, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdic_runtime.errors import CheckpointError, FileError, OutOfMemoryError
from sdic_runtime.files import open_regular, reason, replacing
from sdic_train.checkpoints.limits import check_announced

GIVE = "give an SDIC, e4e or rosinality StyleGAN2 checkpoint"
ZIP_MAGIC, PICKLE_MAGIC = b"PK", b"\x80"


def load_container(path: Path) -> dict[str, Any]:
    """The dictionary that `torch.save` wrote, on the CPU; the tensors of current files stay mapped from disk."""
    start = _first_bytes(path)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f'"{path}" is a web page and not a checkpoint, so the download failed; download it again')
    if not start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        raise CheckpointError(f'"{path}" is no PyTorch file (it starts with {start[:8]!r}); give a checkpoint written by torch.save')
    announced = unusable(path)
    if announced:
        raise CheckpointError(f'"{path}" is not read: {announced}; get the file again from where it was published')
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            container = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP_MAGIC) or None)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+)", str(error))
        what = f' "{wanted.group(1)}"' if wanted else ""
        raise CheckpointError(
            f'"{path}" is a pickle that asks to run code{what}, which is refused; '
            "give a file of weights alone (convert NVIDIA .pkl files to the rosinality layout first)"
        ) from error
    except MemoryError as error:
        raise OutOfMemoryError(f'not enough memory to read "{path}"; free some') from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise CheckpointError(f'"{path}" ({path.stat().st_size} bytes) is truncated or damaged; download it again') from error
    if not isinstance(container, dict):
        raise CheckpointError(f'"{path}" holds a {type(container).__name__} and not a checkpoint; {GIVE}')
    return container


def unusable(path: Path) -> str:
    """Why a file of torch.save is not read at all, see `limits`; "" where nothing speaks against it."""
    try:
        check_announced(path)
    except CheckpointError as error:
        return str(error)
    return ""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (mapped from disk) and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    _first_bytes(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'"{path}" is truncated or not a safetensors file; write or download it again') from error


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file whole or not at all. Raises FileError."""
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write "{path}" ({error.strerror}); choose a folder with write permission') from error
    with replacing(path) as temporary:
        mode = temporary.stat().st_mode  # `save_file` would make the file readable for its owner alone
        save_file(tensors, temporary, metadata)
        temporary.chmod(mode)


def _first_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f'there is no file "{path}"; check the path') from error
    except OSError as error:
        raise CheckpointError(f'cannot read "{path}" ({reason(error)}); give a readable checkpoint file') from error
    if not start:
        raise CheckpointError(f'"{path}" is empty (0 bytes); download it again')
    return start
