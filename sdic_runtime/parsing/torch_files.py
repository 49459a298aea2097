"""Plain tensors out of a file that `torch.save` wrote, without PyTorch.

Nothing of the file runs: its pickle may name tensors and dictionaries of them, and all else is refused.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdic_runtime.errors import FileError
from sdic_runtime.files import PIECE, open_regular

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_NAME, DATA_FOLDER, ORDER_NAME = "data.pkl", "data", "byteorder"
LARGEST_PICKLE = 1 << 20  # bytes of the pickle, which holds no numbers
LARGEST_TENSORS = 256 << 20  # bytes of all numbers
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # forms of packing that are unpacked piece by piece
TYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2",
    "CharStorage": "i1", "ByteStorage": "u1",
}  # fmt: skip


def read_torch(path: Path) -> Any:
    """What the file holds: a numpy array for every tensor, in lists, tuples and dictionaries as it was saved.

    Raises OSError, and FileError for a file of another form (that of PyTorch before 1.6 among them), with anything but tensors in it, or
    damaged.
    """
    with open_regular(path) as stream:
        if stream.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise FileError("it is not in the form that torch.save writes since PyTorch 1.6")
    try:
        with zipfile.ZipFile(path) as archive:
            folder = next((name.rpartition(PICKLE_NAME)[0] for name in archive.namelist() if name.endswith(f"/{PICKLE_NAME}")), None)
            if folder is None:
                raise FileError("it is a zip file without tensors")
            if sum(item.file_size for item in archive.infolist()) > LARGEST_TENSORS:
                raise FileError(f"it holds more than {LARGEST_TENSORS >> 20} MB; a direction is smaller")
            if archive.getinfo(folder + PICKLE_NAME).file_size > LARGEST_PICKLE:
                raise FileError("it holds more than tensors")
            return _Unpickler(archive, folder).load()
    except (FileError, OSError):
        raise
    except MemoryError as error:
        raise FileError("there is not enough memory for its tensors") from error
    except Exception as error:  # a damaged file fails in as many ways as a pickle and an archive have parts
        raise FileError(f"it is truncated or damaged ({error})") from error


def part_of(archive: zipfile.ZipFile, name: str) -> bytearray:
    """A file of an archive: never more bytes than the archive says that it has, which `ZipFile.read` would unpack before it compares.
    Raises FileError, or what zipfile raises."""
    entry = archive.getinfo(name)
    check_packing(entry)
    content, filled = bytearray(entry.file_size), 0
    with archive.open(entry) as stream:
        while piece := stream.read(min(PIECE, len(content) - filled)):
            content[filled : filled + len(piece)] = piece
            filled += len(piece)
    if filled < len(content):
        raise EOFError(f"{name} ends early")
    return content


def check_packing(entry: zipfile.ZipInfo) -> None:
    """Raise FileError where a file of an archive is packed in a form that is only unpacked as a whole, however large."""
    if entry.compress_type not in BOUNDED:
        raise FileError(f"{entry.filename} is packed in the form {entry.compress_type} of zip files, and only 0 and 8 are read")


def _refuse(_: pickle.Unpickler) -> None:
    raise FileError("it is not a file of tensors alone")


class _Unpickler(pickle._Unpickler):  # in Python: its memo is a dictionary that no index blows up
    """Knows tensors on their storages, and nothing that does anything."""

    # A bytearray takes its memory before its bytes are looked for.
    dispatch: ClassVar[dict[int, Callable[[pickle.Unpickler], None]]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse}

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(BytesIO(part_of(archive, folder + PICKLE_NAME)))
        self._archive, self._folder = archive, folder
        little = f"{folder}{ORDER_NAME}" not in archive.namelist() or part_of(archive, folder + ORDER_NAME).strip() == b"little"
        self._order = "<" if little else ">"
        self._storages: dict[str, bytearray] = {}
        self._stored, self._made = 0, 0  # bytes of storages, and of tensors

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): lambda: OrderedDict(),  # no copies of what a pickle names again and again
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if module == "torch" and name in TYPES:
            return TYPES[name]
        if (module, name) not in known:
            raise FileError(f'it is not a file of tensors alone: it names "{module}.{name}"')
        return known[module, name]

    def persistent_load(self, reference: Any) -> np.ndarray:
        kind, number_type, key, *_ = reference
        if kind != "storage" or number_type not in TYPES.values() or not str(key).isalnum():
            raise FileError("it is not a file of tensors alone")
        return np.frombuffer(self._storage(f"{self._folder}{DATA_FOLDER}/{key}"), np.dtype(self._order + number_type))

    def _storage(self, name: str) -> bytearray:
        """The bytes of a storage, which many tensors may share; unpacked once, and counted before."""
        if name not in self._storages:
            self._stored += self._archive.getinfo(name).file_size
            if self._stored > LARGEST_TENSORS:
                raise FileError(f"its storages have more than {LARGEST_TENSORS >> 20} MB; a direction is smaller")
            self._storages[name] = part_of(self._archive, name)
        return self._storages[name]

    def _tensor(self, storage: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
        valid = len(shape) == len(strides) and min((start, *shape, *strides)) >= 0
        last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if valid else -1
        self._made += math.prod(shape) * storage.itemsize
        if not valid or (0 not in shape and last >= len(storage)) or self._made > LARGEST_TENSORS:
            raise FileError("it is damaged: a tensor is larger than its numbers")
        steps = [stride * storage.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(storage[start:], shape, steps, writeable=False)
        return view.astype(storage.dtype.newbyteorder("="))
