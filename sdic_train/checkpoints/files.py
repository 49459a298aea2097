"""Opening weight files safely: no code runs from them, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdic_runtime.errors import CheckpointError, FileError, OutOfMemoryError
from sdic_runtime.files import reason, replacing, sort_metadata
from sdic_runtime.parsing.contents import PICKLE, SAFETENSORS, TORCH, content_of
from sdic_runtime.parsing.json_text import JsonError, parse_json
from sdic_train.checkpoints.limits import check_announced
from sdic_train.checkpoints.stand_ins import RUNS, Emptied, Refused, Skipped, for_torch, names_in, persistent

STATE_DICT = "write its weights alone, with torch.save(model.state_dict(), FILE)"
GIVE = "give an SDIC, e4e or rosinality StyleGAN2 checkpoint"
# Parts of names that DistributedDataParallel, torch.compile, Lightning and DeepSpeed, FSDP and checkpointed activations put in.
WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
WHOLE_WRAPPERS = ("model.", "net.")  # and what a program's own class puts in front of every name
CONTAINERS = ("state_dict.", "g_ema.")  # dictionaries that a conversion to safetensors has flattened


def load_container(path: Path) -> dict[str, Any]:
    """The dictionary of a file of weights, on the CPU: what `torch.save` wrote, the entries of a safetensors file, or a pickle's generator.

    The tensors of current files stay mapped from disk. No code of a file runs. Raises CheckpointError, for one for anything that is no
    file of weights.
    """
    form = weight_form(path)
    if form == SAFETENSORS:
        tensors, metadata = read_safetensors(path)
        return flattened(tensors) | {"opts": recorded_options(metadata)}
    if announced := unusable(path):
        raise CheckpointError(f'"{path}" is not read: {announced}; get the file again from where it was published')
    if form == PICKLE:
        from sdic_train.checkpoints.nvidia import read_pickle

        return read_pickle(path)
    container = _load_torch(path, form)
    if persistent(container):
        from sdic_train.checkpoints.nvidia import container_of

        return container_of(path, container)
    if isinstance(container, OrderedDict) and not container and vars(container):
        raise CheckpointError(f'"{path}" holds a whole model as an object of its program; {STATE_DICT}')
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


def weight_form(path: Path) -> str:
    """What kind of file of weights it is, see `sdic_runtime.parsing.contents`. Raises CheckpointError for any other file."""
    try:
        content = content_of(path)
    except FileNotFoundError as error:
        raise CheckpointError(f'there is no file "{path}"; check the path') from error
    except OSError as error:
        raise CheckpointError(f'cannot read "{path}" ({reason(error)}); give a readable checkpoint file') from error
    if content.wrong:
        raise CheckpointError(f'"{path}" {content.wrong}')
    return content.form


def _load_torch(path: Path, form: str) -> Any:
    try:
        names = names_in(path)
        for otherwise in (Skipped, Emptied):  # objects that take entries; objects with a state of any form
            try:
                with torch.serialization.safe_globals(for_torch(names, otherwise)):
                    if path.suffix == ".safetensors":  # which torch.load would take for one by its name
                        with path.open("rb") as stream:
                            return torch.load(stream, map_location="cpu", weights_only=True)
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=form == TORCH or None)
            except (pickle.UnpicklingError, TypeError, ValueError):
                if otherwise is Emptied:
                    raise
    except Refused as error:
        raise CheckpointError(f'"{path}" {RUNS.format(error.name)}') from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'"{path}" holds objects that are not read here; {STATE_DICT}') from error
    except MemoryError as error:
        raise OutOfMemoryError(f'not enough memory to read "{path}"; free some') from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise CheckpointError(f'"{path}" ({path.stat().st_size} bytes) is truncated or damaged; download it again') from error


def unwrapped(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` under the names of its networks alone, without what wrappers put into them. Raises CheckpointError."""
    names = {name: ".".join(part for part in str(name).split(".") if part not in WRAPPERS) for name in state}
    while prefix := next((prefix for prefix in WHOLE_WRAPPERS if names and all(ours.startswith(prefix) for ours in names.values())), ""):
        names = {name: ours.removeprefix(prefix) for name, ours in names.items()}
    found = {ours: state[name] for name, ours in names.items()}
    if len(found) < len(names):
        twice = next(ours for ours, count in Counter(names.values()).items() if count > 1)
        raise CheckpointError(f'"{path}" has the weight "{twice}" twice, with and without a wrapper; save one model alone')
    return found


def flattened(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The container whose dictionaries a conversion has flattened into names: {"state_dict.a": x} -> {"state_dict": {"a": x}}."""
    container: dict[str, Any] = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in CONTAINERS if name.startswith(prefix)), "")
        if prefix:
            container.setdefault(prefix.removesuffix("."), {})[name.removeprefix(prefix)] = tensor
        else:
            container[name] = tensor
    return container


def recorded_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The training options in the metadata of a safetensors file: as JSON under "opts", or each under its own name."""
    try:
        found = parse_json(metadata.get("opts", "{}"))
    except JsonError:
        found = {}
    return {**metadata, **(found if isinstance(found, dict) else {})}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (mapped from disk) and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if weight_form(path) != SAFETENSORS:
        raise CheckpointError(f'"{path}" is not a safetensors file; write or download it again')
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'"{path}" is truncated or not a safetensors file; write or download it again') from error


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file whole or not at all. Raises FileError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write "{path}" ({error.strerror}); choose a folder with write permission') from error
    with replacing(path) as temporary:
        mode = temporary.stat().st_mode  # `save_file` would make the file readable for its owner alone
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from None  # a full disk
        sort_metadata(temporary)
        temporary.chmod(mode)
