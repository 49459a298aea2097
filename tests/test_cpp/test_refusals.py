"""What cannot be used is refused by libsdic with a status and the sentence that Python gives."""

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
from safetensors.numpy import load_file, save_file

from sdic_runtime import Bundle, Direction, GanSpaceEdit, Inversion, Pipeline, SdicError
from sdic_runtime.bundle.bundle import BUILD_HINT
from sdic_runtime.edits import Pca, save_direction
from sdic_runtime.files import sha256
from sdic_runtime.pictures import to_bytes

ARGUMENT, BUNDLE, PICTURE, FILE, PROVIDER, RUN = range(1, 7)


def sentence(work: Callable[[], Any]) -> str:
    """What Python says."""
    with pytest.raises(SdicError) as caught:
        work()
    return str(caught.value)


def black(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    replaced = change(data)
    path.write_text(json.dumps(data if replaced is None else replaced))


def set_key(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last, value = keys

    def change(data: dict[str, Any]) -> None:
        for key in path:
            data = data[key]
        data[last] = value

    return change


def delete(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last = keys

    def change(data: dict[str, Any]) -> None:
        for key in path:
            data = data[key]
        del data[last]

    return change


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda data: [data],
    "number": lambda data: 7,
    "newer schema": set_key("schema", 2),
    "schema 0": set_key("schema", 0),
    "schema text": set_key("schema", "it's 1"),
    "schema true": set_key("schema", True),
    "no schema": delete("schema"),
    "unknown key": set_key("weights", 1),
    "missing key": delete("default_precision"),
    "name number": set_key("name", 1.5),
    "name list": set_key("name", [None, True, {"a": "b\n'\""}]),
    "visible object": set_key("visible_rows", {}),
    "golden list": set_key("golden", []),
    "long value": set_key("licence", ["x" * 100]),
    "long value of letters beyond ASCII": set_key("licence", ["ä" * 100]),
    "method": set_key("method", "pti"),
    "sizes missing": delete("sizes", "rows"),
    "sizes zero": set_key("sizes", "rows", 0),
    "sizes true": set_key("sizes", "rows", True),
    "sizes more": set_key("sizes", "depth", 3),
    "sizes rows": set_key("sizes", "rows", 18),
    "rows three": set_key("visible_rows", [0, 1, 2]),
    "rows empty": set_key("visible_rows", [5, 5]),
    "rows beyond": set_key("visible_rows", [0, 129]),
    "rows fraction": set_key("visible_rows", [0.5, 128]),
    "rows odd": set_key("visible_rows", [1, 128]),
    "file outside": set_key("files", "../evil", {"sha256": "0" * 64, "bytes": 1}),
    "file absolute": set_key("files", "/etc/passwd", {"sha256": "0" * 64, "bytes": 1}),
    "file doubled": set_key("files", "a//b", {"sha256": "0" * 64, "bytes": 1}),
    "file drive": set_key("files", "C:x", {"sha256": "0" * 64, "bytes": 1}),
    "file hash": set_key("files", "x", {"sha256": "0" * 63, "bytes": 1}),
    "file list": set_key("files", "x", [1e-7, 0.1, 3.0, 1e22]),
    "stage missing": delete("stages", "dicn"),
    "stage unknown": set_key("stages", "gan", {"fp32": "x"}),
    "stage empty": set_key("stages", "dipn", {}),
    "stage number": set_key("stages", "dipn", {"fp32": 3}),
    "stage unlisted": set_key("stages", "dipn", {"fp32": "other.onnx"}),
    "partial unknown": set_key("partials", {"dipn:picture": {}}),
    "partial list": set_key("partials", {"generator_head:rgb": []}),
    "partial number": set_key("partials", {"generator_head:rgb": {"fp32": 1}}),
    "partial unlisted": set_key("partials", {"generator_head:rgb": {"fp32": "other.onnx"}}),
    "cpu list": set_key("cpu", []),
    "cpu unknown": set_key("cpu", {"picture": "onnx/fp32/dipn.onnx"}),
    "cpu output unknown": set_key("cpu", {"generator_head:picture": ["onnx/fp32/dipn.onnx"]}),
    "cpu output empty": set_key("cpu", {"generator_head:": ["onnx/fp32/dipn.onnx"]}),
    "cpu output twice": set_key("cpu", {"generator_head:rgb:rgb": ["onnx/fp32/dipn.onnx"]}),
    "cpu output text": set_key("cpu", {"generator_head:rgb": "onnx/fp32/dipn.onnx"}),
    "cpu output unlisted": set_key("cpu", {"generator_head:rgb": ["onnx/fp32/generator_head.cpu.rgb.onnx"]}),
    "cpu number": set_key("cpu", {"dipn": 1}),
    "cpu text": set_key("cpu", {"dipn": "onnx/fp32/dipn.onnx"}),
    "cpu empty": set_key("cpu", {"dipn": []}),
    "cpu list of numbers": set_key("cpu", {"dipn": ["onnx/fp32/dipn.onnx", 1]}),
    "cpu unlisted": set_key("cpu", {"dipn": ["onnx/fp32/dipn.cpu.onnx"]}),
    "cpu band unlisted": set_key("cpu", {"dipn": ["onnx/fp32/dipn.onnx", "onnx/fp32/dipn.cpu.1.onnx"]}),
    "direction number": set_key("directions", "smile", 1),
    "direction unlisted": set_key("directions", "smile", "directions/frown.safetensors"),
    "golden unlisted": set_key("golden", "golden.safetensors"),
    "tolerance zero": set_key("tolerances", "fp32", 0),
    "tolerance text": set_key("tolerances", "fp32", "much"),
    "tool number": set_key("tools", {"torch": 2}),
    "checkpoint number": set_key("checkpoint", {"path": 2}),
    "precision": set_key("default_precision", "fp16"),
}


@pytest.fixture(scope="module")
def empty_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest alone: it is refused before any file is looked at."""
    folder = tmp_path_factory.mktemp("manifest")
    shutil.copy(tiny_bundle / "bundle.json", folder)
    return folder


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_schema_1_does_not_allow(library: Any, refusal: Any, empty_bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(empty_bundle / "bundle.json", tmp_path)
    change_manifest(tmp_path, MANIFESTS[name])
    assert refusal(lambda: library.open(tmp_path)) == (BUNDLE, sentence(lambda: Bundle.open(tmp_path)))


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1,}', "nonsense", "\ufeff{}", "[" * 5000])
def test_a_manifest_that_is_no_json(library: Any, refusal: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    status, said = refusal(lambda: library.open(tmp_path))
    assert status == BUNDLE and len(said) < 500
    if text.startswith("\ufeff"):
        return  # the one parser skips a byte order mark, the other refuses it: either names what is wrong
    assert said.startswith(f"{tmp_path}/bundle.json is not valid JSON (") and said.endswith("); " + BUILD_HINT)


def test_there_is_no_bundle(library: Any, refusal: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/bundle.json").mkdir(parents=True)
    for path in (tmp_path, f"{tmp_path}//./", tmp_path / "nowhere", tmp_path / "file", tmp_path / "taken"):
        assert refusal(lambda path=path: library.open(path)) == (BUNDLE, sentence(lambda path=path: Bundle.open(path)))


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
def test_a_damaged_file(library: Any, refusal: Any, make_bundle: Callable[..., Path], kind: str) -> None:
    folder = make_bundle()
    damage(kind, folder / "onnx/fp32/dicn.onnx")
    assert refusal(lambda: library.open(folder)) == (BUNDLE, sentence(lambda: Pipeline.load(folder, "onnxruntime")))
    folder = make_bundle("directions")
    damage(kind, folder / "directions/smile.safetensors")
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    inversion, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    assert refusal(lambda: native.edit(inversion, "smile")) == (BUNDLE, sentence(lambda: python.edit(theirs, "smile")))


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "missing"])
def test_a_damaged_graph_for_processors(library: Any, refusal: Any, make_bundle: Callable[..., Path], tiny: Any, kind: str) -> None:
    folder = make_bundle()
    damage(kind, tiny.add_cpu_graph(folder, "dipn", half=3))
    assert refusal(lambda: library.open(folder)) == (BUNDLE, sentence(lambda: Pipeline.load(folder, "onnxruntime")))
    folder = make_bundle("onnx")
    damage(kind, tiny.add_cpu_graph(folder, "generator_head:rgb", rm=2))
    assert refusal(lambda: library.open(folder)) == (BUNDLE, sentence(lambda: Pipeline.load(folder, "onnxruntime")))


def test_a_graph_of_more_outputs_than_the_one_it_is_for(library: Any, refusal: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("cpu", {"generator_head:rgb": ["onnx/fp32/generator_head.onnx"]}))
    status, said = refusal(lambda: library.open(folder))
    assert status == BUNDLE and said.startswith(f"{folder}/onnx/fp32/generator_head.onnx has the outputs feature tensor(float)")
    assert said.endswith('where the stage "generator_head" has rgb in float32; build it again with: sdic-export build')


@pytest.mark.parametrize(
    ("rows", "batch"), [(((0, 64), (64, 127)), 1), (((0, 65), (64, 128)), 1), (((0, 64), (64, 128)), 2), (((0, 64), (64, 128)), "N")]
)
def test_graphs_that_are_not_bands_of_the_stage(
    library: Any, refusal: Any, make_bundle: Callable[..., Path], tiny: Any, rows: Any, batch: int | str
) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", rows, batch)
    assert refusal(lambda: library.open(folder)) == (BUNDLE, sentence(lambda: Pipeline.load(folder, "onnxruntime", threads=1)))


def test_a_band_that_fails(library: Any, refusal: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", ((0, 64), (64, 128)))
    tiny.break_band(folder, "generator_tail", 1)
    native, picture = library.open(folder, threads=2), black(64, 64, 3)
    status, text = refusal(lambda: native.invert(picture))
    python = Pipeline.load(folder, "onnxruntime", threads=2)
    start = 'the stage "generator_tail" failed: '
    for message in (text, sentence(lambda: python.invert(picture))):
        assert message.startswith(start) and "Gather" in message and message.endswith(f"; see: sdic-export verify {folder}")
    assert status == RUN


def test_hashes_are_left_alone_when_asked(library: Any, refusal: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    path = folder / "onnx/fp32/dicn.onnx"
    path.write_bytes(path.read_bytes().replace(b"sdic", b"sdic")[:-1] + b"\0")
    status, _ = refusal(lambda: library.open(folder))
    assert status == BUNDLE
    try:
        library.open(folder, verify=0)
    except Exception as error:  # what is loaded then is ONNX Runtime's to judge
        assert "SHA-256" not in str(error)


def test_a_graph_that_is_not_the_stage(library: Any, refusal: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    graph = Path(shutil.copy(folder / "onnx/fp32/e4e.onnx", folder / "onnx/fp32/dipn.onnx"))
    change_manifest(folder, set_key("files", "onnx/fp32/dipn.onnx", {"sha256": sha256(graph), "bytes": graph.stat().st_size}))
    assert refusal(lambda: library.open(folder)) == (BUNDLE, sentence(lambda: Pipeline.load(folder, "onnxruntime")))
    folder = make_bundle("text")
    text = folder / "onnx/fp32/e4e.onnx"
    text.write_text("not a graph")
    change_manifest(folder, set_key("files", "onnx/fp32/e4e.onnx", {"sha256": sha256(text), "bytes": text.stat().st_size}))
    status, said = refusal(lambda: library.open(folder))
    assert status == RUN and said.startswith(f'the stage "e4e" could not be loaded from {text}: ')
    assert said.endswith(f"; see: sdic-export verify {folder}")


def test_options_of_opening(library: Any, refusal: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    def opened(**options: Any) -> tuple[int, str]:
        return tuple(refusal(lambda: library.open(tiny_bundle, **options)))

    assert opened(precision="fp16") == (ARGUMENT, sentence(lambda: Pipeline.load(tiny_bundle, "onnxruntime", precision="fp16")))
    assert opened(provider="tpu") == (ARGUMENT, 'the provider is "tpu"; use cpu, cuda, tensorrt or tensorrt-rtx')
    assert opened(threads=-1) == (ARGUMENT, "threads is -1; give a whole number of at least 1, or 0 for all cores")
    assert opened(device=-1) == (ARGUMENT, "the device is -1; give the number of a GPU, counted from 0")
    unset = "sdic_open_params has a struct_size of 0; call sdic_open_params_default before filling it in"
    assert opened(struct_size=0) == (ARGUMENT, unset)
    status, said = opened(onnxruntime_library=str(tmp_path / "libonnxruntime.so"))
    assert status == PROVIDER and said.startswith("ONNX Runtime could not be loaded (") and "SDIC_ONNXRUNTIME_LIBRARY" in said
    status, said = opened(onnxruntime_library="libm.so.6")
    assert status == PROVIDER and said.startswith("the library libm.so.6 is not ONNX Runtime, it has no OrtGetApiBase; ")


@pytest.mark.parametrize(
    "provider, name",
    [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider"), ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider")],
)
def test_a_provider_that_is_not_there_is_not_replaced(library: Any, refusal: Any, tiny_bundle: Path, provider: str, name: str) -> None:
    import onnxruntime

    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    status, said = refusal(lambda: library.open(tiny_bundle, provider=provider))
    assert status == PROVIDER
    assert said.startswith(f'the provider "{provider}" is not in this ONNX Runtime {onnxruntime.__version__}, which has: ')
    assert said.endswith(f"; name a library that was built with {name}")


def test_pictures(native: Any, refusal: Any, python: Pipeline) -> None:
    for shape in ((0, 5, 3), (5, 0, 3), (5, 5, 2)):
        picture = black(*shape)
        expected = sentence(lambda picture=picture: python.invert(picture))
        assert refusal(lambda picture=picture: native.invert(picture)) == (PICTURE, expected)
    vast = np.lib.stride_tricks.as_strided(black(1), (30_000, 30_000, 3), (0, 0, 0))
    said = "the picture has 900 megapixels, and the limit is 100; make the picture smaller"
    assert refusal(lambda: native.invert(vast)) == (PICTURE, said) and sentence(lambda: python.invert(vast)) == said
    assert refusal(native.invert) == (ARGUMENT, sentence(lambda: python.invert([])))
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    for value in (1.5, -3, np.inf, np.nan):
        tensor[0, 1, 2, 3] = value
        assert refusal(lambda: native.invert_tensor(tensor)) == (PICTURE, sentence(lambda: python.invert(tensor)))
    narrow = np.lib.stride_tricks.as_strided(black(100), (5, 5, 3), (4, 3, 1))
    said = "the picture's stride is 4 bytes, and one row has 15; give 0 or at least that"
    assert refusal(lambda: native.invert(narrow)) == (ARGUMENT, said)


def test_edits(native: Any, refusal: Any, python: Pipeline) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))

    def refused(parts: Any, **options: Any) -> tuple[int, str]:
        return tuple(refusal(lambda: native.edit(ours, parts, **options)))

    def said(edit: Any, strength: Any = 1.0, **options: Any) -> tuple[int, str]:
        return ARGUMENT, sentence(lambda: python.edit(theirs, edit, strength, **options))

    for name in ("smiles", "SMILE", "", "glasses", "ag", "basi", "x" * 200):
        assert refused(name) == said(name)
    for strength in (float("nan"), float("inf"), float("-inf")):
        assert refused("smile", strengths=[0, strength]) == said("smile", [0, strength])
        assert refused(native.part("smile", weight=strength)) == said([("smile", strength)])
    assert refused("smile", strengths=[]) == said("smile", [])
    assert refused([]) == (ARGUMENT, "the combined edit is empty; give at least one (edit, strength)")
    for shape in ((1, 7), (2, 8), (12, 9), (13, 8)):
        vector = np.zeros(shape, np.float32)
        assert refused(vector) == said(vector)
    assert refused(np.full((1, 8), np.nan, np.float32)) == said(np.full((1, 8), np.nan, np.float32))
    status, basis_alone = refused("basis")
    assert status == ARGUMENT and basis_alone.startswith("a PCA basis is not an edit by itself; choose a component with SDIC_EDIT_")
    basis = python.directions["basis"]
    for fields in ((6, 0, 1, 1.0), (-1, 0, 1, 1.0), (0, 3, 3, 1.0), (0, 0, 13, 1.0), (0, 0, 1, float("nan"))):
        part = native.part("basis", kind=1, **dict(zip(("component", "first_row", "end_row", "sigma"), fields, strict=True)))
        assert refused(part) == (ARGUMENT, sentence(lambda fields=fields: python.edit(theirs, GanSpaceEdit(basis, *fields))))
    assert refused(native.part("smile", kind=2)) == (ARGUMENT, "a GANSpace edit needs a PCA basis: the name of one in the bundle")
    assert refused(native.part("smile", kind=9)) == (ARGUMENT, "the edit's kind is 9; use one of sdic_edit_kind")
    assert refused("smile", eq6=2) == (ARGUMENT, 'eq6 is "2"; use "paper" or "released"')
    assert refused(native.part()) == (ARGUMENT, "an edit has neither a direction's name nor a vector; give one of them")
    both = native.part("smile", vector=np.zeros(8, np.float32).ctypes.data, rows=1, width=8)
    assert refused(both) == (ARGUMENT, "an edit has both a direction's name and a vector; give one of them")


def test_an_inversion_of_another_model(library: Any, native: Any, refusal: Any, python: Pipeline, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle("other", visible_rows=(16, 112))
    ours, theirs = library.open(folder).invert(black(4, 4, 3)), Pipeline.load(folder, "onnxruntime").invert(black(4, 4, 3))
    assert refusal(lambda: native.edit(ours, "smile")) == (ARGUMENT, sentence(lambda: python.edit(theirs, "smile")))
    assert refusal(lambda: native.baseline(ours)) == (ARGUMENT, sentence(lambda: python.baseline(theirs)))


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
    save_file({"vector": zeros(8), "a": zeros(1)}, folder / "names.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 7), "std": zeros(2) + 1}, folder / "comp.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 8), "std": zeros(2)}, folder / "flat.safetensors")
    (folder / "text.safetensors").write_text("a text, and no tensors at all")
    return {path.stem: f"directions/{path.name}" for path in folder.iterdir()}


def test_direction_files(library: Any, refusal: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    names = write_directions(folder / "directions")
    change_manifest(folder, lambda data: data.update(directions=names))
    change_manifest(
        folder,
        lambda data: data["files"].update(
            {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names.values()}
        ),
    )
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    for name in ("wide", "below", "infinite", "shape", "rows", "names", "comp", "flat"):
        status, said = refusal(lambda name=name: native.edit(ours, name))
        assert (status in (ARGUMENT, BUNDLE), said) == (True, sentence(lambda name=name: python.edit(theirs, name))), name
    status, said = refusal(lambda: native.edit(ours, "text"))
    path = folder / "directions/text.safetensors"
    assert (status, said) == (BUNDLE, f"{path} is not a direction file: its header does not fit into it; get it again")
    basis = native.part("basis9", kind=1, end_row=1)
    wide = GanSpaceEdit(python.directions["basis9"], 0, 0, 1, 0.0)
    assert refusal(lambda: native.edit(ours, basis)) == (ARGUMENT, sentence(lambda: python.edit(theirs, wide)))


def test_files_of_inversions(library: Any, native: Any, refusal: Any, python: Pipeline, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    python.invert(black(9, 9, 3)).save(good)
    tensors = load_file(good)
    metadata = json.loads(good.read_bytes()[8 : 8 + int.from_bytes(good.read_bytes()[:8], "little")])["__metadata__"]

    def written(name: str, change: dict[str, Any] | None = None, **fields: str | None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        held = {key: value for key, value in {**tensors, **(change or {})}.items() if value is not None}
        save_file(held, path, {key: value for key, value in {**metadata, **fields}.items() if value is not None})
        return path

    same = [
        tmp_path / "nowhere",
        tmp_path,
        good / "below",
        written("none", format=None),
        written("version", version="2"),
        written("shape", {"residual": tensors["residual"][:, :1]}),
        written("gone", {"pixels": None}),
        written("half", {"latent": tensors["latent"].astype(np.float16)}),
        written("nan", {"feature": tensors["feature"] * np.nan}),
        written("two names", names='["", ""]'),
        written("no model", model=None),
    ]
    for path in same:
        assert refusal(lambda path=path: library.load(path)) == (FILE, sentence(lambda path=path: Inversion.load(path))), path
    vast = json.dumps({**python.sizes.as_dict(), "rows": 2**62})
    for name, fields in {
        "sizes": {"sizes": '{"rows": 1}'},
        "json": {"names": "["},
        "visible": {"visible_rows": "[0, 9999]"},
        "list": {"names": "{}"},
        "vast": {"sizes": vast},
    }.items():
        path = written(name, **fields)
        status, said = refusal(lambda path=path: library.load(path))
        assert status == FILE and said.startswith(f"{path} has damaged metadata (") and said.endswith("; invert the picture again")
    content = good.read_bytes()
    for name, bad in {
        "empty": b"",
        "short": content[:5000],
        "long": content + b"x",
        "text": b"a text" * 50,
        "length": b"\xff" * 8 + content[8:],
        "offsets": content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'),
    }.items():
        path = tmp_path / name
        path.write_bytes(bad)
        for said in (refusal(lambda path=path: library.load(path))[1], sentence(lambda path=path: Inversion.load(path))):
            assert said.startswith(f"{path} is not a saved inversion, or damaged (") and said.endswith("; invert the picture again")


def test_places_that_cannot_be_written(native: Any, refusal: Any, python: Pipeline, tmp_path: Path) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    (tmp_path / "file").write_text("kept")
    places = [tmp_path, tmp_path / "nowhere/x", tmp_path / "file/x", tmp_path / ("n" * 300)]
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked/x")
    for path in places:
        assert refusal(lambda path=path: ours.save(path)) == (FILE, sentence(lambda path=path: theirs.save(path)))
    assert [path for path in tmp_path.iterdir() if path.name != "locked"] == [tmp_path / "file"]


def test_pictures_that_are_not_finite(library: Any, refusal: Any, native: Any, python: Pipeline, tmp_path: Path) -> None:
    inversion = python.invert(black(4, 4, 3))
    vector = np.full((1, 8), 3e38, np.float32)
    ours = native.edit(native.invert(black(4, 4, 3)), vector, [10.0])
    with np.errstate(over="ignore"):
        theirs = python.edit(inversion, vector, 10.0)
    assert refusal(ours.pictures) == (RUN, sentence(lambda: to_bytes(theirs.pixels)))


def test_wrong_arguments_of_the_c_functions(library: Any, native: Any, refusal: Any) -> None:
    inversion = native.invert(black(4, 4, 3))
    room = np.empty(128 * 128 * 3, np.uint8)

    def picture(index: int, size: int, place: Any) -> None:
        library.call("sdic_inversion_picture", inversion.handle, ctypes.c_size_t(index), place, ctypes.c_size_t(size))

    place = room.ctypes.data_as(ctypes.c_void_p)
    assert refusal(lambda: picture(1, room.nbytes, place)) == (ARGUMENT, "there is no picture 1; there are 1, counted from 0")
    assert refusal(lambda: picture(0, room.nbytes - 1, place)) == (ARGUMENT, "the place for the picture has 49151 bytes; 49152 are needed")
    assert refusal(lambda: picture(0, room.nbytes, None)) == (ARGUMENT, "the place for the picture is NULL; give one")
    assert refusal(lambda: inversion.tensor("rgb")) == (
        ARGUMENT,
        'there is no tensor "rgb"; there are: discrepancy, feature, latent, latent_enhanced, pixels, reconstruction, residual',
    )
    arguments = {
        "sdic_open": 3,
        "sdic_pipeline_info": 2,
        "sdic_invert": 5,
        "sdic_invert_tensor": 5,
        "sdic_edit": 4,
        "sdic_baseline": 4,
        "sdic_inversion_save": 2,
        "sdic_inversion_load": 2,
        "sdic_inversion_size": 3,
        "sdic_edited_size": 3,
        "sdic_inversion_picture": 4,
        "sdic_edited_picture": 4,
        "sdic_inversion_tensor": 3,
        "sdic_edited_tensor": 3,
    }
    for function, count in arguments.items():
        status, said = refusal(lambda function=function, count=count: library.call(function, *[None] * count))
        assert status == ARGUMENT and said.endswith(" is NULL; give one")
