"""Whole files or none: writing into place, hashing, and names that stay inside their folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import FileError
from sdic_runtime.leftovers import held

if TYPE_CHECKING:
    import numpy as np

PIECE = 1 << 18  # bytes that are hashed at once
TRUST_VARIABLE = "SDIC_TRUST"  # of the environment: "1" trusts every bundle, see `Bundle.open`
LARGEST_TENSORS = 1 << 32  # bytes of a file of tensors that is read as a whole: an inversion, a direction
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # tensor -> its type in the words of safetensors, and its shape


def reason(error: OSError) -> str:
    """The operating system's words for `error`, in lower case: "permission denied"."""
    return (error.strerror or str(error)).lower()


def open_regular(path: str | os.PathLike[str], largest: int | None = None) -> BufferedReader:
    """Open a file for reading. Raises OSError, also for a pipe, a device or a socket, which could block for ever or never end, and for more
    than `largest` bytes."""
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device and not a file")
        if largest is not None and status.st_size > largest:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, and the limit is {largest}")
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: str | os.PathLike[str], largest: int) -> bytes:
    """The bytes of a file; see `open_regular`."""
    with open_regular(path, largest) as stream:
        return stream.read()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and lasts a power failure then; it vanishes when the
    block does not end well, and with the next file beside it when the process was killed. A file that was there before leaves its
    permissions; of a link, the link is replaced and not what it points at. Raises FileError where the folder is missing or cannot be
    written to, and for what is no file."""
    target = Path(path)
    if os.path.isdir(target):
        raise FileError(f"cannot write {target}: it is a folder; name a file")
    try:
        mode = None
        with suppress(FileNotFoundError):
            mode = os.lstat(target).st_mode  # its own name may be what is wrong
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise FileError(f"cannot write {target}: it is a pipe or a device and not a file; name a file")
        with held(target.parent, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
            yield temporary
            sync(temporary)
            if mode is not None and stat.S_ISREG(mode):
                os.chmod(temporary, stat.S_IMODE(mode))
            os.replace(temporary, target)
            sync(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    except ValueError as error:
        if "\0" not in str(target):  # a path that no system has
            raise
        raise FileError(f"cannot write {str(target)!r}: {error}; choose another name") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows does not sync what is open for reading alone
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def remedy(error: OSError) -> str:
    """What to do about a file that cannot be written."""
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
    return "make room" if error.errno in full else "use a shorter name" if error.errno == errno.ENAMETOOLONG else "choose another place"


def name_is_too_long(error: FileError) -> bool:
    """Whether a file could not be written because of its name, so that others can."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG


def _cannot_write(target: Path, error: OSError) -> FileError:
    return FileError(f"cannot write {target}: {reason(error)}; {remedy(error)}")


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with string metadata, whole or not at all. Raises FileError."""
    # `save_file` would make the file readable for its owner alone, and hide a full disk behind an error of its own.
    content = tensor_bytes(tensors, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def tensor_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; equal contents give equal bytes."""
    import numpy as np
    from safetensors.numpy import save

    return _in_order(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, dict(metadata)))


def read_tensors(
    path: str | os.PathLike[str],
    largest: int = LARGEST_TENSORS,
    choose: Callable[[Shapes, Mapping[str, str]], Iterable[str]] = lambda shapes, _: shapes,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file of at most `largest` bytes. `choose` is shown the shapes and the metadata before
    any tensor is read, and names those to read. Raises OSError, what `choose` raises, or what safetensors raises for a damaged file."""
    from safetensors import safe_open

    with open_regular(path, largest), safe_open(path, framework="numpy") as stream:  # opened for Python's own words about what is wrong
        parts: dict[str, Any] = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
        shapes = {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in parts.items()}
        metadata = dict(stream.metadata() or {})
        return {name: stream.get_tensor(name) for name in choose(shapes, metadata)}, metadata


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with sorted metadata: safetensors writes it in a random order, and equal contents should hash equally."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = _sorted_header(content[8:end])
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file of any size where it lies, see `_in_order`. Raises OSError."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = _sorted_header(stream.read(length))
        if len(text) <= length:  # always, as long as safetensors writes compact JSON
            stream.seek(8)
            stream.write(text.ljust(length))


def _sorted_header(text: bytes) -> bytes:
    header = json.loads(text)
    header["__metadata__"] = dict(sorted((header.get("__metadata__") or {}).items()))
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces. Raises OSError, see `open_regular`."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE))  # one that stays in caches: new ones cost a third more
    with open_regular(path) as stream:
        while count := stream.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def is_inside(name: str) -> bool:
    """Whether `name` is a plain relative path with forward slashes that cannot leave the folder it is joined to."""
    path = PurePosixPath(name)
    foreign = {"\\", ":", "\0"} & set(name)
    return bool(path.parts) and str(path) == name and not foreign and not path.is_absolute() and ".." not in path.parts
