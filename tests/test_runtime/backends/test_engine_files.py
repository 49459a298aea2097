"""Keys, sidecars, and the sentence that says why an engine cannot be used here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdic_runtime.backends.tensorrt.engine_files import (
    SIDECAR,
    TARGETS,
    EngineEntry,
    EngineSettings,
    GpuAttributes,
    Place,
    Profile,
    Sidecar,
    bound_gpu,
    build_command,
    engine_folder,
    engine_name,
    find_engines,
    graph_file,
    graph_names,
    key,
    mismatch,
    onnx_hash,
    read_sidecar,
    stale,
    write_sidecar,
)
from sdic_runtime.bundle.bundle import Bundle, file_entries, write_manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.files import sha256

ADA = GpuAttributes("8.9", 128, 384, 72 << 20, 100 << 10, 24 << 30, False, "Ada card")
HOPPER = GpuAttributes("9.0", 132, 5120, 50 << 20, 228 << 10, 141 << 30, True, "Hopper card")
PROPER, RTX = TARGETS["tensorrt"], TARGETS["tensorrt-rtx"]
SETTINGS = EngineSettings(precision="fp32")


def place(target: str = "tensorrt", version: str = "11.4.0", gpu: GpuAttributes | None = ADA, system: str = "linux") -> Place:
    return Place(TARGETS[target], version, gpu, system)


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
    write_sidecar(folder, Sidecar(where.target.name, where.version, settings, bound_gpu(where, settings), entries))
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
    with pytest.raises(SdicError, match=message):
        Profile.parse(text)


def test_the_key_changes_with_everything_that_matters_and_with_nothing_else() -> None:
    base = key(place(), SETTINGS)
    assert base.startswith("tensorrt-11.4.0-sm89-fp32-b1-1-4-")
    others = [
        key(place(version="11.5.0"), SETTINGS),
        key(place(gpu=HOPPER), SETTINGS),
        key(place(gpu=replace(ADA, multiprocessors=76)), SETTINGS),
        key(place(gpu=replace(ADA, error_correction=True)), SETTINGS),
        key(place(), replace(SETTINGS, profile=Profile(1, 1, 8))),
        key(place(), replace(SETTINGS, workspace_bytes=1 << 30)),
        key(place(), replace(SETTINGS, precision="fp16")),
        key(place(), replace(SETTINGS, version_compatible=True)),
        key(place("tensorrt-rtx"), SETTINGS),
    ]
    assert len({base, *others}) == len(others) + 1
    assert key(place(gpu=replace(ADA, name="the same chip, another label")), SETTINGS) == base


def test_engines_that_are_not_bound_to_a_gpu_have_one_key_for_all() -> None:
    assert key(place("tensorrt-rtx", gpu=None), SETTINGS) == key(place("tensorrt-rtx", gpu=ADA), SETTINGS)
    assert "-smdefault-" in key(place("tensorrt-rtx"), SETTINGS)
    assert "-sm86-120-" in key(place("tensorrt-rtx"), replace(SETTINGS, compute_capabilities=("8.6", "12.0")))
    compatible = replace(SETTINGS, hardware="ampere-plus")
    assert key(place(gpu=ADA), compatible) == key(place(gpu=HOPPER), compatible)
    same = replace(SETTINGS, hardware="same-capability")
    assert key(place(gpu=ADA), same) == key(place(gpu=replace(ADA, multiprocessors=76)), same)
    assert key(place(gpu=ADA), same) != key(place(gpu=HOPPER), same)


def test_a_sidecar_comes_back_as_it_was(bundle: Bundle) -> None:
    settings = EngineSettings("fp32", Profile(1, 2, 4), ("8.9",), workspace_bytes=1 << 30, optimization=5)
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
        ('{"schema": 1}', "is not a valid sidecar of engines"),
        ('{"schema": 9}', "has schema 9, and this version reads schema 1; build the engines again"),
        ("[]", "is not a valid sidecar of engines"),
    ],
)
def test_a_broken_sidecar(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / SIDECAR).write_text(content)
    with pytest.raises(SdicError, match=message):
        read_sidecar(tmp_path)


def test_the_fitting_engines_are_found(bundle: Bundle) -> None:
    folder = put(bundle, place())
    found, sidecar = find_engines(bundle, place(), batch=4)
    assert found == folder
    assert sidecar.target == "tensorrt"


def test_half_precision_comes_first_and_then_the_smallest_batch_that_does(bundle: Bundle) -> None:
    large = put(bundle, place(), replace(SETTINGS, profile=Profile(1, 1, 8)))
    small = put(bundle, place(), SETTINGS)
    assert find_engines(bundle, place(), batch=1)[0] == small
    assert find_engines(bundle, place(), batch=6)[0] == large


def test_no_engines_gives_the_command(bundle: Bundle) -> None:
    with pytest.raises(SdicError) as caught:
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
        (place(), place(system="windows"), "they were built for linux, and this is windows"),
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
    with pytest.raises(SdicError) as caught:
        find_engines(bundle, here)
    assert str(caught.value) == (
        f"the engines in {folder} cannot be used: {why}; build them again with: "
        f"sdic-export engines {bundle.path} --target {here.target.name} --precision fp32"
    )


def test_the_other_target_is_no_candidate(bundle: Bundle) -> None:
    put(bundle, place("tensorrt-rtx"))
    with pytest.raises(SdicError, match="has no TensorRT engines"):
        find_engines(bundle, place("tensorrt"))
    sidecar = read_sidecar(next(bundle.path.glob("engines/*")))
    assert mismatch(sidecar, place("tensorrt")) == "they were built by TensorRT-RTX, and this is TensorRT"


def test_what_compatibility_allows(bundle: Bundle) -> None:
    where, later = place(), place(version="11.9.1")
    put(bundle, where, replace(SETTINGS, version_compatible=True))
    assert find_engines(bundle, later)[1].version == "11.4.0"
    for version in ("12.0.0", "11.3.0"):
        with pytest.raises(SdicError, match=f"and {version} is installed"):
            find_engines(bundle, place(version=version))


@pytest.mark.parametrize(
    ("hardware", "here", "why"),
    [
        ("ampere-plus", HOPPER, None),
        ("ampere-plus", replace(ADA, compute_capability="7.5"), "they run on compute capability 8.0 and later, and this GPU has 7.5"),
        ("same-capability", replace(ADA, multiprocessors=60), None),
        ("same-capability", HOPPER, "they were built for compute capability 8.9, and this GPU has 9.0"),
    ],
)
def test_hardware_compatible_engines(hardware: str, here: GpuAttributes, why: str | None) -> None:
    settings = replace(SETTINGS, hardware=hardware)
    sidecar = Sidecar("tensorrt", "11.4.0", settings, bound_gpu(place(), settings), {})
    assert mismatch(sidecar, place(gpu=here)) == why


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [((), "8.6", True), ((), "12.1", True), ((), "7.5", False), (("7.5",), "7.5", True), (("8.6", "8.9"), "12.0", False)],
)
def test_the_capabilities_of_rtx_engines(built: tuple[str, ...], capability: str, runs: bool) -> None:
    sidecar = Sidecar("tensorrt-rtx", "1.7.1", replace(SETTINGS, compute_capabilities=built), None, {})
    why = mismatch(sidecar, place("tensorrt-rtx", "1.7.1", replace(ADA, compute_capability=capability)))
    assert (why is None) == runs


def test_staleness(bundle: Bundle) -> None:
    folder = put(bundle, place())
    sidecar = read_sidecar(folder)
    assert stale(sidecar, folder, bundle, "dicn", deep=True) is None
    engine = folder / "dicn.engine"
    engine.write_text("nicd")
    assert stale(sidecar, folder, bundle, "dicn") is None  # the same size: only a deep look finds it
    assert stale(sidecar, folder, bundle, "dicn", deep=True) == f"{engine} is damaged: its SHA-256 is not the one in engine.json"
    engine.write_text("longer")
    assert stale(sidecar, folder, bundle, "dicn") == f"{engine} has 6 bytes instead of 4"
    engine.unlink()
    assert stale(sidecar, folder, bundle, "dicn") == f"{engine} is missing"
    assert stale(replace(sidecar, stages={}), folder, bundle, "dicn") == "there is none yet"


def test_a_changed_onnx_file_makes_its_engine_stale_and_no_other(bundle: Bundle) -> None:
    folder = put(bundle, place())
    name = bundle.manifest.stages["dicn"]["fp32"]
    path = bundle.path / name
    path.write_bytes(path.read_bytes() + b"\0")
    write_manifest(bundle.path, replace(bundle.manifest, files={**bundle.manifest.files, **file_entries(bundle.path, [name])}))
    changed, sidecar = Bundle.open(bundle.path), read_sidecar(folder)
    assert [graph for graph in sidecar.stages if stale(sidecar, folder, changed, graph)] == ["dicn"]
    with pytest.raises(SdicError, match='cannot be used: of "dicn", the ONNX file changed since; build them again with: sdic-export eng'):
        find_engines(changed, place())


def test_the_wrong_precision_or_batch_is_named_with_the_command_that_mends_it(bundle: Bundle) -> None:
    put(bundle, place())
    with pytest.raises(SdicError, match="they are in fp32, and fp16 is asked for; build them again with: .*--target tensorrt$"):
        find_engines(bundle, place(), "fp16")
    with pytest.raises(SdicError, match="they take batches of 1 to 4 pictures, and 9 are asked for; .* --precision fp32 --batch 1,1,9$"):
        find_engines(bundle, place(), batch=9)


def test_the_nearest_candidate_is_explained(bundle: Bundle) -> None:
    put(bundle, place(version="11.0.0"))
    near = put(bundle, place())
    (near / "dipn.engine").unlink()
    with pytest.raises(SdicError, match=f'^the engines in {near} cannot be used: of "dipn", .*dipn.engine is missing'):
        find_engines(bundle, place())


def test_a_command_repeats_every_setting(bundle: Bundle) -> None:
    settings = EngineSettings("bf16", Profile(1, 2, 8), ("8.6", "8.9"), "ampere-plus", True, "stripped", "windows", 512 << 20, 5)
    assert build_command(bundle, "tensorrt", settings).split()[3:] == [
        "--target",
        "tensorrt",
        "--precision",
        "bf16",
        "--batch",
        "1,2,8",
        "--compute-capability",
        "8.6",
        "--compute-capability",
        "8.9",
        "--hardware",
        "ampere-plus",
        "--version-compatible",
        "--strip-weights",
        "--platform",
        "windows",
        "--workspace",
        "512",
        "--optimization",
        "5",
    ]


def test_the_graphs_of_a_bundle(bundle: Bundle) -> None:
    assert graph_names(bundle, "fp32") == [*bundle.manifest.stages, "to_bytes"]
    assert graph_file(bundle, "to_bytes", "fp32") == bundle.path / "engines/to_bytes.onnx"
    assert graph_file(bundle, "dipn", "fp32") == bundle.path / "onnx/fp32/dipn.onnx"
    with pytest.raises(SdicError, match='has no partial graph "dicn:residual" in fp32'):
        graph_file(bundle, "dicn:residual", "fp32")


def test_the_sidecar_is_plain_json(bundle: Bundle) -> None:
    data = json.loads((put(bundle, place()) / SIDECAR).read_text())
    assert data["settings"]["profile"] == "1,1,4"
    assert data["stages"]["e4e"]["file"] == "e4e.engine"
    assert data["gpu"]["name"] == "Ada card"
