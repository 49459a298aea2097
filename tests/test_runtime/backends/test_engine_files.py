"""Settings, places and sidecars of engines, and the sentence that says why an engine cannot be used here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdic_runtime.backends.cuda.driver import GpuAttributes
from sdic_runtime.backends.tensorrt.engine_files import (
    SIDECAR,
    EngineEntry,
    Sidecar,
    engine_folder,
    engine_name,
    find_engines,
    graph_file,
    graph_names,
    onnx_hash,
    read_sidecar,
    stale,
    write_sidecar,
)
from sdic_runtime.backends.tensorrt.places import Place, bound_place, folder_name, mismatch
from sdic_runtime.backends.tensorrt.settings import EngineSettings, Hardware, Profile, Target, build_command
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, printable
from sdic_runtime.files import sha256

ADA = GpuAttributes("8.9", 128, 384, 72 << 20, 100 << 10, 24 << 30, False, "Ada card")
HOPPER = GpuAttributes("9.0", 132, 5120, 50 << 20, 228 << 10, 141 << 30, True, "Hopper card")
SETTINGS = EngineSettings("fp32")


def place(target: str = "tensorrt", version: str = "11.4.0", gpu: GpuAttributes | None = ADA) -> Place:
    return Place(Target(target), version, gpu)


def asked(**changes: Any) -> EngineSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


def put(bundle: Bundle, where: Place, settings: EngineSettings = SETTINGS) -> Path:
    """Engines of `bundle` that hold nothing but their name."""
    folder = engine_folder(bundle, where, settings)
    folder.mkdir(parents=True)
    entries = {}
    for graph in graph_names(bundle, settings.precision):
        path = folder / engine_name(graph)
        path.write_text(graph)
        entries[graph] = EngineEntry(
            path.name, sha256(path), path.stat().st_size, onnx_hash(bundle, graph, settings.precision), 1.5, {"source": "plan"}
        )
    write_sidecar(folder, Sidecar(where.target, where.version, settings, bound_place(where, settings).gpu, entries))
    return folder


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Bundle:
    return Bundle.open(make_bundle())


def test_a_profile_is_read_and_written() -> None:
    assert Profile.parse("1,2,8") == Profile(1, 2, 8)
    assert str(Profile(1, 2, 8)) == "1,2,8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", '^the batch profile is "1,2"; give MIN,OPT,MAX such as 1,1,4$'),
        ("a,b,c", '^the batch profile is "a,b,c"'),
        ("2,1,4", "^the batch profile is 2,1,4; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,1,4$"),
        ("0,1,4", "^the batch profile is 0,1,4"),
        ("1,8,4", "^the batch profile is 1,8,4"),
    ],
)
def test_a_bad_profile(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Profile.parse(text)


def test_the_key_changes_with_everything_that_matters_and_with_nothing_else() -> None:
    base = folder_name(place(), SETTINGS)
    assert base.startswith("tensorrt-11.4.0-sm89-fp32-b1-1-4-")
    others = [
        folder_name(place(version="11.5.0"), SETTINGS),
        folder_name(place(gpu=HOPPER), SETTINGS),
        folder_name(place(gpu=replace(ADA, multiprocessors=76)), SETTINGS),
        folder_name(place(gpu=replace(ADA, error_correction=True)), SETTINGS),
        folder_name(place(), asked(profile=Profile(1, 1, 8))),
        folder_name(place(), asked(workspace_bytes=1 << 30)),
        folder_name(place(), asked(precision="fp16")),
        folder_name(place("tensorrt-rtx"), SETTINGS),
    ]
    assert len({base, *others}) == len(others) + 1
    assert folder_name(place(gpu=replace(ADA, name="the same chip, another label")), SETTINGS) == base


def test_engines_that_are_not_bound_to_a_gpu_have_one_key_for_all() -> None:
    assert folder_name(place("tensorrt-rtx", gpu=None), SETTINGS) == folder_name(place("tensorrt-rtx", gpu=ADA), SETTINGS)
    assert "-smdefault-" in folder_name(place("tensorrt-rtx"), SETTINGS)
    assert "-sm86-120-" in folder_name(place("tensorrt-rtx"), asked(compute_capabilities=("8.6", "12.0")))
    compatible = asked(hardware=Hardware.ampere_plus)
    assert folder_name(place(gpu=ADA), compatible) == folder_name(place(gpu=HOPPER), compatible)
    same = asked(hardware=Hardware.same_capability)
    assert folder_name(place(gpu=ADA), same) == folder_name(place(gpu=replace(ADA, multiprocessors=76)), same)
    assert folder_name(place(gpu=ADA), same) != folder_name(place(gpu=HOPPER), same)


def test_a_sidecar_comes_back_as_it_was(bundle: Bundle) -> None:
    settings = EngineSettings("fp32", Profile(1, 2, 4), ("8.9",), workspace_bytes=1 << 30)
    folder = put(bundle, place(), settings)
    sidecar = read_sidecar(folder)
    assert sidecar.settings == settings
    assert sidecar.gpu == ADA
    assert sidecar.gpu is not None
    assert sidecar.gpu.name == "Ada card"
    assert list(sidecar.stages) == graph_names(bundle, "fp32")
    write_sidecar(folder, sidecar)
    assert read_sidecar(folder) == sidecar


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a valid sidecar of engines"),
        ('{"schema": 2}', "is not a valid sidecar of engines .*missing required field `target`"),
        ('{"schema": 1}', "has schema 1, and this version reads schema 2; build the engines again"),
        ("[]", "is not a valid sidecar of engines"),
    ],
)
def test_a_broken_sidecar(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / SIDECAR).write_text(content)
    with pytest.raises(BackendError, match=message):
        read_sidecar(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("target",), "cuda", "Invalid enum value 'cuda' - at `\\$.target`"),
        (("settings", "profile"), [4, 1, 1], "the batch profile is 4,1,1; give MIN,OPT,MAX"),
        (("settings", "platform"), "linux", "Object contains unknown field `platform`"),
        (("gpu", "multiprocessors"), "many", "Expected `int`, got `str` - at `\\$.gpu.multiprocessors`"),
        (("stages", "dicn", "file"), "../../../secret", "Expected `str` matching regex .* - at `\\$.stages\\[...\\].file`"),
    ],
)
def test_a_sidecar_with_a_wrong_value(bundle: Bundle, path: tuple[str, ...], value: Any, message: str) -> None:
    folder = put(bundle, place())
    data = json.loads((folder / SIDECAR).read_text())
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / SIDECAR).write_text(json.dumps(data))
    with pytest.raises(BackendError, match=f"engine.json is not a valid sidecar of engines \\({message}.*; build the engines again$"):
        read_sidecar(folder)


def test_the_fitting_engines_are_found(bundle: Bundle) -> None:
    folder = put(bundle, place())
    found, sidecar = find_engines(bundle, place(), batch=4)
    assert found == folder
    assert sidecar.target == "tensorrt"


def test_half_precision_comes_first_and_then_the_smallest_batch_that_does(bundle: Bundle) -> None:
    large = put(bundle, place(), asked(profile=Profile(1, 1, 8)))
    small = put(bundle, place(), SETTINGS)
    assert find_engines(bundle, place(), batch=1)[0] == small
    assert find_engines(bundle, place(), batch=6)[0] == large


def test_no_engines_gives_the_command(bundle: Bundle) -> None:
    with pytest.raises(BackendError) as caught:
        find_engines(bundle, place("tensorrt-rtx"), "fp32")
    assert str(caught.value) == (
        f"{bundle.path} has no TensorRT-RTX engines; build them with: "
        f"sdic-export engines {bundle.path} --target tensorrt-rtx --precision fp32"
    )


@pytest.mark.parametrize(
    ("built", "here", "why"),
    [
        (place(version="11.3.0"), place(), "they were built by TensorRT 11.3.0, and 11.4.0 is installed"),
        (place(gpu=HOPPER), place(), "they were built for Hopper card with compute capability 9.0, and this is Ada card with 8.9"),
        (
            place(gpu=replace(ADA, multiprocessors=76)),
            place(),
            "they were built for Ada card with multiprocessors 76, and this is Ada card with 128",
        ),
        (
            place(),
            place(gpu=replace(ADA, error_correction=True)),
            "they were built for Ada card with error correction False, and this is Ada card with True",
        ),
        (place(), place(gpu=None), "there is no GPU here"),
        (place("tensorrt-rtx", "1.7.1"), place("tensorrt-rtx", "1.8.0"), "they were built by TensorRT-RTX 1.7.1, and 1.8.0 is installed"),
        (
            place("tensorrt-rtx"),
            place("tensorrt-rtx", gpu=HOPPER),
            "they were built for the compute capabilities 8.0, 8.6, 8.9, 12.0, and this GPU has 9.0",
        ),
    ],
)
def test_why_not_these_engines(bundle: Bundle, built: Place, here: Place, why: str) -> None:
    folder = put(bundle, built)
    with pytest.raises(BackendError) as caught:
        find_engines(bundle, here)
    assert str(caught.value) == printable(
        f"the engines in {folder} cannot be used: {why}; build them again with: "
        f"sdic-export engines {bundle.path} --target {here.target} --precision fp32"
    )


def test_the_other_target_is_no_candidate(bundle: Bundle) -> None:
    put(bundle, place("tensorrt-rtx"))
    with pytest.raises(BackendError, match="has no TensorRT engines"):
        find_engines(bundle, place("tensorrt"))
    assert mismatch(place("tensorrt-rtx"), SETTINGS, place("tensorrt")) == "they were built by TensorRT-RTX, and this is TensorRT"


@pytest.mark.parametrize(
    ("hardware", "here", "why"),
    [
        (Hardware.ampere_plus, HOPPER, None),
        (
            Hardware.ampere_plus,
            replace(ADA, compute_capability="7.5"),
            "they run on compute capability 8.0 and later, and this GPU has 7.5",
        ),
        (Hardware.same_capability, replace(ADA, multiprocessors=60), None),
        (Hardware.same_capability, HOPPER, "they were built for compute capability 8.9, and this GPU has 9.0"),
    ],
)
def test_hardware_compatible_engines(hardware: Hardware, here: GpuAttributes, why: str | None) -> None:
    settings = asked(hardware=hardware)
    assert mismatch(bound_place(place(), settings), settings, place(gpu=here)) == why


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [((), "8.6", True), ((), "12.1", True), ((), "7.5", False), (("7.5",), "7.5", True), (("8.6", "8.9"), "12.0", False)],
)
def test_the_capabilities_of_rtx_engines(built: tuple[str, ...], capability: str, runs: bool) -> None:
    here = place("tensorrt-rtx", gpu=replace(ADA, compute_capability=capability))
    assert (mismatch(place("tensorrt-rtx", gpu=None), asked(compute_capabilities=built), here) is None) == runs


def test_staleness(bundle: Bundle) -> None:
    folder = put(bundle, place())
    sidecar = read_sidecar(folder)
    assert stale(sidecar, folder, bundle, "dicn", deep=True) is None
    engine = folder / "dicn.engine"
    engine.write_text("nicd")
    assert stale(sidecar, folder, bundle, "dicn") is None  # the same size: only a deep look finds it
    assert stale(sidecar, folder, bundle, "dicn", deep=True) == f"{engine.name} is damaged: its SHA-256 is not the one in engine.json"
    engine.write_text("longer")
    assert stale(sidecar, folder, bundle, "dicn") == f"{engine.name} has 6 bytes instead of 4"
    engine.unlink()
    assert stale(sidecar, folder, bundle, "dicn") == f"{engine.name} is missing"
    assert stale(msgspec.structs.replace(sidecar, stages={}), folder, bundle, "dicn") == "there is none yet"


def changed(bundle: Bundle, name: str, change: Callable[..., Path]) -> Bundle:
    """The bundle with one more byte in the file `name`."""
    path = bundle.path / name
    path.write_bytes(path.read_bytes() + b"\0")
    change(bundle.path, [name])
    return Bundle.open(bundle.path)


def test_a_changed_onnx_file_makes_its_engine_stale_and_no_other(bundle: Bundle, change: Callable[..., Path]) -> None:
    folder = put(bundle, place())
    newer, sidecar = changed(bundle, "onnx/fp32/dicn.onnx", change), read_sidecar(folder)
    assert [graph for graph in sidecar.stages if stale(sidecar, folder, newer, graph)] == ["dicn"]
    with pytest.raises(
        BackendError, match='cannot be used: of "dicn", the ONNX file changed since; build them again with: sdic-export eng'
    ):
        find_engines(newer, place())


def test_changed_weights_make_the_engines_stale_that_read_them(bundle: Bundle, change: Callable[..., Path]) -> None:
    graph, shared = "onnx/fp32/dipn.onnx", "onnx/fp32/shared.data"
    (bundle.path / shared).write_bytes(b"weights")
    change(bundle.path, [shared], weights={graph: (shared,)})
    bundle = Bundle.open(bundle.path)
    folder = put(bundle, place())
    newer, sidecar = changed(bundle, shared, change), read_sidecar(folder)
    assert [name for name in sidecar.stages if stale(sidecar, folder, newer, name)] == ["dipn"]


def test_the_wrong_precision_or_batch_is_named_with_the_command_that_fixes_it(bundle: Bundle) -> None:
    put(bundle, place())
    with pytest.raises(BackendError, match="they are in fp32, and fp16 is asked for; build them again with: .*--target tensorrt$"):
        find_engines(bundle, place(), "fp16")
    with pytest.raises(BackendError, match="they take batches of 1 to 4 pictures, and 9 are asked for; .* --precision fp32 --batch 1,1,9$"):
        find_engines(bundle, place(), batch=9)


def test_engines_for_one_picture_may_be_of_graphs_for_one(bundle: Bundle, change: Callable[..., Path]) -> None:
    put(bundle, place(), asked(profile=Profile(1, 1, 1)))
    advice = "use batch=1, or if no stage is for one picture at a time, build them again with: .* --batch 1,1,3$"
    with pytest.raises(BackendError, match=f"^the engines in .*; {advice}"):  # between them long paths take their room
        find_engines(bundle, place(), batch=3)
    newer = changed(bundle, "onnx/fp32/dicn.onnx", change)
    with pytest.raises(BackendError, match='of "dicn", the ONNX file changed since; build them again with: .* --batch 1,1,1$'):
        find_engines(newer, place(), batch=3)


def test_a_batch_below_the_profile_is_named_too(bundle: Bundle) -> None:
    put(bundle, place(), asked(profile=Profile(2, 2, 4)))
    with pytest.raises(BackendError, match="they take batches of 2 to 4 pictures, and 1 are asked for; .* --batch 1,2,4$"):
        find_engines(bundle, place())


def test_the_nearest_candidate_is_explained(bundle: Bundle) -> None:
    put(bundle, place(version="11.0.0"))
    near = put(bundle, place())
    (near / "dipn.engine").unlink()
    with pytest.raises(BackendError, match=f'^the engines in {near} cannot be used: of "dipn", .*dipn.engine is missing'):
        find_engines(bundle, place())


def test_a_command_repeats_every_setting(bundle: Bundle) -> None:
    settings = EngineSettings("bf16", Profile(1, 2, 8), ("8.6", "8.9"), Hardware.ampere_plus, "stripped", 512 << 20)
    assert build_command(bundle.path, Target.tensorrt, settings) == (
        f"sdic-export engines {bundle.path} --target tensorrt --compute-capability 8.6 --compute-capability 8.9 --precision bf16 "
        "--batch 1,2,8 --hardware ampere-plus --strip-weights --workspace 512"
    )
    assert build_command(bundle.path, Target.tensorrt_rtx) == f"sdic-export engines {bundle.path} --target tensorrt-rtx"


def test_the_graphs_of_a_bundle(bundle: Bundle, change: Callable[..., Path]) -> None:
    assert graph_names(bundle, "fp32") == [*bundle.manifest.stages, "to_bytes"]
    assert graph_file(bundle, "to_bytes", "fp32") == bundle.path / "engines/to_bytes.onnx"
    assert graph_file(bundle, "dipn", "fp32") == bundle.path / "onnx/fp32/dipn.onnx"
    with pytest.raises(BackendError, match='has 0 files of the graph "dicn:residual" in fp32, and an engine is built of one$'):
        graph_file(bundle, "dicn:residual", "fp32")
    bands = {"fp32": ("onnx/fp32/dicn.onnx", "onnx/fp32/dipn.onnx")}
    change(bundle.path, graphs={**bundle.manifest.graphs, "dicn": bands})
    with pytest.raises(BackendError, match='has 2 files of the graph "dicn" in fp32, and an engine is built of one$'):
        graph_file(Bundle.open(bundle.path), "dicn", "fp32")


def test_graphs_in_other_variants_get_no_engine(bundle: Bundle, arrange: Callable[..., Path]) -> None:
    before = [onnx_hash(bundle, graph, "fp32") for graph in graph_names(bundle, "fp32")]
    arrange(bundle.path, "dicn", wc=2.0)
    arrange(bundle.path, "dicn:residual", wc=2.0)
    newer = Bundle.open(bundle.path)
    assert [onnx_hash(newer, graph, "fp32") for graph in graph_names(newer, "fp32")] == before
    assert graph_file(newer, "dicn", "fp32") == newer.path / "onnx/fp32/dicn.onnx"


def test_the_sidecar_is_plain_json(bundle: Bundle) -> None:
    data = json.loads((put(bundle, place()) / SIDECAR).read_text())
    assert data["settings"]["profile"] == [1, 1, 4]
    assert data["stages"]["e4e"]["file"] == "e4e.engine"
    assert data["gpu"]["name"] == "Ada card"
