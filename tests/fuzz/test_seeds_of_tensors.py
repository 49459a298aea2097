"""The same of inversions, directions and checkpoints."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fuzz.seeds import HUGE, refused
from sdic_runtime.errors import CheckpointError, FileError
from sdic_runtime.inversion import Inversion
from sdic_runtime.tools.doctor import examine

pytestmark = pytest.mark.usefixtures("at_once")


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 8_000_000_000) + b"\x85R."  # asks for 8 GB in 35 bytes


# Inversions and directions.


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("names", "[]", "0 names"),
        ("names", '["\\ud800"]', "is not valid JSON"),
        ("visible_rows", "[100, 50]", r"visible rows \[100, 50\]"),
        ("sizes", "[" * 100_000, "is not valid JSON"),
        ("sizes", f'{{"R": {HUGE}}}', "more than 64 bits"),
        ("sizes", '{"R": Infinity}', "is not valid JSON"),
        ("tensors", "{}", "picture"),
        ("version", "9" * 100_000, "of format version"),
    ],
)
def test_a_forged_inversion(key: str, value: str, sentence: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    from fuzz.targets import sound_inversion

    path = tmp_path / "a.safetensors"
    path.write_bytes(sound_inversion())
    with safe_open(path, "numpy") as stream:
        metadata = stream.metadata()
    save_file(load_file(path), path, {**metadata, key: value})
    refused(FileError, sentence, Inversion.load, path)


def test_tensors_of_an_inversion_are_not_read_before_their_shapes_fit(tmp_path: Path) -> None:
    """A sparse file of 3 GB."""
    from fuzz.targets import sound_inversion

    sound = sound_inversion()
    header = json.loads(sound[8 : 8 + int.from_bytes(sound[:8], "little")])
    picture = {"dtype": "F32", "shape": [3 << 28], "data_offsets": [0, 3 << 30]}
    content = safetensors({"__metadata__": header["__metadata__"], "picture": picture})
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    os.truncate(path, len(content) + (3 << 30))
    refused(FileError, "holds nothing as", Inversion.load, path)


def test_directions_that_promise_too_much(tmp_path: Path) -> None:
    from sdic_runtime.directions import load_direction

    def archive() -> bytes:
        result, header = io.BytesIO(), io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (66 << 20,)})
        with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target, target.open("direction.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(264):
                member.write(b"\0" * (1 << 20))
        return result.getvalue()

    def array(shape: tuple[int, ...]) -> bytes:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue() + b"\0" * 64

    for name, content, sentence in (
        ("bomb.npz", archive(), "its arrays have .* bytes, and the limit is"),
        ("a.npy", array((1 << 40,)), "which its .* bytes do not hold"),
        ("b.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000, "is not a direction file"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(FileError, sentence, load_direction, tmp_path / name)
    for key, value in (
        ("strength_range", "[" * 100_000),
        ("strength_range", f"[{HUGE}, 3]"),
        ("rows", "[Infinity, 3]"),
        ("rows", "[NaN, 1]"),
    ):
        save_file({"direction": np.zeros(8, np.float32)}, tmp_path / "a.safetensors", {key: value})
        refused(FileError, f'its metadata "{key}" is', load_direction, tmp_path / "a.safetensors")


# Checkpoints, and directions of PyTorch.


def strided(path: Path) -> None:
    import torch

    torch.save({"state_dict": {"encoder.x": torch.zeros(1).expand(1 << 20, 1 << 20)}}, path)


def packed(part: str, filling: bytes) -> Callable[[Path], None]:
    """A file of torch.save with one part that unpacks to 320 MB."""

    def write(path: Path) -> None:
        import torch

        stream = io.BytesIO()
        torch.save({"state_dict": {"encoder.x": torch.zeros(4)}}, stream)
        with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                with target.open(name, "w", force_zip64=True) as member:
                    for _ in range(320 if name.endswith(part) else 0):
                        member.write(filling * ((1 << 20) // len(filling)))
                    member.write(source.read(name))

    return write


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: path.write_bytes(BYTEARRAY), "its tensors have 8000000000 bytes where the file has 35"),
        (strided, "its tensors have 4398046511104 bytes"),
        (packed("data/0", b"\0"), "the parts of its archive have"),
        (packed("data.pkl", b"N0"), "the parts of its archive have"),
    ],
    ids=["a pickle of 35 bytes", "one number for 4 TiB", "an archive", "an archive's pickle"],
)
def test_what_a_checkpoint_announces_is_summed_before_it_is_read(write: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    from sdic_export.directions.files import read_direction
    from sdic_train.checkpoints.load import read_checkpoint

    path = tmp_path / "a.pt"
    write(path)
    refused(CheckpointError, f"is not read: {sentence}", read_checkpoint, path)
    direction = f"is not read: {sentence}|it holds more than 256 MB|a tensor is larger than its numbers|asks to run code|damaged"
    refused(FileError, direction, read_direction, path, {"R": 64, "S": 64, "L": 10, "C": 8})


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"\x1b[31m" + "a" * 900_000: 1}},
        {"state_dict": {1: 2}},
        {"g_ema": 3},
        {"opts": [1, 2], "state_dict": {}},
        {"opts": "abc"},
    ],
)
def test_a_checkpoint_of_odd_types(content: dict[str, Any], tmp_path: Path) -> None:
    import torch

    from sdic_train.checkpoints.load import read_checkpoint

    path = tmp_path / "a.pt"
    names = content.get("state_dict")
    torch.save({**content, "state_dict": {name: torch.zeros(1) for name in names}} if names is not None else content, path)
    refused(CheckpointError, "holds", read_checkpoint, path)


@pytest.mark.parametrize("text", [None, "[", "[]", "{}", '{"resolution": 1e400}', f'{{"style_width": {HUGE}}}', "[" * 100_000])
def test_a_damaged_configuration(text: str | None, tmp_path: Path) -> None:
    from sdic_train.checkpoints.load import read_checkpoint

    path = tmp_path / "a.safetensors"
    save_file({"encoder.x": np.zeros(1, np.float32)}, path, {"format": "sdic"} | ({"config": text} if text is not None else {}))
    refused(CheckpointError, "configuration", read_checkpoint, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", {"x": 1}),
        ("style_width", -1),
        ("style_width", "a"),
        ("mapping_layers", 1 << 40),
        ("channels", {"4": 8}),
        ("encoder", {"units": [1]}),
    ],
)
def test_sizes_that_no_network_has(key: str, value: Any) -> None:
    from sdic_train.config import TINY, ModelConfig

    refused(CheckpointError, "the model configuration", ModelConfig.from_dict, {**TINY.as_dict(), key: value})
    assert ModelConfig.from_dict(TINY.as_dict()) == TINY


# Doctor, and files that are no files.


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 100_000,
        b'{"a":[1]}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}',
        b'{"__metadata__":[1]}',
        b"[1]",
    ],
)
def test_doctor_reads_any_header(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(header))
    assert any("header cannot be read" in finding.text for finding in examine(path).findings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".pt"])
def test_pipes_are_refused_by_whoever_reads_files(suffix: str, tmp_path: Path) -> None:
    from sdic_export.directions.files import read_direction
    from sdic_train.checkpoints.load import read_checkpoint

    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    assert any("pipe" in finding.text for finding in examine(path).findings)
    refused(FileError, "pipe", read_direction, path, {"R": 64, "S": 64, "L": 10, "C": 8})
    if suffix != ".npy":
        refused(CheckpointError, "pipe", read_checkpoint, path)
    if suffix == ".safetensors":
        refused(FileError, "pipe", Inversion.load, path)
