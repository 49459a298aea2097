from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.bundle.bundle import Bundle, file_entries, manifest_from_dict, manifest_to_dict, write_manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES


@pytest.fixture
def data(tiny_bundle: Path) -> dict[str, Any]:
    return json.loads((tiny_bundle / "bundle.json").read_text())


def broken(data: dict[str, Any], *path: str, value: Any = None) -> dict[str, Any]:
    """A copy of `data` with the entry at `path` set to `value`, or deleted when it is None."""
    result = copy.deepcopy(data)
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def test_what_is_written_reads_back_equal(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    write_manifest(tmp_path, manifest)
    assert Bundle.open(tmp_path).manifest == manifest
    assert manifest_from_dict(json.loads(json.dumps(manifest_to_dict(manifest)))) == manifest


def test_the_manifest_itself_names_the_bundle(tiny_bundle: Path) -> None:
    assert Bundle.open(tiny_bundle / "bundle.json").path == tiny_bundle


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, r"^bundle.json has schema 2, and this version reads schema 1; update with: pip install --upgrade sdic$"),
        (["schema"], 0, "schema is 0, expected 1"),
        (["schema"], True, "schema is True, expected 1"),
        (["schema"], "1", "schema is '1', expected 1"),
        (["stages", "dipn"], None, 'the stage "dipn" is missing'),
        (["stages", "extra"], {"fp32": "onnx/fp32/dipn.onnx"}, 'unknown stage "extra"'),
        (["stages", "dipn"], "onnx/fp32/dipn.onnx", "expected precision -> file"),
        (["stages", "dipn"], {"fp32": 3}, "is 3, expected a string"),
        (["stages", "dipn"], {"fp32": "onnx/fp32/none.onnx"}, '"onnx/fp32/none.onnx" is not listed under files'),
        (["stages", "dipn"], {"fp16": "onnx/fp32/dipn.onnx"}, 'default_precision is "fp32", and all stages are there in: none'),
        (["method"], "other", 'method is "other"'),
        (["surprise"], 1, 'unknown key "surprise"'),
        (["name"], None, 'the key "name" is missing'),
        (["name"], 3, '"name" is 3, expected a string'),
        (["golden"], 3, '"golden" is 3, expected a string or null'),
        (["golden"], "golden/golden.safetensors", "is not listed under files"),
        (["sizes", "rows"], 14, r"14 rows at resolution 128, expected 2 \* log2"),
        (["sizes", "rows"], "12", "expected positive integers for resolution, working, rows, style_width, feature_channels"),
        (["sizes", "working"], None, "expected positive integers"),
        (["visible_rows"], [0, 129], r"visible_rows is \[0, 129\], expected \[first, end\] within 0..128"),
        (["visible_rows"], [64, 64], "visible_rows is"),
        (["visible_rows"], [1, 127], "does not fall on whole rows at the working size 64"),
        (["files", "../../etc/passwd"], {"sha256": "0" * 64, "bytes": 1}, 'the file name "../../etc/passwd" leaves the bundle'),
        (["files", "/etc/passwd"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", "C:\\x"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", "a/../b"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", "onnx/fp32/dipn.onnx"], {"sha256": "xyz", "bytes": 1}, "expected sha256 and bytes"),
        (["files", "onnx/fp32/dipn.onnx"], {"sha256": "0" * 64}, "expected sha256 and bytes"),
        (["tolerances", "fp32"], -1, "expected a positive number"),
        (["tools", "torch"], 2.13, "expected a string"),
        (["partials"], {"generator_head:picture": {}}, 'partials has "generator_head:picture", expected "stage:output" of the stage table'),
        (["partials"], {"generator_head:rgb": "file"}, "expected precision -> file"),
        (["partials"], {"generator_head:rgb": {"fp32": "none.onnx"}}, '"none.onnx" is not listed under files'),
        (["cpu"], [], r'"cpu" is \[\], expected an object'),
        (["cpu"], {"extra": ["dipn.onnx"]}, 'cpu has "extra", expected a stage or "stage:output" of the stage table with a graph in fp32'),
        (
            ["cpu"],
            {"generator_head:picture": ["onnx/fp32/dipn.onnx"]},
            'cpu has "generator_head:picture", expected a stage or "stage:output"',
        ),
        (["cpu"], {"generator_head:": ["onnx/fp32/dipn.onnx"]}, 'cpu has "generator_head:", expected a stage or "stage:output"'),
        (["cpu"], {"rgb": ["onnx/fp32/dipn.onnx"]}, 'cpu has "rgb", expected a stage or "stage:output"'),
        (["cpu"], {"generator_head:rgb": []}, r'cpu\["generator_head:rgb"\] is \[\], expected a list of files'),
        (["cpu"], {"generator_head:rgb": "rgb.onnx"}, r"""cpu\["generator_head:rgb"\] is 'rgb.onnx', expected a list of files"""),
        (["cpu"], {"generator_head:rgb": ["rgb.onnx"]}, '"rgb.onnx" is not listed under files'),
        (["cpu"], {"dipn": {"fp32": "dipn.onnx"}}, r"""cpu\["dipn"\] is \{'fp32': 'dipn.onnx'\}, expected a list of files"""),
        (["cpu"], {"dipn": "onnx/fp32/dipn.onnx"}, r"""cpu\["dipn"\] is 'onnx/fp32/dipn.onnx', expected a list of files"""),
        (["cpu"], {"dipn": []}, r'cpu\["dipn"\] is \[\], expected a list of files'),
        (["cpu"], {"dipn": ["onnx/fp32/dipn.onnx", 1]}, r"""cpu\["dipn"\] is \['onnx/fp32/dipn.onnx', 1\], expected a list of files"""),
        (["cpu"], {"dipn": ["onnx/fp32/dipn.onnx", "onnx/fp32/dipn.cpu.onnx"]}, '"onnx/fp32/dipn.cpu.onnx" is not listed under files'),
    ],
)
def test_a_manifest_that_is_not_valid_is_one_sentence(data: dict[str, Any], path: list[str], value: Any, message: str) -> None:
    with pytest.raises(SdicError, match=message) as caught:
        manifest_from_dict(broken(data, *path, value=value))
    assert "\n" not in str(caught.value)
    assert "sdic-export build" in str(caught.value) or "pip install" in str(caught.value)


