"""The smallest input of every fault that mutated files found, and of what a stranger may try: each is answered by its sentence, at once."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fuzz.targets import _list_again, make_bundle, read_bundle, read_picture, sound_bundle, verdict
from sdic_runtime.backends import onnxruntime
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.decoding import as_rgb, turned
from sdic_runtime.errors import BundleError, CheckpointError, FileError, PictureError, SdicError, printable
from sdic_runtime.inversion import Inversion
from sdic_runtime.pictures import prepare
from sdic_runtime.tools.doctor import examine

HUGE = "1" + "0" * 400
BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 8_000_000_000) + b"\x85R."  # asks for 8 GB in 35 bytes
SECONDS = 5.0


@pytest.fixture(autouse=True)
def at_once() -> Any:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the sound bundle to break."""
    return make_copy(tmp_path)


def make_copy(folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(sound_bundle(), folder / "bundle"))


def refused(kind: type[SdicError], sentence: str, work: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        work(*arguments)
    said = str(caught.value)
    assert len(said) <= 400 and said.isprintable()


# What a sentence quotes.


def test_a_sentence_is_short_and_printable_whatever_it_quotes() -> None:
    said = str(FileError("cannot read " + "\x1b]0;x\x07\n" * 100_000 + "; choose another name"))
    assert (
        len(said) == 400 and said.isprintable() and said.startswith(r"cannot read \x1b]0;x\x07 ") and said.endswith("; choose another name")
    )
    assert str(FileError(os.fsdecode(b"a\xff\xe2\x80\xae"))) == r"a\udcff\u202e"
    assert printable("ä" * 400) == "ä" * 400 and len(printable("\x00" * 400)) == 400
    assert str(FileError("a sound sentence")) == "a sound sentence"


# Pictures.


def png(width: int, height: int, kind: int, depth: int = 8, further: bytes = b"") -> bytes:
    """A PNG file of zeros: `kind` 0 gray, 2 RGB, 6 RGBA."""
    rows = zlib.compress((b"\0" * (1 + width * {0: 1, 2: 3, 6: 4}[kind] * depth // 8)) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + further + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1), (65_536, 1)])
def test_a_picture_with_a_side_that_no_picture_has(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png(*size, 0))
    refused(PictureError, f"is {size[0]} x {size[1]}, and the longest side is 65535", read_picture, path)


def test_a_picture_of_one_column_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "tall.png"
    path.write_bytes(png(1, 60_000, 0))
    assert read_picture(path) == (1, 3, 64, 64)


PROGRAM = """
import sys
from sdic_runtime.pictures import prepare
print(prepare(sys.argv[1], {"R": 1024, "S": 256}, (0, 1024)).shape)
with open("/proc/self/status") as stream:
    print(next(int(line.split()[1]) >> 10 for line in stream if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which tells the most memory of a process")
@pytest.mark.parametrize(("kind", "depth"), [(0, 16), (6, 8)])
def test_the_memory_of_a_large_picture_is_bounded(kind: int, depth: int, tmp_path: Path) -> None:
    """A quarter of the limit in pixels: it needs a quarter of the memory beside what the program itself has."""
    path = tmp_path / "large.png"
    path.write_bytes(png(5000, 5000, kind, depth))
    shape, peak = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shape == "(1, 3, 256, 256)" and int(peak) < 330


@pytest.mark.parametrize(
    "further",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_500_000)),
        chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 2_000_000)),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
    ],
    ids=["large text", "large profile", "damaged exif", "wrong checksum"],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_never_costs_the_picture(further: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(20, 20, 2, further=further))
    assert (prepare(path, {"R": 64, "S": 64}, (0, 64)) == -1).all()
    path.write_bytes(png(20, 20, 2, further=further)[:-30])
    refused(PictureError, "is damaged", read_picture, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_and_turns_are_what_pillow_makes(orientation: int) -> None:
    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (1031, 1200, 4), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", exif=exif, compress_level=0)
    image = Image.open(stream)
    upright = ImageOps.exif_transpose(image)
    white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    found = turned(as_rgb(image, "it"), orientation)
    assert np.array_equal(np.asarray(found), np.asarray(white)) and found.getexif().get(0x0112, 1) == 1


# Bundles.


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'"schema"', b'"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "schema"', "is not valid JSON"),
        (b'"schema"', b'"x": ' + b"[" * 100 + b"]" * 100 + b', "schema"', "is nested more than 64 levels deep"),
        (b'"tiny"', b'"\\ud800"', "is not valid JSON"),
        (b'"R": 128', f'"R": {HUGE}'.encode(), "holds a number of more than 64 bits"),
        (b'"R": 128', b'"R": 1e400', "is not valid JSON"),
        (b'"R": 128', b'"R": Infinity', "is not valid JSON"),
        (b'"S": 64', b'"S": 65536', "values for one picture, and the limit is"),
        (b'"tiny"', b'"' + b"x" * (17 << 20) + b'"', "and the limit is 16777216"),
        (b'"fp32"', b'"\\u001b[31m' + b"x" * 900_000 + b'"', "is not a valid bundle manifest"),
    ],
    ids=["deep", "deeper than any", "half a pair", "10**400", "1e400", "Infinity", "hangs", "large", "control codes"],
)
def test_a_manifest_is_checked_beyond_its_json(old: bytes, new: bytes, sentence: str, bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    refused(BundleError, sentence, Bundle.open, bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("name", [MANIFEST_NAME, "onnx/fp32/dipn.onnx", "directions/age.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_bundle_is_refused(name: str, kind: str, bundle: Path) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name) if kind == "pipe" else (bundle / name).symlink_to("/dev/zero")
    refused(BundleError, "it is a pipe or a device and not a file", lambda: Bundle.open(bundle).check())


def reading(bundle: Path, location: str, content: bytes | None = None, listed: bool = False) -> Path:
    """Have a graph of the bundle read its weights from `location`, and list that file or not."""
    import onnx

    name = "onnx/fp32/generator_tail.onnx"
    model = onnx.load(bundle / name)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    raw = onnx.numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        tensor.external_data.add(key=key, value=value)
    (bundle / name).write_bytes(model.SerializeToString())
    data = json.loads((bundle / MANIFEST_NAME).read_text())
    place = bundle / "onnx/fp32" / location
    if not place.exists():
        place.write_bytes(raw if content is None else content)
    weights = [os.path.normpath(f"onnx/fp32/{location}")] if listed else []
    data["weights"] |= {name: weights} if listed else {}
    _list_again(bundle, data, name, *weights)
    return place


@pytest.mark.parametrize("location", ["w.data", "../../../w.data", "/absolute", "../fp32/w.data", "*/_ORT_MEM_ADDR_/*"])
def test_weights_that_the_bundle_does_not_list_are_not_read(location: str, bundle: Path, tmp_path: Path) -> None:
    location = str(tmp_path / "w.data") if location == "/absolute" else location
    if location.startswith("*"):
        (bundle / "onnx/fp32/*/_ORT_MEM_ADDR_").mkdir(parents=True)
    reading(bundle, location)
    sentence = f'reads "{re.escape(location)}", which the bundle does not list as its weights'
    refused(BundleError, sentence, read_bundle, bundle)


def test_listed_weights_are_read_and_a_link_is_followed_by_its_hash(bundle: Path, tmp_path: Path) -> None:
    place = reading(bundle, "w.data", listed=True)
    want = read_bundle(bundle).pixels
    moved = tmp_path / "store" / "4e07"
    moved.parent.mkdir()
    place.rename(moved)
    place.symlink_to(moved)
    if hasattr(__import__("onnxruntime").SessionOptions(), onnxruntime.NEEDED_FOR_LINKS):
        np.testing.assert_array_equal(read_bundle(bundle).pixels, want)
    else:
        refused(BundleError, "is a link out of the bundle, which this ONNX Runtime does not follow", read_bundle, bundle)
    moved.write_bytes(b"\0" * moved.stat().st_size)
    for verify in (True, False):  # outside, the hash is compared in any case
        refused(BundleError, "its SHA-256 is not the one in", Bundle.open(bundle, verify).file, "onnx/fp32/w.data")


def put_dipn(bundle: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> Path:
    from tiny_bundle import write_stage

    name = "onnx/fp32/dipn.onnx"
    write_stage(bundle / name, "dipn", nodes, constants)
    _list_again(bundle, json.loads((bundle / MANIFEST_NAME).read_text()), name)
    return bundle


def endless(bundle: Path) -> Path:
    from onnx import TensorProto, helper

    values = [("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, None)]
    made = [("co", TensorProto.BOOL, []), ("xo", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["x", "x"], ["xo"])]
    body = helper.make_graph(nodes, "body", *([helper.make_tensor_value_info(*value) for value in some] for some in (values, made)))
    loop = helper.make_node("Loop", ["", "yes", "d"], ["discrepancy"], body=body)
    return put_dipn(bundle, [helper.make_node("Sub", ["image", "reconstruction"], ["d"]), loop], {"yes": np.array(True)})


def test_a_loop_is_refused_unless_the_bundle_is_trusted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(bundle)
    refused(BundleError, "runs Loop, which may do anything or never end; if you know who made it, use: --trust", read_bundle, bundle)
    assert Bundle.open(bundle, trust=True).file("onnx/fp32/dipn.onnx").is_file()
    monkeypatch.setenv("SDIC_TRUST", "1")
    assert Bundle.open(bundle).file("onnx/fp32/dipn.onnx").is_file()


def test_an_operator_of_another_domain_is_refused(bundle: Path) -> None:
    from onnx import helper

    node = helper.make_node(
        "EPContext", ["image", "reconstruction"], ["discrepancy"], domain="com.microsoft", ep_cache_context="/etc/passwd"
    )
    put_dipn(bundle, [node], {})
    refused(BundleError, "runs com.microsoft:EPContext, which may do anything", read_bundle, bundle)


def test_a_graph_that_asks_for_more_memory_than_there_is(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["zz"], keepdims=0),
        helper.make_node("Sub", ["image", "reconstruction"], ["d"]),
        helper.make_node("Add", ["d", "zz"], ["discrepancy"]),
    ]
    put_dipn(bundle, nodes, {"s": np.array([1 << 20, 1 << 20], np.int64)})
    refused(SdicError, "not enough memory", read_bundle, bundle)


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
    from sdic_export.direction_files import read_direction
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
    from sdic_export.direction_files import read_direction
    from sdic_train.checkpoints.load import read_checkpoint

    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    assert any("pipe" in finding.text for finding in examine(path).findings)
    refused(FileError, "pipe", read_direction, path, {"R": 64, "S": 64, "L": 10, "C": 8})
    if suffix != ".npy":
        refused(CheckpointError, "pipe", read_checkpoint, path)
    if suffix == ".safetensors":
        refused(FileError, "pipe", Inversion.load, path)


def test_the_same_number_makes_the_same_file(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        make_bundle(np.random.default_rng([7, 3]), folder)
    files = [sorted((path.relative_to(folder), path.read_bytes()) for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert files[0] == files[1] and verdict(read_bundle, folders[0] / "bundle")[0] != "fault"
