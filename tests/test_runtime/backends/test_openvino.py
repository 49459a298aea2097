"""OpenVINO: the numbers of ONNX Runtime in float32, bfloat16 only where it is asked for, and errors of one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime import cpus
from sdic_runtime.backends import openvino as module
from sdic_runtime.backends import registry
from sdic_runtime.backends.openvino import load, unavailable
from sdic_runtime.backends.registry import choose_backend, load_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, MissingExtraError, OutOfMemoryError
from sdic_runtime.pipeline import Pipeline

openvino = pytest.importorskip("openvino")
needs_bf16 = pytest.mark.skipif(not cpus.has_bfloat16(), reason="this CPU does not multiply in bfloat16")


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say that the CPU multiplies in bfloat16, or does not."""

    def say(answer: bool) -> None:
        monkeypatch.setattr(module, "has_bfloat16", lambda: answer)

    return say


def prefer(folder: Path, change: Callable[..., Path], *keys: str) -> None:
    """The CPU-optimized graphs of `keys` are for OpenVINO too."""
    graphs = Bundle.open(folder).manifest.graphs
    change(
        folder,
        graphs={key: {**all_of, **({"openvino": all_of["onnxruntime-cpu"]} if key in keys else {})} for key, all_of in graphs.items()},
    )


def test_every_program_gives_the_numbers_of_onnx_runtime_for_every_batch(tiny_bundle: Path, pipeline: Pipeline, image: np.ndarray) -> None:
    with Pipeline.load(tiny_bundle, "openvino", threads=1) as examined:
        for pictures in (image, np.concatenate([image, -image, image / 2])):
            got, want = (each.invert(pictures) for each in (examined, pipeline))
            for name in want.tensors:
                np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=1e-5)
            for move in examined.moves:
                edits = [each.edit(inversion, "smile", eq6=move).pixels for each, inversion in ((examined, got), (pipeline, want))]
                np.testing.assert_allclose(*edits, rtol=0, atol=1e-5)


