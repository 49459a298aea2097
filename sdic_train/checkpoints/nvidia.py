"""StyleGAN2 generators in the pickles of NVIDIA's PyTorch repositories (stylegan2-ada-pytorch, stylegan3), under the rosinality names.

Such a pickle holds whole objects and the source of their classes. Here nothing of it runs: every name is answered by a stand-in
(`stand_ins`), tensors stay bytes until they are asked for, and of the objects only names, numbers and tensors are read.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import torch
from torch import Tensor

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.stand_ins import (
    RUNS,
    TENSORFLOW,
    TORCH_READS,
    Call,
    Damaged,
    Held,
    Persistent,
    Refused,
    Skipped,
    current_name,
    stand_in,
)
from sdic_train.networks.layers import blur_kernel

MOST_OPERATIONS = 5_000_000  # of a pickle; a generator's and discriminator's have some ten thousand
MOST_TENSORS = 10_000
DEEPEST = 6  # modules inside modules; StyleGAN2 has four
# What no pickle of weights has: objects elsewhere, registered codes, classes by the oldest way.
FOREIGN = ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER")
EMA, MAIN = "G_ema", "G"
CONVERT = (
    "holds networks of NVIDIA's TensorFlow code, which is not read here; convert it with legacy.py of NVlabs/stylegan2-ada-pytorch "
    "(--source, --dest) and give the .pkl that this writes, or give the same generator as a .pt in the rosinality layout"
)
RATE = 0.01  # of the mapping network's learning rate, which scales its weights


@dataclass(frozen=True)
class _Stored:
    """The bytes of a storage as torch.save wrote them."""

    content: bytes


@dataclass(frozen=True)
class _Unread:
    """A tensor in a pickle: where it lies in its storage."""

    storage: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor. Raises Damaged where it is not within its storage."""
        if not isinstance(self.storage, _Stored):
            raise Damaged("a tensor without a storage")
        storage = torch.load(io.BytesIO(self.storage.content), map_location="cpu", weights_only=True)
        flat = torch.empty(0, dtype=storage.dtype).set_(storage)
        numbers = (self.offset, *self.size, *self.stride)
        if not all(type(number) is int and number >= 0 for number in numbers) or len(self.size) != len(self.stride):
            raise Damaged(f"a tensor of size {self.size} and stride {self.stride}")
        count = 1
        for number in self.size:
            count *= number
        last = self.offset + sum((number - 1) * stride for number, stride in zip(self.size, self.stride, strict=True))
        if count and (last >= len(flat) or count > len(flat)):
            raise Damaged(f"a tensor of {count} elements in a storage of {len(flat)}")
        return flat.as_strided(self.size, self.stride, self.offset)


def _unread(storage: Any = None, offset: Any = 0, size: Any = (), stride: Any = (), *_: Any) -> _Unread:
    return _Unread(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any = None, *_: Any) -> Any:
    return data


def _stored(content: Any = b"") -> _Stored:
    return _Stored(bytes(content) if isinstance(content, bytes | bytearray) else b"")


def _encoded(text: Any = "", encoding: Any = "") -> bytes:
    """Bytes in the pickles of Python 2."""
    return text.encode("latin-1") if isinstance(text, str) and encoding == "latin1" else b""


HELD = (*TORCH_READS, "argparse.Namespace")
TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _unread,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _stored,
    "_codecs.encode": _encoded,
}


class _Unpickler(pickle.Unpickler):
    """Answers every name with a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        module, name = current_name(module, name)
        full = f"{module}.{name}"
        found = TENSORS.get(full) or (Held if full in HELD else stand_in(module, name, Held))
        return Held if found is Skipped else found if isinstance(found, type) else Call(found)


def read_pickle(path: Path) -> dict[str, Any]:
    """The container of a plain pickle: that of a generator (`container_of`) or a dictionary of tensors. Raises CheckpointError."""
    try:
        with path.open("rb") as stream:
            _check(stream, path.stat().st_size)
        with path.open("rb") as stream:
            found = _Unpickler(stream).load()
        return container_of(path, found)
    except Refused as error:
        raise CheckpointError(f'"{path}" {CONVERT if error.name.startswith(TENSORFLOW) else RUNS.format(error.name)}') from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile or damaged stream provokes; no code of it has run
        raise CheckpointError(f'"{path}" is a damaged pickle ({error}); download it again') from error


class _Within:
    """A stream that reads no more than it has, whatever length a pickle declares."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        if count > self.size - self.stream.tell():
            raise Damaged("it ends early")
        return self.stream.read(count)


