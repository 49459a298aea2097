"""What a PyTorch file announces, summed before anything is read into memory: archives, storages, tensors and objects.

The pickle inside is walked by an unpickler that makes nothing but stand-ins, so that no code of the file runs, whatever it names.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from sdic_runtime.errors import CheckpointError
from sdic_runtime.files import open_regular

SPARE = 256 << 20  # bytes that a file may announce beyond its own
EXPANSION = 4  # times its own bytes that a packed archive, or tensors that share values, may become
LARGEST_PICKLE = 8 << 20  # bytes of the part that names the tensors
MOST_READS = 10_000_000  # of a pickle that walks through a file by itself
# Makers of tensors that are not plain arrays of numbers: their sizes need no values behind them.
STRANGE_TENSORS = ("_rebuild_sparse", "_rebuild_nested", "_rebuild_meta", "_rebuild_wrapper", "_rebuild_device", "_rebuild_qtensor")
LONGEST_LINE = 4096  # bytes of a name
LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, the keys of its storages
# Bytes of a number; those not listed have one.
WIDTHS = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2, "ComplexFloat": 8, "ComplexDouble": 16}


def check_announced(path: Path) -> None:
    """Raise CheckpointError, in a few words for the caller's sentence, where `path`, written by torch.save, would need far more memory than
    its own size. Damaged files pass: whoever reads them says what is wrong. Raises OSError."""
    with open_regular(path) as stream:
        size = path.stat().st_size
        if zipfile.is_zipfile(stream):
            _check_archive(stream, size)
        else:
            stream.seek(0)
            _check_pickles(stream, size, LEGACY_PICKLES)


def _check_archive(stream: BinaryIO, size: int) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            _limit(sum(entry.file_size for entry in entries), size, "the parts of its archive")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    if entry.file_size > LARGEST_PICKLE:
                        raise CheckpointError(f"the list of its tensors has {entry.file_size} bytes, and the limit is {LARGEST_PICKLE}")
                    with archive.open(entry) as member:
                        _check_pickles(member, size, 1)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError):
        return  # damaged


def _check_pickles(stream: Any, size: int, count: int) -> None:
    announced = _Announced(size)
    try:
        for _ in range(count):
            _Walker(stream, announced).load()
    except CheckpointError:
        raise
    except Exception:  # damaged, or of another program: a pickle fails in as many ways as there are bytes
        return


def _limit(announced: int, size: int, what: str) -> None:
    limit = EXPANSION * size + SPARE
    if announced > limit:
        raise CheckpointError(f"{what} have {announced} bytes where the file has {size}, and the limit is {limit}")


class _Announced:
    """The sums over one file."""

    def __init__(self, size: int) -> None:
        self._size, self._tensors, self._sum = size, 0, 0
        self._storages: dict[str, int] = {}

    def storage(self, key: Any, kind: str, count: Any) -> None:
        own = (count if isinstance(count, int) else 0) * WIDTHS.get(kind.removesuffix("Storage"), 1)
        self._sum += own - self._storages.get(str(key), 0)
        self._storages[str(key)] = own
        _limit(self._sum, self._size, "its storages")

    def tensor(self, kind: str, shape: Any) -> None:
        if isinstance(shape, tuple) and all(isinstance(axis, int) for axis in shape):
            self._tensors += math.prod(shape) * WIDTHS.get(kind.removesuffix("Storage"), 1)
            _limit(self._tensors, self._size, "its tensors")


class _Counted:
    """A stream whose reads are counted: there is one or more for every step of a pickle."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._reads = stream, 0

    def read(self, size: int) -> Any:
        self._reads += 1
        if self._reads > MOST_READS:
            raise CheckpointError(f"its pickle has more than {MOST_READS} parts")
        return self._stream.read(size)

    def readline(self) -> Any:
        self._reads += 1
        return self._stream.readline(LONGEST_LINE)

    def readinto(self, buffer: Any) -> Any:
        return self._stream.readinto(buffer)


class _Storage:
    """Stands for the values behind a tensor."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Walker(pickle._Unpickler):  # in Python: its memo is a dictionary that no index blows up
    """Makes stand-ins of whatever a pickle names, and notes the sizes that it announces."""

    def __init__(self, stream: Any, announced: _Announced) -> None:
        super().__init__(_Counted(stream), encoding="latin-1")
        self._announced = announced

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        announced = self._announced
        if name.startswith(STRANGE_TENSORS):
            raise CheckpointError(f"it holds tensors of the kind {name.removeprefix('_rebuild_')}")

        class StandIn(dict):
            """Takes any arguments, items and state, and keeps the items alone."""

            kind = name

            def __new__(cls, *arguments: Any, **_: Any) -> Any:
                if name.startswith("_rebuild_tensor") and len(arguments) > 2:
                    first = arguments[0]
                    announced.tensor(first.kind if isinstance(first, _Storage) else "", arguments[2])
                elif name in ("bytearray", "UntypedStorage") or name.endswith(("Storage", "Tensor")):
                    announced.tensor("" if name == "bytearray" else name.replace("Tensor", "Storage"), _whole_numbers(arguments))
                return super().__new__(cls)

            def __init__(self, *_: Any, **__: Any) -> None:
                super().__init__()

            def __setstate__(self, _: Any) -> None:
                return

            def append(self, _: Any) -> None:
                return

            def extend(self, _: Any) -> None:
                return

            def add(self, _: Any) -> None:
                return

            update = extend  # type: ignore[assignment]

            def __hash__(self) -> int:  # type: ignore[override]
                return id(self)

        return StandIn

    def persistent_load(self, name: Any) -> Any:
        kind = str(getattr(name[1], "kind", "")) if isinstance(name, tuple) and len(name) > 4 else ""
        if kind:
            self._announced.storage(name[2], kind, name[4])
        return _Storage(kind)

    def no_frame(self) -> None:
        raise pickle.UnpicklingError("it has frames, which torch.save does not write")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.FRAME[0]: no_frame}

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("it has an extension")


def _whole_numbers(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(item for item in arguments if isinstance(item, int)) or (0,)