def test_a_manifest_that_would_not_read_back_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    import dataclasses

    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, visible_rows=(5, 3))
    with pytest.raises(SdicError, match="visible_rows"):
        write_manifest(tmp_path, manifest)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "there is no bundle at"), (tmp_path, "is not a bundle, it has no bundle.json")):
        with pytest.raises(SdicError, match=message):
            Bundle.open(path)
    file = tmp_path / "model.pt"
    file.write_text("x")
    with pytest.raises(SdicError, match="is not a bundle"):
        Bundle.open(file)
    for text in ("", "{", "[]", "\x00\x01"):
        (tmp_path / "bundle.json").write_text(text)
        with pytest.raises(SdicError, match="is not valid JSON|is not a JSON object"):
            Bundle.open(tmp_path)
    (tmp_path / "bundle.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SdicError, match="is not valid JSON"):
        Bundle.open(tmp_path)


def test_damaged_files_are_named_with_the_command_that_shows_all(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    flipped, short, missing = (folder / f"onnx/fp32/{stage}.onnx" for stage in ("e4e", "dipn", "dicn"))
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    length = short.stat().st_size
    short.write_bytes(short.read_bytes()[:-1])
    missing.unlink()
    bundle = Bundle.open(folder)
    for stage, damage in (
        ("e4e", "its SHA-256 is not the one in bundle.json"),
        ("dipn", f"it has {length - 1} bytes instead of {length}"),
        ("dicn", "it is missing"),
    ):
        with pytest.raises(SdicError) as caught:
            bundle.stage_file(stage)
        assert str(caught.value) == (
            f"{folder / 'onnx/fp32' / stage}.onnx is damaged: {damage}; see the whole extent with: sdic-export verify {folder}"
        )
    assert bundle.stage_file("generator_tail").is_file()
    with pytest.raises(SdicError, match="is damaged"):
        bundle.check()


def test_without_verify_only_sizes_are_compared(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    graph = folder / "onnx/fp32/e4e.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])
    assert Bundle.open(folder, verify=False).stage_file("e4e") == graph
    graph.write_bytes(b"")
    with pytest.raises(SdicError, match="it has 0 bytes"):
        Bundle.open(folder, verify=False).stage_file("e4e")


def test_each_file_is_hashed_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdic_runtime.bundle.bundle

    hashed: list[Path] = []
    plain = sdic_runtime.bundle.bundle.sha256
    monkeypatch.setattr(sdic_runtime.bundle.bundle, "sha256", lambda path: hashed.append(path) or plain(path))
    bundle = Bundle.open(tiny_bundle)
    assert hashed == []
    bundle.check()
    for stage in STAGES:
        bundle.stage_file(stage)
    assert sorted(hashed) == sorted(tiny_bundle / name for name in bundle.manifest.files)


def test_external_weights_are_proven_with_their_graph(make_bundle: Callable[..., Path]) -> None:
    import dataclasses

    folder = make_bundle()
    weights = folder / "onnx/fp32/e4e.onnx.data"
    weights.write_bytes(b"weights")
    manifest = Bundle.open(folder).manifest
    write_manifest(folder, dataclasses.replace(manifest, files={**manifest.files, **file_entries(folder, ["onnx/fp32/e4e.onnx.data"])}))
    assert "onnx/fp32/e4e.onnx.data" in Bundle.open(folder).manifest.stage_files("fp32")
    Bundle.open(folder).stage_file("e4e")
    weights.write_bytes(b"Weights")
    with pytest.raises(SdicError, match="e4e.onnx.data is damaged"):
        Bundle.open(folder).stage_file("e4e")


def test_a_graph_for_processors_brings_its_own_weights_and_those_of_the_stage(make_bundle: Callable[..., Path]) -> None:
    import dataclasses

    folder = make_bundle()
    assert "cpu" not in json.loads((folder / "bundle.json").read_text())
    new = [f"onnx/fp32/e4e{suffix}" for suffix in (".cpu.onnx", ".cpu.onnx.data", ".onnx.data")]
    for name in new:
        (folder / name).write_bytes(b"content")
    manifest = Bundle.open(folder).manifest
    others = set(manifest.stage_files("fp32")) - {"onnx/fp32/e4e.onnx"}
    write_manifest(folder, dataclasses.replace(manifest, files={**manifest.files, **file_entries(folder, new)}, cpu={"e4e": [new[0]]}))
    manifest = Bundle.open(folder).manifest
    assert manifest.cpu == {"e4e": [new[0]]}
    assert manifest.graph_files("e4e", "fp32", cpu=True) == new
    assert manifest.stage_files("fp32", cpu=True) == sorted({*others, *new})
    assert manifest.stage_files("fp32") == sorted({*others, "onnx/fp32/e4e.onnx", "onnx/fp32/e4e.onnx.data"})
    assert Bundle.open(folder).cpu_files("e4e") == [folder / new[0]] and Bundle.open(folder).cpu_files("dicn") == []
    for name in new:
        (folder / name).write_bytes(b"CONTENT")
        with pytest.raises(SdicError, match=f"{name} is damaged: its SHA-256"):
            Bundle.open(folder).cpu_files("e4e")
        (folder / name).write_bytes(b"content")


def test_a_partial_graph_for_processors_brings_the_weights_of_all_forms_of_its_stage(make_bundle: Callable[..., Path]) -> None:
    import dataclasses

    folder = make_bundle()
    identity = Bundle.open(folder).manifest.identity
    whole, partial = "onnx/fp32/generator_head.cpu.onnx", "onnx/fp32/generator_head.cpu.rgb.onnx"
    weights = [f"{graph}.data" for graph in (whole, partial, "onnx/fp32/generator_head.onnx")]
    for name in (whole, partial, *weights):
        (folder / name).write_bytes(b"content")
    manifest = Bundle.open(folder).manifest
    files = {**manifest.files, **file_entries(folder, [whole, partial, *weights[:2]])}
    both = {"generator_head": [whole], "generator_head:rgb": [partial]}
    for cpu, shared in ((both, weights[:2]), ({"generator_head:rgb": [partial]}, weights[1:2])):
        write_manifest(folder, dataclasses.replace(manifest, files=files, cpu=cpu))
        bundle = Bundle.open(folder)
        assert bundle.manifest.cpu == cpu and bundle.manifest.identity == identity
        assert bundle.manifest.graph_files("generator_head:rgb", "fp32", cpu=True) == [partial, *shared]
        assert {partial, *shared} <= set(bundle.manifest.stage_files("fp32", cpu=True))
        assert not {whole, partial} & set(bundle.manifest.stage_files("fp32"))
        assert bundle.cpu_files("generator_head:rgb") == [folder / partial]
    files |= file_entries(folder, weights[2:])
    write_manifest(folder, dataclasses.replace(manifest, files=files, cpu=both))
    assert Bundle.open(folder).manifest.graph_files("generator_head:rgb", "fp32", cpu=True) == [partial, *weights]
    for name in (partial, *weights):
        (folder / name).write_bytes(b"CONTENT")
        with pytest.raises(SdicError, match=f"{name} is damaged: its SHA-256"):
            Bundle.open(folder).cpu_files("generator_head:rgb")
        (folder / name).write_bytes(b"content")


def test_bands_bring_the_weights_of_all_of_them(make_bundle: Callable[..., Path]) -> None:
    import dataclasses

    folder = make_bundle()
    graphs = [f"onnx/fp32/e4e.cpu.{band}.onnx" for band in (0, 1)]
    weights = ["onnx/fp32/e4e.cpu.0.onnx.data", "onnx/fp32/e4e.onnx.data"]
    for name in (*graphs, *weights):
        (folder / name).write_bytes(b"content")
    manifest = Bundle.open(folder).manifest
    write_manifest(
        folder,
        dataclasses.replace(manifest, files={**manifest.files, **file_entries(folder, [*graphs, *weights])}, cpu={"e4e": graphs[::-1]}),
    )
    assert json.loads((folder / "bundle.json").read_text())["cpu"] == {"e4e": graphs[::-1]}
    bundle = Bundle.open(folder)
    assert bundle.manifest.graph_files("e4e", "fp32", cpu=True) == [*graphs[::-1], *weights]
    assert {*graphs, *weights} <= set(bundle.manifest.stage_files("fp32", cpu=True))
    assert bundle.cpu_files("e4e") == [folder / name for name in graphs[::-1]]
    (folder / graphs[1]).unlink()
    with pytest.raises(SdicError, match=r"e4e\.cpu\.1\.onnx is damaged: it is missing; see"):
        Bundle.open(folder).cpu_files("e4e")


def test_a_precision_that_is_not_there_lists_those_that_are(tiny_bundle: Path) -> None:
    with pytest.raises(SdicError, match=r'has no complete set of stages in precision "fp16"; it has: fp32$'):
        Bundle.open(tiny_bundle).stage_file("e4e", "fp16")


def test_identity_is_that_of_the_model_not_of_what_lies_beside_it(data: dict[str, Any]) -> None:
    identity = manifest_from_dict(data).identity
    assert len(identity) == 64
    same = [broken(data, "directions", value={}), broken(data, "licence", value="other"), broken(data, "name", value="renamed")]
    more = copy.deepcopy(data)
    for stage in STAGES:
        more["stages"][stage]["fp16"] = f"onnx/fp16/{stage}.onnx"
        more["files"][f"onnx/fp16/{stage}.onnx"] = {"sha256": "1" * 64, "bytes": 1}
    assert {manifest_from_dict(other).identity for other in [*same, more]} == {identity}
    other_weights = broken(data, "files", "onnx/fp32/dicn.onnx", "sha256", value="2" * 64)
    other_rows = broken(data, "visible_rows", value=[16, 112])
    assert len({identity, manifest_from_dict(other_weights).identity, manifest_from_dict(other_rows).identity}) == 3


def test_entries_are_those_of_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a.bin").write_bytes(content)
    entry = file_entries(tmp_path, ["a.bin"])["a.bin"]
    assert entry.sha256 == hashlib.sha256(content).hexdigest() and entry.bytes == len(content)