def _check(stream: IO[bytes], size: int) -> None:
    """Go through the operations once: every declared length is there, and memory is asked for no faster than the file is long."""
    puts = 0
    for index, (operation, argument, _) in enumerate(pickletools.genops(_Within(stream, size))):  # type: ignore[arg-type]
        if index > MOST_OPERATIONS:
            raise Damaged("it has too many operations")
        if operation.name in FOREIGN:
            raise Damaged(f"it uses {operation.name}")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            puts += 1
            if int(argument or 0) > 2 * puts + 64:
                raise Damaged("it numbers its objects far beyond their count")


def container_of(path: Path, found: Any) -> dict[str, Any]:
    """What a pickle held: a generator as {"g_ema", "latent_avg", "opts"}, or its dictionary of tensors. Raises CheckpointError."""
    generator = found
    if isinstance(found, Mapping):
        generator = found.get(EMA) if found.get(EMA) is not None else found.get(MAIN)
    if isinstance(generator, Persistent):
        return _generator(path, generator)
    if isinstance(found, Mapping) and found:
        return {str(name): _resolved(value) for name, value in found.items()}
    what = "an object of a program" if not isinstance(found, Mapping) else "nothing"
    raise CheckpointError(f'"{path}" is a pickle that holds {what} and no weights; give a file that torch.save wrote of a state_dict')


def _resolved(value: Any) -> Any:
    if isinstance(value, _Unread):
        return value.read()
    return {name: _resolved(entry) for name, entry in value.items()} if isinstance(value, dict) else value


# NVIDIA's name behind the layer -> ours, and the shape that is added in front and behind.
Change: TypeAlias = tuple[str, Callable[[Tensor], Tensor]]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _one_more(tensor: Tensor) -> Tensor:
    return tensor[None]


MODULATED: dict[str, Change] = {
    "weight": ("conv.weight", _one_more),
    "affine.weight": ("conv.modulation.weight", _same),
    "affine.bias": ("conv.modulation.bias", _same),
}
LAYER: dict[str, Change] = MODULATED | {
    "noise_strength": ("noise.weight", lambda tensor: tensor.reshape(1)),
    "bias": ("activate.bias", _same),
}
RGB: dict[str, Change] = MODULATED | {"bias": ("bias", lambda tensor: tensor.reshape(1, -1, 1, 1))}
BLOCK = re.compile(r"synthesis\.b(\d+)\.(const|conv0|conv1|torgb)(?:\.(.+))?")
MAPPING = re.compile(r"mapping\.fc(\d+)\.(weight|bias)")
STYLEGAN3 = ("synthesis.input.freqs", "synthesis.input.affine.weight")


def _generator(path: Path, generator: Persistent) -> dict[str, Any]:
    """{"g_ema": weights under the rosinality names, "latent_avg": [C], "opts"}."""
    tensors: dict[str, Any] = {}
    settings: list[tuple[str, Mapping[str, Any]]] = []
    for name, module in _modules(generator):
        settings.append((name, module))
        for part in ("_parameters", "_buffers"):
            held = module.get(part)
            for leaf, value in held.items() if isinstance(held, Mapping) else ():
                if value is not None:
                    tensors[f"{name}{leaf}"] = value
        if len(tensors) > MOST_TENSORS:
            raise Damaged("it has too many tensors")
    _check_kind(path, generator, tensors, settings)
    state, average, unknown = {}, None, []
    for name, value in tensors.items():
        if name == "mapping.w_avg":
            average = _tensor(value)
        elif name.endswith("resample_filter"):
            if not torch.allclose(_tensor(value).float(), blur_kernel() / 4, atol=1e-6):
                raise CheckpointError(f'"{path}" has another filter than [1, 3, 3, 1] ("{name}"); this generator cannot be used')
        elif (found := _renamed(name)) is None:
            unknown.append(name)
        else:
            state[found[0]] = found[1](_tensor(value))
    if unknown:
        raise CheckpointError(f'"{path}" holds a {generator.class_name} of another kind than StyleGAN2 with skips ({unknown[0]})')
    clamps = {value for _, module in settings if (value := module.get("conv_clamp")) is not None}
    options = {"conv_clamp": max(clamps)} if clamps else {}
    return {"g_ema": state, "opts": options} | ({} if average is None else {"latent_avg": average})