def test_float32_is_asked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO computes in bfloat16 by itself where the CPU has it."""
    asked: list[dict[str, Any]] = []
    core = openvino.Core()

    class Spy:
        read_model = staticmethod(core.read_model)

        @staticmethod
        def compile_model(model: Any, device: str, options: dict[str, Any]) -> Any:
            asked.append(options)
            return core.compile_model(model, device, options)

    monkeypatch.setattr(module, "_core", Spy)
    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    load(bundle, threads=1)
    assert {options["INFERENCE_PRECISION_HINT"] for options in asked} == {"f32"} and len(asked) == len(bundle.manifest.stages)
    assert {options["INFERENCE_NUM_THREADS"] for options in asked} == {1}
    asked.clear()
    load(bundle, precision="bf16", lazy=True).load_stage("e4e")
    assert [options["INFERENCE_PRECISION_HINT"] for options in asked] == ["bf16"]


@needs_bf16
def test_bf16_is_near_and_says_what_it_costs(
    make_bundle: Callable[..., Path], pipeline: Pipeline, image: np.ndarray, change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    with Pipeline.load(folder, "openvino", precision="bf16") as reduced:
        assert reduced.backend.precision == "bf16"
        version = openvino.__version__.partition("-")[0]
        assert reduced.backend.description == f"OpenVINO {version}, CPU, bf16 (against fp32: not measured on this bundle)"
        got, want = reduced.invert(image).pixels, pipeline.invert(image).pixels
    assert 0 < np.abs(got - want).max() < 0.1 * want.std()
    change(folder, psnr={"bf16": 56.64})
    assert load(Bundle.open(folder), precision="bf16", lazy=True).description.endswith("bf16 (against fp32: 56.6 dB)")
    assert load(Bundle.open(folder), lazy=True).description == f"OpenVINO {version}, CPU, fp32"


def test_bf16_is_refused_where_the_cpu_has_none(bundle: Bundle, with_bf16: Callable[[bool], None]) -> None:
    with_bf16(False)
    with pytest.raises(
        BackendError,
        match=r"^this CPU does not multiply in bfloat16 \(it has neither avx512_bf16 nor amx_bf16\), so .*; use precision fp32$",
    ):
        load_backend("openvino", bundle, precision="bf16")
    assert load_backend("openvino", bundle, precision="auto", lazy=True).precision == "fp32"


@pytest.mark.parametrize("wanted", ["auto", "bf16"])
def test_auto_takes_bf16_only_where_it_is_allowed_there_and_measured(
    make_bundle: Callable[..., Path],
    change: Callable[..., Path],
    with_bf16: Callable[[bool], None],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_bundle()
    made = {name: registry.BackendEntry(name, target) for name, target in registry.BUILT_IN.items()}
    monkeypatch.setattr(registry, "available_backends", lambda: made)

    def chosen(precision: str | None) -> tuple[str, str]:
        backend = load_backend("auto", Bundle.open(folder), precision=precision, lazy=True)
        assert choose_backend(Bundle.open(folder), precision)[0] == backend.name
        return backend.name, backend.precision

    with_bf16(True)
    unmeasured = f"openvino: {folder} does not say what bf16 costs; measure it with: sdic-export bf16 {folder}"
    if wanted == "auto":
        assert chosen(wanted) == ("onnxruntime", "fp32") and unmeasured in choose_backend(Bundle.open(folder), wanted)[1]
    else:
        with pytest.raises(BackendError) as caught:
            chosen(wanted)
        assert unmeasured in str(caught.value)
    change(folder, psnr={"bf16": 50.0})
    assert chosen(wanted) == ("openvino", "bf16")
    assert [chosen(exact) for exact in (None, "fp32")] == [("onnxruntime", "fp32")] * 2
    assert Pipeline.load(folder, "auto", precision=wanted).reason.startswith("openvino is the first of tensorrt, tensorrt-rtx, openvino")
    with_bf16(False)
    if wanted == "auto":
        assert chosen(wanted) == ("onnxruntime", "fp32")
    else:
        with pytest.raises(BackendError, match=r"^no backend can be used here .*openvino: this CPU does not multiply in bfloat16"):
            chosen(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, '^OpenVINO runs in fp32 or bf16 and not in "fp16"; name one of them$'),
        ({"threads": 0}, "^threads is 0; give a whole number of at least 1, or None for all cores$"),
        ({"threads": True}, "^threads is True; "),
        ({"device": "GPU"}, '^the backend "openvino" has no option "device"; it has: precision, threads, lazy$'),
    ],
)
def test_wrong_options_are_one_sentence(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load_backend("openvino", bundle, **options)


def test_the_variant_that_the_manifest_names_runs(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    arrange(folder, "dipn", half=3)
    arrange(folder, "generator_head:rgb", rm=4)
    inputs = {name: np.full((1, 3, 64, 64), value, np.float32) for name, value in (("image", 1), ("reconstruction", 0))}
    latent = {"latent": np.ones((1, 12, 8), np.float32)}
    plain = load(Bundle.open(folder), threads=1)
    assert plain.standard() is None and plain.variant("dipn", ["discrepancy"]) == ("dipn", "fp32")
    assert np.unique(plain.run("dipn", inputs, ["discrepancy"])["discrepancy"]) == 0.5
    identity = Bundle.open(folder).manifest.identity
    prefer(folder, change, "dipn", "generator_head:rgb")
    chosen = load(Bundle.open(folder), threads=1)
    assert chosen.bundle.manifest.identity == identity
    assert chosen.variant("dipn", ["discrepancy"]) == ("dipn", "openvino") and chosen.variant("e4e", ["latent"]) == ("e4e", "fp32")
    standard = chosen.standard()
    assert standard is not None
    for backend, discrepancy, factor in ((chosen, 1.5, 4), (standard, 0.5, 1)):
        assert np.unique(backend.run("dipn", inputs, ["discrepancy"])["discrepancy"]) == discrepancy
        want = plain.run("generator_head", latent, ["rgb"])["rgb"] * factor
        np.testing.assert_allclose(backend.run("generator_head", latent, ["rgb"])["rgb"], want, rtol=1e-6)


def test_only_what_runs_is_hashed_and_damage_is_found(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    path = arrange(folder, "dipn", half=3)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    load(Bundle.open(folder), threads=1)
    prefer(folder, change, "dipn")
    for lazy in (False, True):
        with pytest.raises(BundleError, match=r"dipn\.cpu\.onnx is damaged: its SHA-256 is not the one in bundle\.json"):
            load(Bundle.open(folder), threads=1, lazy=lazy).load_stage("dipn")


def test_parts_run_where_they_have_the_form_of_the_whole_stage() -> None:
    bundle = Bundle.open()
    backend: Any = load(bundle, lazy=True)
    manifest = bundle.manifest
    whole = {
        **manifest.graphs,
        "generator_tail": {**manifest.graphs["generator_tail"], "openvino": manifest.graphs["generator_tail"]["fp32"]},
    }
    part = {**manifest.part_graphs["generator_64"], "openvino": manifest.part_graphs["generator_64"]["fp32"]}
    parts = {**manifest.part_graphs, "generator_64": part}
    for changes, expected in (
        ({}, True),
        ({"graphs": whole}, False),
        ({"graphs": whole, "part_graphs": parts}, True),
        ({"part_graphs": {}}, False),
    ):
        backend.bundle = SimpleNamespace(manifest=msgspec.structs.replace(manifest, **changes))
        assert backend.runs("generator_64") == backend.runs("generator_128") == expected, changes
        assert backend.runs("generator_tail") and not backend.runs("nothing")


def test_bands_are_refused(make_bundle: Callable[..., Path], arrange_bands: Callable[..., Any], change: Callable[..., Path]) -> None:
    folder = make_bundle()
    arrange_bands(folder, "dipn", [(0, 32), (32, 64)])
    prefer(folder, change, "dipn")
    with pytest.raises(BundleError, match='^the variant "openvino" of dipn is in bands of rows, which OpenVINO does not run$'):
        load(Bundle.open(folder), threads=1)


def test_a_graph_of_another_stage_or_size_is_refused(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> None:
    import onnx

    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={**graphs, "dipn": graphs["dicn"]})
    with pytest.raises(
        BundleError, match=r'dicn.onnx has the inputs .* where the stage "dipn" has image, reconstruction in float32; build'
    ):
        load(Bundle.open(folder), threads=1)
    change(folder, graphs=graphs)
    path = folder / "onnx/fp32/dipn.onnx"
    model = onnx.load(path)
    for border in (*model.graph.input, *model.graph.output):
        border.CopyFrom(onnx.helper.make_tensor_value_info(border.name, onnx.TensorProto.FLOAT, [None, 3, 65, 64]))
    onnx.save(model, path)
    change(folder, ["onnx/fp32/dipn.onnx"])
    with pytest.raises(
        BundleError, match=r"dipn\.onnx has image as \[\?,3,65,64\] where the bundle's sizes say \[N, 3, 64, 64\]; build it"
    ):
        load(Bundle.open(folder), threads=1)


def test_a_file_that_is_no_graph_is_one_sentence(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> None:
    folder = make_bundle()
    (folder / "onnx/fp32/dipn.onnx").write_bytes(b"no graph at all")
    change(folder, ["onnx/fp32/dipn.onnx"])
    with pytest.raises(BundleError, match=r"dipn\.onnx is no ONNX file: it has a field of the wire type 6; build it with"):
        load(Bundle.open(folder), threads=1)
    (folder / "onnx/fp32/dipn.onnx").write_bytes(b"\x08\x0a")  # a version alone
    change(folder, ["onnx/fp32/dipn.onnx"])
    with pytest.raises(
        BackendError, match=r'^the stage "dipn" could not be loaded from .*dipn\.onnx: .*; see: sdic-export verify '
    ) as caught:
        load(Bundle.open(folder), threads=1)
    assert "\n" not in str(caught.value) and "src/" not in str(caught.value).partition("dipn.onnx: ")[2][:40]


def test_wrong_inputs_are_one_sentence(bundle: Bundle) -> None:
    backend = load(bundle, threads=1, lazy=True)
    with pytest.raises(BackendError, match=r'^the stage "e4e" failed: .*; see: sdic-export verify') as caught:
        backend.run("e4e", {"image": np.zeros((1, 3, 65, 64), np.float32)}, ["latent"])
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match=r'^the stage "dipn" failed: the inputs are for 1 and 2 pictures'):
        images = {name: np.zeros((count, 3, 64, 64), np.float32) for name, count in (("image", 1), ("reconstruction", 2))}
        backend.run("dipn", images, ["discrepancy"])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Exception from src/a.cpp:1:\nstd::bad_alloc"), RuntimeError("bad allocation")]
)
def test_running_out_of_memory_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    backend = load(bundle, threads=1)

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module.Network, "run", full)
    with pytest.raises(
        OutOfMemoryError, match=r'^the stage "e4e" failed: not enough memory; use a smaller batch, or close other programs$'
    ):
        backend.run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])


def test_without_the_package_the_extra_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    module._core_of.cache_clear()
    sentence = 'it needs the package "openvino"; install it with: pip install "sdic-toolkit[openvino]"'
    assert unavailable() == sentence
    with pytest.raises(BackendError, match=r'^the backend "openvino" cannot be used here: it needs the package "openvino"'):
        load_backend("openvino", bundle)
    with pytest.raises(MissingExtraError, match=r'^the backend "openvino" needs the package "openvino"; .*"sdic-toolkit\[openvino\]"$'):
        load(bundle)


def test_many_threads_get_their_own_results(bundle: Bundle) -> None:
    backend = load(bundle, threads=1)
    images = [np.full((1 + index % 2, 3, 64, 64), index / 8, np.float32) for index in range(8)]
    alone = [backend.run("e4e", {"image": image}, ["latent"])["latent"] for image in images]
    start = threading.Barrier(len(images))

    def run(image: np.ndarray) -> np.ndarray:
        start.wait()
        return backend.run("e4e", {"image": image}, ["latent"])["latent"]

    with ThreadPoolExecutor(len(images)) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(run, images), alone, strict=True):
                np.testing.assert_array_equal(got, want)


def test_results_keep_their_values_and_inputs_may_be_of_any_layout(bundle: Bundle) -> None:
    backend = load(bundle, threads=1)
    image = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    first = backend.run("e4e", {"image": image}, ["latent"])["latent"]
    kept = first.copy()
    backend.run("e4e", {"image": -image}, ["latent"])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(backend.run("e4e", {"image": backend.upload(image)}, ["latent"])["latent"], kept)


def test_a_closed_backend_says_so(bundle: Bundle) -> None:
    backend = load(bundle, threads=1)
    backend.close()
    with pytest.raises(BackendError, match="^the pipeline was closed; load the bundle again$"):
        backend.run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])


@pytest.mark.skipif(not module.MAPPINGS.is_file(), reason="Linux alone says what is mapped")
def test_weights_are_not_in_memory_twice(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> None:
    """OpenVINO keeps the mapping of external weights beside its packed copy."""
    import onnx

    folder = make_bundle()
    before = Bundle.open(folder)
    want = load(before, threads=1).run("e4e", {"image": np.ones((1, 3, 64, 64), np.float32)}, ["latent"])["latent"]
    path, data = "onnx/fp32/e4e.onnx", "onnx/fp32/e4e.onnx.data"
    model = onnx.load(folder / path)
    constants = {
        "table": np.ones((96, 1 << 16), np.float32),  # 24 MB; zeros times it are added to the latent
        "zero": np.zeros((1, 96), np.float32),
        "flat": np.array([1, 96]),
        "whole": np.array([1, 12, 8]),
        "start": np.array([0]),
        "end": np.array([96]),
        "axis": np.array([1]),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    for node in model.graph.node:
        node.output[:] = ["plain" if name == "latent" else name for name in node.output]
    for kind, inputs, output in (
        ("Reshape", "plain flat", "row"),
        ("Mul", "row zero", "zeros"),
        ("MatMul", "zeros table", "many"),
        ("Slice", "many start end axis", "some"),
        ("Reshape", "some whole", "shaped"),
        ("Add", "plain shaped", "latent"),
    ):
        model.graph.node.append(onnx.helper.make_node(kind, inputs.split(), [output]))
    onnx.save(model, folder / path, save_as_external_data=True, location="e4e.onnx.data", size_threshold=1 << 20)
    change(folder, [path, data], weights={path: (data,)})
    backend = load(Bundle.open(folder), threads=1)
    got = backend.run("e4e", {"image": np.ones((1, 3, 64, 64), np.float32)}, ["latent"])["latent"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    assert resident(folder / data) < 4 << 20


def resident(path: Path) -> int:
    """Bytes of the file `path` in this process's memory, where it is mapped."""
    total, inside, found = 0, False, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = words[-1] == str(path)
            found |= inside
        elif inside and words[0] == "Rss:":
            total += int(words[1]) * 1024
    assert found, "the weights are not mapped any more: _unmap_weights is not needed"
    return total


def test_the_measured_cost_survives_the_manifest(bundle: Bundle) -> None:
    from sdic_runtime.bundle.manifest import manifest_text, parse_manifest

    measured = msgspec.structs.replace(bundle.manifest, psnr={"bf16": 56.6})
    assert parse_manifest(manifest_text(measured).encode()) == measured
