"""What cannot be used is refused by libsdic with a status and a sentence about the subject; what Python refuses, C++ refuses too."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sdic_runtime import Bundle, Direction, GanSpaceEdit, Inversion, Pipeline
from sdic_runtime.bundle.manifest import Input
from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Pca
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, FileError, PictureError, SdicError
from sdic_runtime.pictures import to_bytes

ARGUMENT, BUNDLE, PICTURE, FILE, PROVIDER, RUN = range(1, 7)
KINDS = {ARGUMENT: ArgumentError, BUNDLE: BundleError, PICTURE: PictureError, FILE: FileError, RUN: BackendError}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(refusal: Callable[..., tuple[int, str]]) -> Callable[..., str]:
    """The sentence of a call that must fail with `status`, and name the `subjects`; `python` must fail with an error of the same kind."""

    def check(status: int, work: Callable[[], Any], *subjects: object, python: Callable[[], Any] | None = None) -> str:
        found, said = refusal(work)
        assert found == status and all(str(subject) in said for subject in subjects), (found, said)
        assert len(said) < 800 and not said.endswith(".")
        if python is not None:
            with pytest.raises(KINDS[status]):
                python()
        return said

    return check


def black(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    replaced = change(data)
    path.write_text(json.dumps(data if replaced is None else replaced))


def set_key(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last, value = keys

    def change(data: Any) -> None:
        for key in path:
            data = data[key]
        data[last] = value

    return change


def delete(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last = keys

    def change(data: Any) -> None:
        for key in path:
            data = data[key]
        del data[last]

    return change


ENTRY = {"sha256": "0" * 64, "bytes": 1}
# What is wrong -> (the change that makes it so, what the sentence must name).
MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "list": (lambda data: [data], "object"),
    "number": (lambda data: 7, "object"),
    "newer schema": (set_key("schema", 3), "update"),
    "schema 0": (set_key("schema", 0), "schema"),
    "schema text": (set_key("schema", "it's 1"), "schema"),
    "schema true": (set_key("schema", True), "schema"),
    "no schema": (delete("schema"), "schema"),
    "unknown key": (set_key("wights", 1), "wights"),
    "missing key": (delete("default_precision"), "default_precision"),
    "name number": (set_key("name", 1.5), "name"),
    "long value": (set_key("licence", ["ä" * 100]), "licence"),
    "golden list": (set_key("golden", []), "golden"),
    "faces number": (set_key("faces", 1), "faces"),
    "size lacks": (delete("sizes", "L"), "sizes"),
    "size zero": (set_key("sizes", "L", 0), "sizes"),
    "size true": (set_key("sizes", "L", True), "sizes"),
    "size text": (set_key("sizes", "L", "18"), "sizes"),
    "size float": (set_key("sizes", "L", 12.0), "sizes"),
    "size large": (set_key("sizes", "L", 65537), "sizes"),
    "size beyond": (set_key("sizes", "L", 2**70), "sizes"),
    "size negative": (set_key("sizes", "L", -(2**63)), "sizes"),
    "size N": (set_key("sizes", "N", 3), "N"),
    "size sign": (set_key("sizes", "K2", 3), "K2"),
    "tensor number": (set_key("tensors", "rgb", 3), "rgb"),
    "tensor empty": (set_key("tensors", "rgb", []), "rgb"),
    "tensor batch": (set_key("tensors", "rgb", [3, 32, 32]), "rgb"),
    "tensor batch later": (set_key("tensors", "rgb", ["N", 3, "N"]), "rgb"),
    "tensor letter": (set_key("tensors", "rgb", ["N", "X"]), "rgb"),
    "tensor zero": (set_key("tensors", "rgb", ["N", 0]), "rgb"),
    "tensor large": (set_key("tensors", "rgb", ["N", 2**40]), "rgb"),
    "tensor float": (set_key("tensors", "rgb", ["N", 3.0]), "rgb"),
    "image": (set_key("tensors", "image", ["N", 3, "R", "R"]), "image"),
    "no picture": (delete("tensors", "picture"), "picture"),
    "stage colon": (lambda data: data["stages"].update({"a:b": data["stages"]["dipn"]}), "a:b"),
    "stage unknown tensor": (set_key("stages", "dipn", "inputs", ["image", "nothing"]), "nothing"),
    "stage no output": (set_key("stages", "dipn", "outputs", []), "dipn"),
    "stage twice": (set_key("stages", "dipn", "outputs", ["image"]), "dipn"),
    "stage key": (set_key("stages", "dipn", "more", 1), "more"),
    "stage list": (set_key("stages", []), "stages"),
    "takes unknown": (set_key("programs", "edit", "takes", ["nothing"]), "nothing"),
    "takes unkept": (set_key("programs", "baseline", "takes", ["latent", "residual", "rgb"]), "rgb"),
    "zeros untaken": (set_key("programs", "baseline", "zeros", ["feature"]), "baseline"),
    "steps object": (set_key("programs", "edit", "steps", {}), "steps"),
    "step short": (set_key("programs", "edit", "steps", 1, ["generator_head"]), "edit"),
    "step number": (set_key("programs", "edit", "steps", 1, 0, 3), "edit"),
    "step no stage": (set_key("programs", "edit", "steps", 0, 0, "gan"), "gan"),
    "step unbound": (set_key("programs", "edit", "steps", 0, 1, {}), "generator_head"),
    "step other value": (set_key("programs", "edit", "steps", 0, 1, "latent", "rgb"), "rgb"),
    "step other axes": (set_key("programs", "edit", "steps", 0, 1, "latent", "residual"), "residual"),
    "step nothing": (set_key("programs", "edit", "steps", 0, 2, {}), "step 1"),
    "step output": (set_key("programs", "edit", "steps", 0, 2, {"picture": "picture"}), "picture"),
    "step again": (set_key("programs", "edit", "steps", 0, 2, {"feature": "latent"}), "latent"),
    "gives unmade": (set_key("programs", "edit", "gives", {"picture": "rgb"}), "rgb"),
    "gives nothing": (set_key("programs", "edit", "gives", {}), "edit"),
    "gives unknown": (set_key("programs", "edit", "gives", "other", "picture"), "other"),
    "no invert": (delete("programs", "invert"), "invert"),
    "invert takes": (set_key("programs", "invert", "takes", ["image", "latent"]), "invert"),
    "keeps unknown": (set_key("keeps", ["picture", "nothing"]), "nothing"),
    "keeps no picture": (set_key("keeps", ["latent"]), "picture"),
    "keeps object": (set_key("keeps", {}), "keeps"),
    "move program": (set_key("moves", "paper", "program", "nothing"), "nothing"),
    "move code": (set_key("moves", "paper", "codes", ["feature"]), "feature"),
    "move untaken": (set_key("moves", "released", "codes", ["latent"]), "latent"),
    "move empty": (set_key("moves", "paper", "codes", []), "paper"),
    "move kind": (set_key("moves", "paper", "kinds", ["text"]), "text"),
    "move no kind": (set_key("moves", "paper", "kinds", []), "paper"),
    "rows object": (set_key("input", "visible_rows", {}), "visible_rows"),
    "rows three": (set_key("input", "visible_rows", [0, 1, 2]), "visible_rows"),
    "rows empty": (set_key("input", "visible_rows", [5, 5]), "visible_rows"),
    "rows beyond": (set_key("input", "visible_rows", [0, 129]), "visible_rows"),
    "rows fraction": (set_key("input", "visible_rows", [0.5, 128]), "visible_rows"),
    "rows odd": (set_key("input", "visible_rows", [1, 128]), "visible_rows"),
    "resampling": (set_key("input", "resampling", "box"), "box"),
    "file outside": (set_key("files", "../evil", ENTRY), "../evil"),
    "file absolute": (set_key("files", "/etc/passwd", ENTRY), "/etc/passwd"),
    "file doubled": (set_key("files", "a//b", ENTRY), "a//b"),
    "file drive": (set_key("files", "C:x", ENTRY), "C:x"),
    "file hash": (set_key("files", "x", {"sha256": "0" * 63, "bytes": 1}), "x"),
    "file bytes": (set_key("files", "x", {"sha256": "0" * 64, "bytes": -1}), "x"),
    "file list": (set_key("files", "x", [1e-7, 0.1]), "x"),
    "graphs lack": (delete("graphs", "dicn"), "dicn"),
    "graphs empty": (set_key("graphs", "dicn", {}), "dicn"),
    "graphs unknown": (set_key("graphs", "gan", {"fp32": ["onnx/fp32/dipn.onnx"]}), "gan"),
    "graphs output": (set_key("graphs", "dipn:picture", {"fp32": ["onnx/fp32/dipn.onnx"]}), "dipn:picture"),
    "graphs no output": (set_key("graphs", "dipn:", {"fp32": ["onnx/fp32/dipn.onnx"]}), "dipn:"),
    "graphs no file": (set_key("graphs", "dipn", "onnxruntime-cpu", []), "onnxruntime-cpu"),
    "graphs text": (set_key("graphs", "dipn", "fp32", "onnx/fp32/dipn.onnx"), "dipn"),
    "graphs number": (set_key("graphs", "dipn", "fp32", [1]), "dipn"),
    "graphs unlisted": (set_key("graphs", "dipn", "fp32", ["other.onnx"]), "other.onnx"),
    "weights unlisted": (set_key("weights", {"onnx/fp32/dipn.onnx": ["other.data"]}), "other.data"),
    "weights text": (set_key("weights", {"onnx/fp32/dipn.onnx": "other.data"}), "weights"),
    "direction number": (set_key("directions", "smile", 1), "smile"),
    "direction unlisted": (set_key("directions", "smile", "directions/frown.safetensors"), "frown"),
    "golden unlisted": (set_key("golden", "golden.safetensors"), "golden.safetensors"),
    "tolerance zero": (set_key("tolerances", "fp32", 0), "fp32"),
    "tolerance text": (set_key("tolerances", "fp32", "much"), "fp32"),
    "psnr text": (set_key("psnr", {"fp32": "much"}), "psnr"),
    "tool number": (set_key("tools", {"torch": 2}), "torch"),
    "checkpoint number": (set_key("checkpoint", {"path": 2}), "path"),
    "precision": (set_key("default_precision", "fp16"), "fp16"),
}
FIRST_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (set_key("graphs", {}), "graphs"),
    "missing key": (delete("stages"), "stages"),
    "size unknown": (set_key("sizes", "depth", 3), "depth"),
    "stage unknown": (set_key("stages", "gan", {"fp32": "x"}), "gan"),
    "stage missing": (delete("stages", "dicn"), "dicn"),
    "stage number": (set_key("stages", "dipn", 3), ""),
    "stage list": (set_key("stages", "dipn", {"fp32": ["x"]}), "array"),
    "partial unlisted": (set_key("partials", {"generator_head:rgb": {"fp32": "other.onnx"}}), "other.onnx"),
    "partials null": (set_key("partials", None), "object"),
    "partial text": (set_key("partials", {"generator_head:rgb": ""}), "object"),
    "cpu number": (set_key("cpu", {"dipn": 1}), ""),
    "cpu list": (set_key("cpu", []), ""),
    "files list": (set_key("files", []), ""),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_schema_2_does_not_allow(library: Any, refused: Any, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    change, subject = MANIFESTS[name]
    shutil.copy(tiny_bundle / "bundle.json", tmp_path)
    change_manifest(tmp_path, change)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, subject, python=lambda: Bundle.open(tmp_path))


@pytest.mark.parametrize("name", FIRST_MANIFESTS)
def test_a_manifest_that_schema_1_does_not_allow(library: Any, refused: Any, tmp_path: Path, name: str) -> None:
    change, subject = FIRST_MANIFESTS[name]
    shutil.copy(ROOT / "tests/data/schema1/bundle.json", tmp_path)
    change_manifest(tmp_path, change)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, subject, python=lambda: Bundle.open(tmp_path))


def many_keys(text: str) -> str:
    return text.replace("{", "{" + "".join(f'"k{number}": 1, ' for number in range(30_000)), 1)


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 1,}', "nonsense", "\ufeff{}", "[" * 5000, "[" * 99, many_keys('{"a": 1}'), f"[{'1,' * 200_000}1]"]
)
def test_a_manifest_that_is_no_json(library: Any, refused: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, python=lambda: Bundle.open(tmp_path))


def test_there_is_no_bundle(library: Any, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/bundle.json").mkdir(parents=True)
    for path in (tmp_path, f"{tmp_path}//./", tmp_path / "nowhere", tmp_path / "file", tmp_path / "taken"):
        refused(BUNDLE, lambda path=path: library.open(path), tmp_path, python=lambda path=path: Bundle.open(path))


def test_a_graph_reads_listed_weights_and_runs_known_operators(library: Any, refused: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The same bundles as in tests/fuzz, refused by both with the same words."""
    from fuzz.test_seeds import endless, make_copy, reading

    for index, location in enumerate(("w.data", "../../../w.data", str(tmp_path / "w.data"))):
        (tmp_path / str(index)).mkdir()
        reading(folder := make_copy(tmp_path / str(index)), location)
        python = lambda folder=folder: Bundle.open(folder).check()  # noqa: E731
        refused(BUNDLE, lambda folder=folder: library.open(folder), f'reads "{location}", which the bundle does not list', python=python)
    (tmp_path / "loop").mkdir()
    folder = endless(make_copy(tmp_path / "loop"))
    refused(BUNDLE, lambda: library.open(folder), "runs Loop", "SDIC_TRUST=1", python=lambda: Bundle.open(folder).check())
    monkeypatch.setenv("SDIC_TRUST", "1")
    library.open(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("name", ["bundle.json", "onnx/fp32/dipn.onnx"])
def test_a_pipe_in_a_bundle(library: Any, refused: Any, make_bundle: Callable[..., Path], name: str) -> None:
    folder = make_bundle()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(BUNDLE, lambda: library.open(folder), "it is no regular file", python=lambda: Bundle.open(folder).check())


def test_a_sentence_is_short_and_printable(library: Any, refused: Any, tmp_path: Path) -> None:
    said = refused(BUNDLE, lambda: library.open(tmp_path / ("\x1b[31m\n" + "ä" * 3000)), "there is no bundle at", "build it with")
    assert len(said.encode()) <= 400 and said.isprintable()


def damage(kind: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    actions: dict[str, Callable[[], Any]] = {
        "flipped": lambda: path.write_bytes(content),
        "short": lambda: path.write_bytes(content[:-5]),
        "empty": lambda: path.write_bytes(b""),
        "missing": path.unlink,
    }
    actions[kind]()


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "missing"])
def test_a_damaged_file(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any, kind: str) -> None:
    def graph(folder: Path) -> Path:
        return folder / "onnx/fp32/dicn.onnx"

    def optimized(folder: Path) -> Path:
        return Path(tiny.add_cpu_graph(folder, "dipn", half=3))

    def alone(folder: Path) -> Path:
        return Path(tiny.add_cpu_graph(folder, "generator_head:rgb", rm=2))

    for place in (graph, optimized, alone):
        folder = make_bundle(place.__name__)
        damage(kind, path := place(folder))
        refused(BUNDLE, lambda folder=folder: library.open(folder), path, python=lambda folder=folder: Pipeline.load(folder, "onnxruntime"))
    folder = make_bundle("directions")
    damage(kind, folder / "directions/smile.safetensors")
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    refused(BUNDLE, lambda: native.edit(ours, "smile"), "smile.safetensors", python=lambda: python.edit(theirs, "smile"))
    refused(BUNDLE, lambda: native.direction("smile"), "smile.safetensors")