def _tensor(value: Any) -> Tensor:
    tensor = value.read() if isinstance(value, _Unread) else value
    if not isinstance(tensor, Tensor):
        raise Damaged(f"a {type(value).__name__} where a tensor is expected")
    return tensor.detach()


def _modules(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every module with its prefix and its attributes."""
    attributes = module.state if isinstance(module, Persistent) else getattr(module, "__dict__", {})
    if depth > DEEPEST:
        raise Damaged("its modules lie too deep in each other")
    yield prefix, attributes
    children = attributes.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if child is not None:
            yield from _modules(child, f"{prefix}{name}.", depth + 1)


def _renamed(name: str) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """Our name of NVIDIA's tensor `name`, and what makes ours of it."""
    if found := MAPPING.fullmatch(name):
        return f"style.{int(found[1]) + 1}.{found[2]}", _same
    found = BLOCK.fullmatch(name)
    if found is None:
        return None
    size, part, leaf = int(found[1]), found[2], found[3]
    block = size.bit_length() - 4  # 8 -> 0
    if size != 1 << (size.bit_length() - 1) or size < 4 or (size == 4 and part == "conv0"):
        return None
    if part == "const":
        return ("input.input", _one_more) if size == 4 and leaf is None else None
    if part == "torgb":
        layer, table = ("to_rgb1" if size == 4 else f"to_rgbs.{block}"), RGB
    else:
        number = 2 * block + int(part[-1])
        layer, table = ("conv1" if size == 4 else f"convs.{number}"), LAYER
        if leaf == "noise_const":
            return f"noises.noise_{0 if size == 4 else number + 1}", lambda tensor: tensor[None, None]
    if leaf not in table:
        return None
    ours, change = table[leaf]
    return f"{layer}.{ours}", change


# Attribute -> what it must be, where it is recorded; and what it means if it is not.
NEEDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "c_dim": (lambda value: value == 0, "a generator for labelled classes (c_dim {}), which cannot be used"),
    "img_channels": (lambda value: value == 3, "a generator of pictures with {} channels; only RGB ones can be used"),
    "architecture": (lambda value: value == "skip", 'a generator of the architecture "{}"; only "skip" can be used'),
    "use_noise": (lambda value: bool(value), "a generator without noise maps (use_noise {}), which cannot be used"),
    "lr_multiplier": (lambda value: abs(value - RATE) < 1e-6, "a mapping network with the rate {}; only 0.01 can be used"),
}


def _check_kind(path: Path, generator: Persistent, tensors: Mapping[str, Any], settings: list[tuple[str, Mapping[str, Any]]]) -> None:
    name = generator.class_name or "network"
    if any(mark in tensors for mark in STYLEGAN3) or any(key.startswith("synthesis.L0_") for key in tensors):
        raise CheckpointError(f'"{path}" holds a StyleGAN3 generator, which no method here uses; give a StyleGAN2 one')
    if "synthesis.b4.const" not in tensors:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise CheckpointError(f'"{path}" holds a {name} that is no StyleGAN2 generator (first names: {some}); give a StyleGAN2 one')
    for place, attributes in settings:
        for key, (fits, sentence) in NEEDED.items():
            value = attributes.get(key)
            if value is not None and not fits(value):
                raise CheckpointError(f'"{path}" holds {sentence.format(value)}')
        gain = attributes.get("bias_gain")
        if re.fullmatch(r"mapping\.fc\d+\.", place) and isinstance(gain, float) and abs(gain - RATE) > 1e-6:
            raise CheckpointError(f'"{path}" holds {NEEDED["lr_multiplier"][1].format(gain)}')
    widths = {key: attributes.get(key) for place, attributes in settings if not place for key in ("z_dim", "w_dim")}
    if widths.get("z_dim") is not None and widths["z_dim"] != widths.get("w_dim"):
        raise CheckpointError(f'"{path}" has z {widths["z_dim"]} and w {widths["w_dim"]} wide; only equal widths can be used')
