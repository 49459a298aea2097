"""What a file is by its first bytes and its structure, whatever its name: the one place that knows what is given in place of weights."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from sdic_runtime.files import open_regular
from sdic_runtime.parsing.json_text import LARGEST, JsonError, convert, parse_json

TORCH, TORCH_OLD, PICKLE, SAFETENSORS, OTHER = "torch", "torch-old", "pickle", "safetensors", "other"
READ = 4096  # bytes that tell nearly every kind
QUOTA_WITHIN = 200_000  # bytes of a page in which Google Drive speaks of its quota
METADATA = "__metadata__"  # of a safetensors header
OLD_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # behind the protocol: the number with which torch.save began before PyTorch 1.6
WEIGHT_SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt", ".safetensors", ".bin", ".tar", ".dat")
SHOWN = 3  # names of an archive


@dataclass(frozen=True)
class Content:
    """What a file is.

    `form`: one of TORCH, TORCH_OLD, PICKLE and SAFETENSORS, which may hold weights, or OTHER. `wrong`: why it cannot be weights and what to
    do, as the end of a sentence that begins with the file's name ("is a web page, ..."); None where nothing speaks against it.
    `broken`: whether it is of no use to anyone, and not only no weights (a picture, say).
    """

    form: str
    wrong: str | None = None
    broken: bool = True


@dataclass(frozen=True)
class Sign:
    """How a kind of file begins, and what is said of it."""

    starts: tuple[bytes, ...]
    wrong: str
    offset: int = 0
    broken: bool = True


PAGE = "is a web page, not weights; open the link in a browser and save the file from there, or download it again later"
QUOTA = (
    "is a web page, not weights: it speaks of a download quota; the place has reached its limit for today, so try again tomorrow, or open "
    "the link in a browser that is signed in there"
)
UNPACK = "is a compressed archive, not weights; unpack it and give the file that lies in it"
PICTURE = "is a picture, not weights"
NOT_HERE = "; get the file itself"
SIGNS = (
    Sign((b"version https://git-lfs",), "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    Sign((b"/annex/objects/", b"../.git/annex"), f"is a git-annex pointer, not the file itself{NOT_HERE} with git annex get"),
    Sign((b"outs:\n- ", b"md5: "), f"is a DVC pointer, not the file itself{NOT_HERE} with dvc pull"),
    Sign((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd"), UNPACK, broken=False),
    Sign((b"ustar",), UNPACK, offset=257, broken=False),
    Sign((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM6"), PICTURE, broken=False),
    Sign((b"WEBP",), PICTURE, offset=8, broken=False),
    Sign((b"ftyp",), "is a video or a HEIC picture, not weights", offset=4, broken=False),
    Sign((b"\x93NUMPY",), "is a NumPy array, not a model", broken=False),
    Sign((b"\x89HDF",), "is an HDF5 file of Keras or TensorFlow, which is not read here; convert it to PyTorch first", broken=False),
    Sign((b"GGUF", b"ggml"), "holds a language model's weights (GGUF), which is no model of pictures; give the PyTorch file", broken=False),
    Sign((b"TFL3",), "is a TensorFlow Lite model, which has no weights to build from; give the PyTorch file", offset=4, broken=False),
    Sign((b"%PDF",), "is a PDF, not weights"),
    Sign(
        (b"{", b"["), "is a text (JSON), not weights: the answer of a service that did not send the file; download it again", broken=False
    ),
)
HTML_SIGNS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


def content_of(path: str | os.PathLike[str]) -> Content:
    """What the file at `path` is. Raises OSError where it cannot be read."""
    path = Path(path)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(READ)
    if size == 0:
        return Content(OTHER, "is empty (0 bytes); download it again")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_SIGNS):
        return Content(OTHER, _page(path))
    if start.startswith(b"PK\x03\x04"):
        return _archive(path, size)
    header, announced = safetensors_header(path, size)
    if header is not None:
        if announced > size:
            cut = f"has {size:,} bytes where its header announces {announced:,}: it was cut off, so write or download it again"
            return Content(SAFETENSORS, cut)
        return Content(SAFETENSORS)
    if start[:1] == b"\x80":
        return Content(TORCH_OLD if start[2:].startswith(OLD_MAGIC) else PICKLE)
    if path.suffix.lower() == ".safetensors":
        return Content(OTHER, "is truncated or not a safetensors file: its header cannot be read; write or download it again")
    for sign in SIGNS:
        if start[sign.offset :].startswith(sign.starts):
            return Content(OTHER, sign.wrong, sign.broken)
    if path.suffix.lower() == ".onnx":
        return Content(OTHER, "is an ONNX graph, from which nothing can be built; give the PyTorch file that it was made of", broken=False)
    return Content(OTHER, f"is neither a PyTorch file nor safetensors (it starts with {start[:8]!r}); give a checkpoint", broken=False)


class TensorEntry(msgspec.Struct):
    """What the header of a safetensors file says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def safetensors_header(path: Path, size: int) -> tuple[dict[str, Any] | None, int]:
    """The header of a safetensors file, None when there is none that fits into the file; and how many bytes the file should have."""
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        start = stream.read(1)
        text = start + stream.read(length - 1) if start == b"{" and 2 <= length <= min(size - 8, LARGEST) else b""
    try:
        header = parse_json(text, dict[str, Any])
        convert(header.get(METADATA, {}), dict[str, str])
        entries = convert({name: entry for name, entry in header.items() if name != METADATA}, dict[str, TensorEntry])
    except JsonError:
        return None, size
    return header, 8 + length + max((entry.data_offsets[1] for entry in entries.values()), default=0)


def _page(path: Path) -> str:
    with open_regular(path) as stream:
        return QUOTA if b"quota" in stream.read(QUOTA_WITHIN).lower() else PAGE


# What the names in a zip archive say: (whether it is of this kind, what is said of it); the first that fits counts.
Names = Sequence[PurePosixPath]


def _weights_inside(names: Names) -> list[str]:
    return [str(name) for name in names if name.suffix.lower() in WEIGHT_SUFFIXES]


def _is_torchscript(names: Names) -> bool:
    return any(name.name == "constants.pkl" for name in names) and any("code" in name.parts[:2] for name in names)


SCRIPT = (
    "is a TorchScript program, which is not run here; give the file of weights that it was made of (torch.save of the state_dict), not "
    "what torch.jit.save wrote"
)
ARCHIVES: tuple[tuple[Callable[[Names], bool], str], ...] = (
    (_is_torchscript, SCRIPT),
    (lambda names: all(name.suffix == ".npy" for name in names), "is a NumPy archive of arrays, not a model"),
    (lambda names: bool(_weights_inside(names)), "is a zip archive with {inside} in it, not weights itself; unpack it and give that file"),
    (lambda names: True, "is a zip archive without weights ({listed}); give a file that torch.save wrote"),
)


def _archive(path: Path, size: int) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        cut = f"ends early after {size:,} bytes: the download was cut off, so download it again"
        return Content(OTHER, cut)
    if any(name.name == "data.pkl" and len(name.parts) == 2 for name in names) and not _is_torchscript(names):
        return Content(TORCH)
    wrong = next(text for fits, text in ARCHIVES if fits(names))
    inside = _weights_inside(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = (", ".join(map(str, names[:SHOWN])) + more) or "it is empty"
    several = f'"{inside[0]}"' + (f" and {len(inside) - 1} more" if len(inside) > 1 else "") if inside else ""
    return Content(OTHER, wrong.format(inside=several, listed=listed), broken=bool(inside) or _is_torchscript(names))
