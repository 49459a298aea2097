"""PyTorch files read without PyTorch: the numbers are those of `torch.load`, and nothing else gets in."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime.errors import FileError
from sdic_runtime.parsing import torch_files
from sdic_runtime.parsing.torch_files import read_torch

torch = pytest.importorskip("torch")

TENSORS = {
    "plain": torch.arange(24.0).reshape(2, 3, 4),
    "double": torch.linspace(0, 1, 5, dtype=torch.float64),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "whole": torch.tensor([1, -2], dtype=torch.int64),
    "number": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "strided": torch.arange(24.0).reshape(4, 6).T[1:4, ::2],
    "repeated": torch.arange(3.0).expand(2, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def test_tensors_are_those_of_torch(tmp_path: Path) -> None:
    torch.save({**TENSORS, "nested": [TENSORS["plain"], (TENSORS["half"],)]}, tmp_path / "all.pt")
    found = read_torch(tmp_path / "all.pt")
    for name, tensor in TENSORS.items():
        expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, name)
    np.testing.assert_array_equal(found["nested"][1][0], TENSORS["half"].numpy())


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    torch.save(torch.arange(4.0), tmp_path / "a.pt")
    code = (
        "import sys; from sdic_runtime.parsing.torch_files import read_torch; from pathlib import Path; "
        "print(read_torch(Path(sys.argv[1])).sum(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pt")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6.0", "False"]


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_files_with_anything_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(RunsCode(), "code.pt")
    torch.save(torch.nn.Linear(1, 1), "module.pt")
    torch.save(torch.zeros(2), "old.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.zeros(2000), "cut.pt")
    Path("cut.pt").write_bytes(Path("cut.pt").read_bytes()[:-1500])
    Path("empty.pt").touch()
    with zipfile.ZipFile("zip.pt", "w") as archive:
        archive.writestr("readme", "text")
    with zipfile.ZipFile("pickle.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q")
    for name, sentence in {
        "code.pt": r'names "(posix|nt)\.system"',
        "module.pt": 'names "torch.nn',
        "old.pt": "form that torch.save writes since PyTorch 1.6",
        "cut.pt": "truncated or damaged",
        "empty.pt": "form that torch.save writes",
        "zip.pt": "zip file without tensors",
        "pickle.pt": "truncated or damaged",
    }.items():
        with pytest.raises(FileError, match=sentence):
            read_torch(Path(name))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [(0, (3, 2), (2, 1)), (1, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)), (0, (1 << 20, 1 << 20), (0, 0))],
)
def test_a_tensor_cannot_reach_beyond_its_numbers(tmp_path: Path, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    from sdic_runtime.parsing.torch_files import _Unpickler

    torch.save(torch.arange(4.0), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        unpickler = _Unpickler(archive, "a/")
        with pytest.raises((FileError, pickle.UnpicklingError), match="larger than its numbers"):
            unpickler._tensor(np.arange(4, dtype=np.float32), start, shape, strides)


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "LARGEST_TENSORS", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes((1 << 20) + 1))
    with pytest.raises(FileError, match="holds more than 1 MB"):
        read_torch(tmp_path / "bomb.pt")


class Storage:
    """What a pickle of `torch.save` refers to by the name of a file beside it."""


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", 1 << 20) if isinstance(value, Storage) else None


def write_torch(path: Path, content: bytes, storage: bytes = b"", form: int = zipfile.ZIP_DEFLATED) -> Path:
    """A file as `torch.save` makes it, of a pickle's bytes."""
    with zipfile.ZipFile(path, "w", form) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", storage)
    return path


def peak_of_reading(path: Path) -> int:
    """How much memory reading takes at most, whatever comes of it."""
    tracemalloc.start()
    try:
        with contextlib.suppress(FileError):
            read_torch(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_storage_that_is_named_often_is_unpacked_once(tmp_path: Path) -> None:
    stream = io.BytesIO()
    StoragePickler(stream, 2).dump([Storage() for _ in range(30)])
    path = write_torch(tmp_path / "often.pt", stream.getvalue(), bytes(4 << 20))
    assert path.stat().st_size < 6000
    assert peak_of_reading(path) < 8 << 20
    assert [part.nbytes for part in read_torch(path)] == [4 << 20] * 30


def test_a_part_of_the_archive_is_never_larger_than_it_says(tmp_path: Path) -> None:
    stream = io.BytesIO()
    StoragePickler(stream, 2).dump([Storage()])
    path = write_torch(tmp_path / "lie.pt", stream.getvalue(), bytes(64 << 20))
    content, real = path.read_bytes(), (64 << 20).to_bytes(4, "little")
    path.write_bytes(content.replace(real, (1 << 12).to_bytes(4, "little")))
    with pytest.raises(FileError, match="truncated or damaged"):
        read_torch(path)
    assert peak_of_reading(path) < 2 << 20


def test_archives_that_are_only_unpacked_as_a_whole_are_refused(tmp_path: Path) -> None:
    from sdic_runtime.directions import load_direction

    with pytest.raises(FileError, match="is packed in the form 12"):
        read_torch(write_torch(tmp_path / "packed.pt", b"\x80\x02}.", form=zipfile.ZIP_BZIP2))
    np.save(tmp_path / "a.npy", np.zeros(4, np.float32))
    with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "a.npy", "direction.npy")
    with pytest.raises(FileError, match="is packed in the form 14"):
        load_direction(tmp_path / "packed.npz")


def test_a_small_pickle_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    pairs = pickle.dumps([(number, 0) for number in range(20000)], 2)[:-1]  # without its end
    copies = pairs + b"q\x00" + b"ccollections\nOrderedDict\n" + b"q\x01" + b"h\x01h\x00\x85R" * 20 + b"."
    room = b"\x80\x05" + pickle.BYTEARRAY8 + (1 << 28).to_bytes(8, "little") + b"."
    for name, content in {"memo.pt": b"\x80\x02}r\xff\xff\xff\x01.", "copies.pt": copies, "room.pt": room}.items():
        assert peak_of_reading(write_torch(tmp_path / name, content)) < 12 << 20, name


def test_a_lack_of_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    torch.save(torch.arange(4.0), tmp_path / "a.pt")
    monkeypatch.setattr(np, "frombuffer", full)
    with pytest.raises(FileError, match="not enough memory"):
        read_torch(tmp_path / "a.pt")
