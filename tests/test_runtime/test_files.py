from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from sdic_runtime.errors import FileError
from sdic_runtime.files import is_inside, replacing, save_tensors, sha256


def test_a_new_file_appears_whole_and_with_usual_permissions(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists() and temporary.parent == tmp_path
    save_tensors(tmp_path / "a.safetensors", {"x": np.arange(3.0)}, {"key": "value"})
    assert target.read_text() == "new"
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [0, 1, 2]
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {usual.stat().st_mode} and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_whatever_interrupts_a_write_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileError if error is OSError else error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_disk_that_fills_up_is_one_sentence(tmp_path: Path) -> None:
    program = (
        "import resource, sys, numpy\n"
        "from sdic_runtime.files import save_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    save_tensors(sys.argv[1], {'x': numpy.zeros(10000)}, {})\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout == f"FileError cannot write {tmp_path / 'a'}: file too large; make room\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(FileError, match=r"^cannot write /proc/self/a: .*; choose another place$"), replacing("/proc/self/a"):
        raise AssertionError("the block must not be entered")


def test_a_name_as_long_as_the_system_allows_is_written_and_a_longer_one_told(tmp_path: Path) -> None:
    with replacing(tmp_path / ("\u732b" * 85)) as temporary:
        temporary.write_text("x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(FileError, match="file name too long; use a shorter name$"), replacing(tmp_path / ("x" * 300)):
        pass


def test_a_path_with_a_zero_byte_is_one_sentence() -> None:
    words = r"^cannot write 'a\\x00b': (lstat: )?embedded null (byte|character in path); choose another name$"
    with pytest.raises(FileError, match=words), replacing("a\0b"):
        raise AssertionError("the block must not be entered")


def test_equal_contents_are_equal_files_whatever_the_order_of_their_metadata(tmp_path: Path) -> None:
    metadata = {f"key {number}": '\u00e9"' * number for number in range(9)}
    tensors = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([1], np.int64)}
    contents = set()
    for order in (list(metadata), sorted(metadata, reverse=True), sorted(metadata)):
        save_tensors(tmp_path / "a", tensors, {key: metadata[key] for key in order})
        contents.add((tmp_path / "a").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "a", framework="numpy") as stream:
        assert stream.metadata() == metadata
    for name, array in load_file(tmp_path / "a").items():
        np.testing.assert_array_equal(array, tensors[name])
    save_tensors(tmp_path / "b", tensors, {})
    assert set(load_file(tmp_path / "b")) == {"x", "y"}


def test_sha256_is_that_of_hashlib(tmp_path: Path) -> None:
    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a", True),
        ("a/b.onnx", True),
        ("a/.b", True),
        ("..a/b", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../a", False),
        ("a/../b", False),
        ("/a", False),
        ("//a", False),
        ("a//b", False),
        ("./a", False),
        ("a/", False),
        ("a\\b", False),
        ("C:a", False),
        ("a\0b", False),
    ],
)
def test_names_that_stay_inside_their_folder(name: str, inside: bool) -> None:
    assert is_inside(name) is inside


def test_a_file_keeps_its_permissions_and_a_link_is_replaced(tmp_path: Path) -> None:
    private, link = tmp_path / "private.json", tmp_path / "link.json"
    private.write_text("old")
    private.chmod(0o600)
    link.symlink_to("private.json")
    for path in (link, private):
        with replacing(path) as temporary:
            temporary.write_text("new")
    assert (private.stat().st_mode & 0o777, private.read_text()) == (0o600, "new")
    assert not link.is_symlink() and link.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    for path in (pipe, link):
        with (
            pytest.raises(FileError, match=f"^cannot write {path}: it is a pipe or a device and not a file; name a file$"),
            replacing(path),
        ):
            pytest.fail("it is written")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()


def test_what_is_synced_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to sync a file that is open for reading alone."""
    fcntl = pytest.importorskip("fcntl")
    flags = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flags.append((os.fstat(descriptor), fcntl.fcntl(descriptor, fcntl.F_GETFL))))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("a")
    assert [flag & os.O_ACCMODE for about, flag in flags if stat.S_ISREG(about.st_mode)] == [os.O_RDWR]