def test_a_graph_of_more_outputs_than_the_one_it_is_for(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("graphs", "generator_head:rgb", {"fp32": ["onnx/fp32/generator_head.onnx"]}))
    refused(BUNDLE, lambda: library.open(folder), f"{folder}/onnx/fp32/generator_head.onnx", "feature", "rgb")


def test_a_graph_of_another_size(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("sizes", "K", 5))
    refused(BUNDLE, lambda: library.open(folder), "feature", 64, python=lambda: Pipeline.load(folder, "onnxruntime"))


@pytest.mark.parametrize(
    ("rows", "batch"), [(((0, 64), (64, 127)), 1), (((0, 65), (64, 128)), 1), (((0, 64), (64, 128)), 2), (((0, 64), (64, 128)), "N")]
)
def test_graphs_that_are_not_bands_of_the_stage(
    library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any, rows: Any, batch: int | str
) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", rows, batch)
    python = lambda: Pipeline.load(folder, "onnxruntime", threads=1)  # noqa: E731
    refused(BUNDLE, lambda: library.open(folder), "generator_tail", "picture" if batch == 1 else "feature", python=python)


def test_a_band_that_fails(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", ((0, 64), (64, 128)))
    tiny.break_band(folder, "generator_tail", 1)
    native, picture, python = library.open(folder, threads=2), black(64, 64, 3), Pipeline.load(folder, "onnxruntime", threads=2)
    refused(RUN, lambda: native.invert(picture), "generator_tail", "Gather", folder, python=lambda: python.invert(picture))


def test_hashes_are_not_compared_when_asked(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    path = folder / "onnx/fp32/dicn.onnx"
    path.write_bytes(path.read_bytes().replace(b"dicn", b"DICN"))  # the name of the graph
    refused(BUNDLE, lambda: library.open(folder), path, "SHA-256")
    assert library.open(folder, verify=0).info().name == b"tiny"


def test_a_graph_that_is_not_the_stage(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    shutil.copy(folder / "onnx/fp32/e4e.onnx", folder / "onnx/fp32/dipn.onnx")
    tiny.change_manifest(folder, ["onnx/fp32/dipn.onnx"])
    refused(BUNDLE, lambda: library.open(folder), "dipn", "reconstruction", python=lambda: Pipeline.load(folder, "onnxruntime"))
    folder = make_bundle("text")
    (folder / "onnx/fp32/e4e.onnx").write_text("not a graph")
    tiny.change_manifest(folder, ["onnx/fp32/e4e.onnx"])
    refused(
        BUNDLE,
        lambda: library.open(folder),
        f"{folder}/onnx/fp32/e4e.onnx",
        "is no ONNX file",
        python=lambda: Pipeline.load(folder, "onnxruntime"),
    )


def test_options_of_opening(library: Any, refused: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    def opened(status: int, *subjects: str, **options: Any) -> None:
        refused(status, lambda: library.open(tiny_bundle, **options), *subjects)

    opened(ARGUMENT, "fp16", "fp32", precision="fp16")
    opened(ARGUMENT, "tpu", "tensorrt-rtx", provider="tpu")
    opened(ARGUMENT, "threads is -1", threads=-1)
    opened(ARGUMENT, "device is -1", device=-1)
    opened(ARGUMENT, "sdic_open_params_default", struct_size=0)
    opened(PROVIDER, "SDIC_ONNXRUNTIME_LIBRARY", onnxruntime_library=str(tmp_path / "libonnxruntime.so"))
    opened(PROVIDER, "libm.so.6", "OrtGetApiBase", onnxruntime_library="libm.so.6")


@pytest.mark.parametrize(
    "provider, name",
    [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider"), ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider")],
)
def test_a_provider_that_is_not_there_is_not_replaced(library: Any, refused: Any, tiny_bundle: Path, provider: str, name: str) -> None:
    import onnxruntime

    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    refused(PROVIDER, lambda: library.open(tiny_bundle, provider=provider), f'"{provider}"', onnxruntime.__version__, name)


def test_pictures(native: Any, refused: Any, python: Pipeline) -> None:
    for shape in ((0, 5, 3), (5, 0, 3), (5, 5, 2)):
        picture = black(*shape)
        refused(PICTURE, lambda picture=picture: native.invert(picture), list(shape), python=lambda picture=picture: python.invert(picture))
    vast = np.lib.stride_tricks.as_strided(black(1), (30_000, 30_000, 3), (0, 0, 0))
    refused(PICTURE, lambda: native.invert(vast), 900_000_000, python=lambda: python.invert(vast))
    refused(ARGUMENT, native.invert, "empty", python=lambda: python.invert([]))
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    for value in (1.5, -3, np.inf, np.nan):
        tensor[0, 1, 2, 3] = value
        refused(PICTURE, lambda: native.invert_tensor(tensor), "[-1, 1]", python=lambda: python.invert(tensor))
    narrow = np.lib.stride_tricks.as_strided(black(100), (5, 5, 3), (4, 3, 1))
    refused(ARGUMENT, lambda: native.invert(narrow), "stride is 4", 15)


def test_edits(native: Any, refused: Any, python: Pipeline) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))

    def check(parts: Any, *subjects: object, python: Callable[[], Any] | None = None, **options: Any) -> None:
        refused(ARGUMENT, lambda: native.edit(ours, parts, **options), *subjects, python=python)

    for name in ("smiles", "SMILE", ""):
        check(name, f'"{name}"', "age, basis, smile", python=lambda name=name: python.edit(theirs, name))
        refused(ARGUMENT, lambda name=name: native.direction(name), f'"{name}"')
    for strength in (float("nan"), float("inf"), float("-inf")):
        check("smile", strength, strengths=[0, strength], python=lambda strength=strength: python.edit(theirs, "smile", [0, strength]))
        check(native.part("smile", weight=strength), strength)
    check("smile", "strengths", strengths=[], python=lambda: python.edit(theirs, "smile", []))
    check([], "empty")
    for shape in ((1, 7), (2, 8), (12, 9), (13, 8)):
        vector = np.zeros(shape, np.float32)
        check(vector, list(shape), python=lambda vector=vector: python.edit(theirs, vector))
    check(np.full((1, 8), np.nan, np.float32), "NaN")
    check("basis", "SDIC_EDIT_GANSPACE_SET")
    basis = python.directions["basis"]
    for *fields, subject in (
        (6, 0, 1, 1.0, 6),
        (-1, 0, 1, 1.0, -1),
        (0, 3, 3, 1.0, "3 to 3"),
        (0, 0, 13, 1.0, 13),
        (0, 0, 1, float("nan"), "sigma"),
    ):
        part = native.part("basis", kind=1, **dict(zip(("component", "first_row", "end_row", "sigma"), fields, strict=True)))
        check(part, subject, python=lambda fields=fields: python.edit(theirs, GanSpaceEdit(basis, *fields)))
    check(native.part("smile", kind=2), "basis")
    check(native.part("smile", kind=9), 9)
    check(native.part(), "neither")
    check(native.part("smile", vector=np.zeros(8, np.float32).ctypes.data, rows=1, width=8), "both")
    check("smile", '"other"', "paper, released", move="other", python=lambda: python.edit(theirs, "smile", move="other"))
    refused(ARGUMENT, lambda: native.size("X"), '"X"', "R, S, L, C, K")


def test_moves_that_are_not_meant_for_an_edit(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("moves", "paper", "kinds", ["direction"]))
    change_manifest(folder, set_key("moves", "released", "kinds", ["ganspace"]))
    change_manifest(folder, delete("programs", "baseline"))
    native = library.open(folder)
    inversion, component = native.invert(black(4, 4, 3)), native.part("basis", kind=1, end_row=3, sigma=1)
    assert not np.array_equal(native.edit(inversion, component).tensor("picture"), inversion.tensor("picture"))
    refused(ARGUMENT, lambda: native.edit(inversion, component, move="paper"), "paper", "released")
    refused(ARGUMENT, lambda: native.edit(inversion, [component, native.part("smile")]), "direction", "ganspace")
    refused(ARGUMENT, lambda: native.baseline(inversion), "baseline")


def test_edited_pictures_are_no_inversion(native: Any, refused: Any, tmp_path: Path) -> None:
    edited = native.edit(native.invert(black(4, 4, 3)), "smile")
    refused(ARGUMENT, lambda: native.edit(edited, "smile"), "residual")
    refused(ARGUMENT, lambda: edited.save(tmp_path / "edited"), "feature")
    assert list(tmp_path.iterdir()) == []


def test_an_inversion_of_another_model(library: Any, native: Any, refused: Any, python: Pipeline, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle("other", input=Input((16, 112)))
    ours, theirs = library.open(folder).invert(black(4, 4, 3)), Pipeline.load(folder, "onnxruntime").invert(black(4, 4, 3))
    model = theirs.model.identity[:12]
    refused(ARGUMENT, lambda: native.edit(ours, "smile"), model, python=lambda: python.edit(theirs, "smile"))
    refused(ARGUMENT, lambda: native.baseline(ours), model, python=lambda: python.baseline(theirs))


def write_directions(folder: Path) -> dict[str, str]:
    """Direction files of a bundle that must not be used."""
    save_direction(folder / "wide.safetensors", Direction(np.zeros((1, 9), np.float32), "wide"))
    save_direction(folder / "below.safetensors", Direction(np.zeros((1, 8), np.float32), "below", rows=(5, 13)))
    save_direction(folder / "basis9.safetensors", Pca(np.zeros((1, 9)), np.zeros((2, 1, 9)), np.ones(2), "basis9"))

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    save_file({"direction": zeros(1, 8) + np.float32(np.inf)}, folder / "infinite.safetensors")
    save_file({"direction": zeros(1, 2, 8, 1)}, folder / "shape.safetensors", {"name": "other name"})
    save_file({"direction": zeros(8)}, folder / "rows.safetensors", {"rows": "[1"})
    save_file({"direction": zeros(8)}, folder / "range.safetensors", {"strength_range": "[1, 2, 3]"})
    save_file({"vector": zeros(8), "a": zeros(1)}, folder / "names.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 7), "std": zeros(2) + 1}, folder / "comp.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 8), "std": zeros(2)}, folder / "flat.safetensors")
    (folder / "text.safetensors").write_text("a text, and no tensors at all")
    return {path.stem: f"directions/{path.name}" for path in folder.iterdir()}


