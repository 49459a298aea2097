"""Whole files or none: writing into place, hashing, and names that stay inside their folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sdic_runtime.errors import FileError
from sdic_runtime.leftovers import held

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 20


def reason(error: OSError) -> str:
    """The operating system's words for `error`, in lower case: "permission denied"."""
    return (error.strerror or str(error)).lower()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and lasts a power failure then; it vanishes when the
    block does not end well, and with the next file beside it when the process was killed. Raises FileError where the folder is missing or
    cannot be written to."""
    target = Path(path)
    if os.path.isdir(target):
        raise FileError(f"cannot write {target}: it is a folder; name a file")
    try:
        with suppress(FileNotFoundError):
            os.lstat(target)  # its own name may be what is wrong
        with held(target.parent, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
            yield temporary
            sync(temporary)
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
    descriptor = os.open(path, os.O_RDONLY)
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


def _cannot_write(target: Path, error: OSError) -> FileError:
    return FileError(f"cannot write {target}: {reason(error)}; {remedy(error)}")


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with string metadata, whole or not at all. Raises FileError."""
    import numpy as np
    from safetensors.numpy import save

    # `save_file` would make the file readable for its owner alone, and hide a full disk behind an error of its own.
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, dict(metadata))
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(content))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises OSError, or what safetensors raises for a damaged file."""
    from safetensors import safe_open

    with Path(path).open("rb"), safe_open(path, framework="numpy") as stream:  # opened for Python's own words about what is wrong
        return {name: stream.get_tensor(name) for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118 - not a mapping


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with sorted metadata: safetensors writes it in a random order, and equal contents should hash equally."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted((header.get("__metadata__") or {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def is_inside(name: str) -> bool:
    """Whether `name` is a plain relative path with forward slashes that cannot leave the folder it is joined to."""
    path = PurePosixPath(name)
    foreign = {"\\", ":", "\0"} & set(name)
    return bool(path.parts) and str(path) == name and not foreign and not path.is_absolute() and ".." not in path.parts