def test_direction_files(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    names = write_directions(folder / "directions")
    tiny.change_manifest(folder, list(names.values()), directions=names)
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    for name in ("wide", "below"):
        refused(ARGUMENT, lambda name=name: native.edit(ours, name), name, python=lambda name=name: python.edit(theirs, name))
    for name in ("infinite", "shape", "rows", "range", "names", "comp", "flat", "text"):
        path = folder / f"directions/{name}.safetensors"
        refused(FILE, lambda name=name: native.edit(ours, name), path, python=lambda name=name: python.edit(theirs, name))
    wide = GanSpaceEdit(python.directions["basis9"], 0, 0, 1, 0.0)
    refused(ARGUMENT, lambda: native.edit(ours, native.part("basis9", kind=1, end_row=1)), 9, python=lambda: python.edit(theirs, wide))


def test_files_of_inversions(library: Any, native: Any, refused: Any, python: Pipeline, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    python.invert(black(9, 9, 3)).save(good)
    tensors = load_file(good)
    with safe_open(good, "numpy") as stream:
        metadata = stream.metadata()
    axes, sizes = json.loads(metadata["tensors"]), json.loads(metadata["sizes"])

    def written(name: str, change: dict[str, Any] | None = None, **fields: str | None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        held = {key: value for key, value in {**tensors, **(change or {})}.items() if value is not None}
        save_file(held, path, {key: value for key, value in {**metadata, **fields}.items() if value is not None})
        return path

    content = good.read_bytes()
    for name, bad in {
        "empty": b"",
        "short": content[:5000],
        "long": content + b"x",
        "words": b"a text" * 50,
        "length": b"\xff" * 8 + content[8:],
        "offsets": content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'),
    }.items():
        (tmp_path / name).write_bytes(bad)
    cases: dict[Path, str] = {
        **{tmp_path / name: "damaged" for name in ("empty", "short", "long", "words", "length", "offsets")},
        tmp_path / "nowhere": "there is no inversion",
        tmp_path: "cannot read",
        good / "below": "there is no inversion",
        written("none", format=None): "not a saved inversion",
        written("version", version="3"): "version 3",
        written("no version", version=None): "version",
        written("shape", {"residual": tensors["residual"][:, :1]}): "residual",
        written("gone", {"picture": None}): "picture",
        written("half", {"latent": tensors["latent"].astype(np.float16)}): "latent",
        written("nan", {"feature": tensors["feature"] * np.nan}): "feature",
        written("two names", names='["", ""]'): "latent",
        written("no model", model=None): "model",
        written("no sizes", sizes='{"R": 1}'): "sizes",
        written("vast", sizes=json.dumps({**sizes, "L": 2**62})): "sizes",
        written("lists", sizes="[[]]"): "sizes",
        written("json", names="["): "names",
        written("objects", names="{}"): "names",
        written("rows", visible_rows="[0, 9999]"): "visible_rows",
        written("no tensors", tensors=None): "tensors",
        written("no picture", tensors=json.dumps({**axes, "picture": ["N", 3, "S", "S"]})): "picture",
        written("letter", tensors=json.dumps({**axes, "latent": ["N", "X"]})): "latent",
    }
    for path, subject in cases.items():
        refused(FILE, lambda path=path: library.load(path), path, subject, python=lambda path=path: Inversion.load(path))
    # Of the same model, but with codes of another size: nothing is read beyond their end.
    short = library.load(written("codes", {"latent": tensors["latent"][:, 0, :1]}, tensors=json.dumps({**axes, "latent": ["N", 1]})))
    refused(ARGUMENT, lambda: native.edit(short, "smile"), "latent")
    refused(ARGUMENT, lambda: native.baseline(short), "latent")


def test_places_that_cannot_be_written(native: Any, refused: Any, python: Pipeline, tmp_path: Path) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    (tmp_path / "file").write_text("kept")
    places = [tmp_path, tmp_path / "nowhere/x", tmp_path / "file/x", tmp_path / ("n" * 300)]
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked/x")
    for path in places:
        refused(FILE, lambda path=path: ours.save(path), str(path)[:200], python=lambda path=path: theirs.save(path))
    assert [path for path in tmp_path.iterdir() if path.name != "locked"] == [tmp_path / "file"]


def test_pictures_that_are_not_finite(native: Any, refused: Any, python: Pipeline) -> None:
    vector = np.full((1, 8), 3e38, np.float32)
    ours = native.edit(native.invert(black(4, 4, 3)), vector, [10.0])
    refused(RUN, ours.pictures, "NaN")
    with np.errstate(over="ignore"):
        theirs = python.edit(python.invert(black(4, 4, 3)), vector, 10.0)
    with pytest.raises(SdicError):
        to_bytes(theirs.pixels)


def test_wrong_arguments_of_the_c_functions(library: Any, native: Any, refused: Any) -> None:
    inversion = native.invert(black(4, 4, 3))
    room = np.empty(128 * 128 * 3, np.uint8)

    def picture(index: int, size: int, place: Any) -> None:
        library.call("sdic_result_picture", inversion.handle, ctypes.c_size_t(index), place, ctypes.c_size_t(size))

    place = room.ctypes.data_as(ctypes.c_void_p)
    refused(ARGUMENT, lambda: picture(1, room.nbytes, place), "picture 1")
    refused(ARGUMENT, lambda: picture(0, room.nbytes - 1, place), 49151, 49152)
    refused(ARGUMENT, lambda: picture(0, room.nbytes, None), "NULL")
    refused(ARGUMENT, lambda: inversion.tensor("rgb"), '"rgb"', "latent_enhanced", "picture")
    np.testing.assert_array_equal(inversion.tensor("pixels"), inversion.tensor("picture"))
    arguments = {
        "sdic_open": 3,
        "sdic_pipeline_info": 2,
        "sdic_pipeline_size": 3,
        "sdic_pipeline_direction": 3,
        "sdic_invert": 5,
        "sdic_invert_tensor": 5,
        "sdic_edit": 4,
        "sdic_baseline": 4,
        "sdic_inversion_save": 2,
        "sdic_inversion_load": 2,
        "sdic_result_size": 3,
        "sdic_result_picture": 4,
        "sdic_result_tensor": 3,
    }
    for function, count in arguments.items():
        refused(ARGUMENT, lambda function=function, count=count: library.call(function, *[None] * count), "NULL")
