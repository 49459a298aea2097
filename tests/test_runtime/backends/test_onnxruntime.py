from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import fake_cuda
from fake_gpu import FakeGpu

from sdic_runtime.backends import onnxruntime_cuda
from sdic_runtime.backends.onnxruntime import load
from sdic_runtime.backends.registry import load_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import Graph
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, OutOfMemoryError
from sdic_runtime.pipeline import Pipeline


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, '^the device is "gpu"; use cpu, cuda or cuda:N$'),
        ({"device": "cuda:x"}, '^the device is "cuda:x"'),
        ({"device": "cuda:"}, '^the device is "cuda:"'),
        ({"threads": 0}, "^threads is 0; give a whole number of at least 1, or None for all cores$"),
        ({"precision": "fp16"}, 'in precision "fp16"; it has: fp32'),
        ({"colour": 1}, 'the backend "onnxruntime" has no option "colour"; it has: precision, threads, device, tf32, graphs, warm'),
        ({"tf32": True}, '^tf32 is for NVIDIA GPUs, and the device is "cpu"; use device=cuda, or omit tf32$'),
        ({"graphs": False}, '^graphs is for NVIDIA GPUs, and the device is "cpu"; use device=cuda, or omit graphs$'),
        ({"lazy": 7}, "^lazy is 7; use true or false$"),
        ({"cpu_graphs": "fast"}, "^cpu_graphs is 'fast'; use true or false$"),
    ],
)
def test_wrong_options_are_one_sentence(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load_backend("onnxruntime", bundle, **options)


def test_cuda_without_its_package_says_how_to_change_packages(bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(BackendError, match=r'^the device "cuda" needs the package "onnxruntime-gpu"; in place of .*: pip uninstall'):
        load_backend("onnxruntime", bundle, device="cuda")


def test_a_session_that_fell_back_to_the_cpu_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    plain = onnxruntime.InferenceSession

    def without_cuda(path: str, options: Any, providers: Any, **_: Any) -> Any:
        assert next(iter(providers))[0] == "CUDAExecutionProvider"
        return plain(path, None, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    monkeypatch.setattr(onnxruntime_cuda, "open_gpu", lambda index: FakeGpu())
    with pytest.raises(BackendError, match=r'^ONNX Runtime could not start on "cuda:1"; check the NVIDIA driver'):
        load_backend("onnxruntime", bundle, device="cuda:1")


def test_the_description_says_what_runs_where(bundle: Bundle) -> None:
    import onnxruntime

    description = load_backend("onnxruntime", bundle, threads=1).description
    assert description == f"ONNX Runtime {onnxruntime.__version__}, CPUExecutionProvider, fp32"


def test_lazy_loading_makes_a_session_at_first_use(bundle: Bundle) -> None:
    eager, lazy = load(bundle, threads=1), load(bundle, threads=1, lazy=True)
    assert {graph.key for graph in eager._sessions} == set(bundle.manifest.stages) and lazy._sessions == {}
    lazy.run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])
    assert {graph.key for graph in lazy._sessions} == {"e4e"}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_loads_while_a_backend_is_closed_is_let_go_too(bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    backend: Any = load_backend(name, bundle, threads=1, lazy=True)
    loading, made, load_it = threading.Event(), threading.Event(), backend._load

    def slowly(*words: Any) -> Any:
        loading.set()
        made.wait(0.2)  # as long as it may take to close
        return load_it(*words)

    monkeypatch.setattr(backend, "_load", slowly)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(backend.load_stage, "e4e")
        loading.wait()
        backend.close()
        made.set()
    assert not (backend._sessions or backend._answers if name == "onnxruntime" else backend._networks)
    with pytest.raises(BackendError, match="^the pipeline was closed"):
        backend.run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])


def head_with_a_trap() -> tuple[list[Any], dict[str, np.ndarray]]:
    """A head whose layer-7 feature, if it is computed at all, gathers beyond the end of a table."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["latent", "rows"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "u"], ["ru"]),
        helper.make_node("Mul", ["ru", "rgb_map"], ["rgb"]),
        helper.make_node("Cast", ["m"], ["index"], to=7),
        helper.make_node("Gather", ["table", "index"], ["g"], axis=0),
        helper.make_node("ReduceMean", ["g", "one"], ["gm"], keepdims=0),
        helper.make_node("Unsqueeze", ["gm", "uuu"], ["gu"]),
        helper.make_node("Mul", ["gu", "map"], ["feature"]),
    ]
    constants = {
        "rows": np.array([1], np.int64),
        "w": np.ones((8, 3), np.float32),
        "u": np.array([2, 3], np.int64),
        "rgb_map": np.ones((1, 3, 32, 32), np.float32),
        "table": np.ones(5, np.float32),
        "one": np.array([1], np.int64),
        "uuu": np.array([1, 2, 3], np.int64),
        "map": np.ones((1, 4, 64, 64), np.float32),
    }
    return nodes, constants


def test_a_graph_of_one_output_leaves_the_others_uncomputed(
    make_bundle: Callable[..., Path], replace_stage: Callable[..., None], change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    replace_stage(folder, "generator_head", *head_with_a_trap())
    fine, fatal = np.ones((1, 12, 8), np.float32), np.full((1, 12, 8), 100, np.float32)
    whole = load_backend("onnxruntime", Bundle.open(folder), threads=1)
    want = whole.run("generator_head", {"latent": fine}, ["feature", "rgb"])
    for outputs in (["feature", "rgb"], ["rgb"]):
        with pytest.raises(BackendError, match=r'^the stage "generator_head" failed: .*out of'):
            whole.run("generator_head", {"latent": fatal}, outputs)

    add_alone(folder, change)
    split = load_backend("onnxruntime", Bundle.open(folder), threads=1)
    assert split.run("generator_head", {"latent": fatal}, ["rgb"])["rgb"].shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(split.run("generator_head", {"latent": fine}, ["rgb"])["rgb"], want["rgb"])
    np.testing.assert_array_equal(split.run("generator_head", {"latent": fine}, ["feature"])["feature"], want["feature"])
    assert Bundle.open(folder).manifest.identity == whole.bundle.manifest.identity  # type: ignore[attr-defined]


def add_alone(folder: Path, change: Callable[..., Path]) -> None:
    """The head cut down to `rgb`, as the export writes it."""
    from onnx.utils import extract_model

    head, alone = "onnx/fp32/generator_head.onnx", "onnx/fp32/generator_head.rgb.onnx"
    extract_model(str(folder / head), str(folder / alone), ["latent"], ["rgb"])
    change(folder, [alone], graphs={**Bundle.open(folder).manifest.graphs, "generator_head:rgb": {"fp32": (alone,)}})


def discrepancy(backend: Any) -> np.ndarray:
    inputs = {name: np.full((1, 3, 64, 64), value, np.float32) for name, value in (("image", 1), ("reconstruction", 0))}
    result = backend.run("dipn", {name: backend.upload(array) for name, array in inputs.items()}, ["discrepancy"])["discrepancy"]
    return np.unique(backend.download(result))


def test_cpu_graphs_run_on_the_cpu_unless_switched_off(make_bundle: Callable[..., Path], arrange: Callable[..., Path]) -> None:
    folder = make_bundle()
    identity = Bundle.open(folder).manifest.identity
    arrange(folder, "dipn", half=3)
    optimized, standard = (load(Bundle.open(folder), threads=1, cpu_graphs=switch) for switch in (True, False))
    assert Bundle.open(folder).manifest.identity == identity
    names = {Path(name).name for graph in optimized._sessions for name in graph.files}
    assert names == {f"{stage}.cpu.onnx" if stage == "dipn" else f"{stage}.onnx" for stage in optimized.method.stages}
    assert [backend.variant("dipn", ["discrepancy"]) for backend in (optimized, standard)] == [
        ("dipn", "onnxruntime-cpu"),
        ("dipn", "fp32"),
    ]
    again = optimized.standard()
    assert again is not None and discrepancy(again) == 0.5 and again.standard() is None and standard.standard() is None
    assert (discrepancy(optimized), discrepancy(standard)) == (1.5, 0.5)
    assert optimized.description.endswith("CPUExecutionProvider, fp32, CPU-optimized graphs of dipn") and standard.description.endswith(
        "Provider, fp32"
    )


def test_only_what_is_loaded_is_hashed(make_bundle: Callable[..., Path], arrange: Callable[..., Path]) -> None:
    folder = make_bundle()
    path = arrange(folder, "dipn", half=3)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert discrepancy(load(Bundle.open(folder), threads=1, cpu_graphs=False)) == 0.5
    for lazy in (False, True):
        with pytest.raises(BundleError, match=r"dipn\.cpu\.onnx is damaged: its SHA-256 is not the one in bundle\.json"):
            discrepancy(load(Bundle.open(folder), threads=1, lazy=lazy))
    arrange(folder, "dipn", half=3)
    (folder / "onnx/fp32/dipn.onnx").write_bytes(b"damaged")
    assert discrepancy(load(Bundle.open(folder), threads=1)) == 1.5


def test_a_damaged_cpu_graph_is_not_replaced_by_another(make_bundle: Callable[..., Path], arrange: Callable[..., Path]) -> None:
    folder = make_bundle()
    arrange(folder, "dipn", half=3).unlink()
    with pytest.raises(BundleError, match=r"dipn\.cpu\.onnx is damaged: it is missing; see"):
        load(Bundle.open(folder), threads=1)


def test_other_devices_and_precisions_never_see_cpu_graphs(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, change: Callable[..., Path]
) -> None:

    folder = make_bundle()
    arrange(folder, "dipn", half=3)
    arrange(folder, "generator_head:rgb", rm=4)
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={key: {**choices, **({"fp16": choices["fp32"]} if "fp32" in choices else {})} for key, choices in graphs.items()})
    half = load(Bundle.open(folder), threads=1, precision="fp16")
    assert discrepancy(half) == 0.5 and half.variants == ("fp16",)
    assert {Path(name).name for graph in half._sessions for name in graph.files} == {f"{stage}.onnx" for stage in half.method.stages}
    with fake_cuda(FakeGpu()):
        on_gpu = load(Bundle.open(folder), device="cuda", precision="fp32")
        assert {Path(name).name for graph in on_gpu._sessions for name in graph.files} == {f"{stage}.onnx" for stage in half.method.stages}
        assert on_gpu.variants == ("fp32",)


def test_a_graph_of_one_output_stays_beside_a_cpu_graph(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    add_alone(folder, change)
    arrange(folder, "generator_head", fm=2, rm=2)
    latent = np.ones((1, 12, 8), np.float32)
    optimized, standard = (load(Bundle.open(folder), threads=1, cpu_graphs=switch) for switch in (True, False))
    for outputs, factor in ((["feature"], 2), (["feature", "rgb"], 2), (["rgb"], 1)):
        got, want = (backend.run("generator_head", {"latent": latent}, outputs) for backend in (optimized, standard))
        for name in outputs:
            np.testing.assert_array_equal(got[name], factor * want[name])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("whole", [1, 2])
def test_a_cpu_graph_of_one_output_is_what_runs(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], whole: int, alone: bool, lazy: bool, change: Callable[..., Path]
) -> None:
    """Whatever other graphs the stage has; `whole` 2: also a CPU-optimized graph of the whole stage."""
    folder = make_bundle()
    if alone:
        add_alone(folder, change)
    if whole == 2:
        arrange(folder, "generator_head", fm=2, rm=2)
    arrange(folder, "generator_head:rgb", rm=4)
    latent = np.ones((2, 12, 8), np.float32)
    optimized, standard = (load(Bundle.open(folder), threads=1, cpu_graphs=switch, lazy=lazy) for switch in (True, False))
    assert optimized.description.endswith(f", CPU-optimized graphs of {'generator_head, ' * (whole - 1)}generator_head:rgb")
    for outputs, factor in ((["feature"], whole), (["feature", "rgb"], whole), (["rgb"], 4)):
        got, want = (backend.run("generator_head", {"latent": latent}, outputs) for backend in (optimized, standard))
        for name in outputs:
            np.testing.assert_array_equal(got[name], factor * want[name])


def test_a_cpu_graph_of_one_output_is_checked_like_any_other(
    make_bundle: Callable[..., Path], arrange: Callable[..., Path], change: Callable[..., Path]
) -> None:
    folder = make_bundle()
    path = arrange(folder, "generator_head:rgb", rm=4)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    for lazy in (False, True):
        with pytest.raises(BundleError, match=r"generator_head\.cpu\.rgb\.onnx is damaged: its SHA-256 is not the one in bundle\.json"):
            load(Bundle.open(folder), threads=1, lazy=lazy)._answer("generator_head", ["rgb"])
    path.write_bytes(content)
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={**graphs, "generator_head:rgb": {"onnxruntime-cpu": ("onnx/fp32/generator_head.onnx",)}})
    with pytest.raises(BundleError, match=r"generator_head\.onnx has the outputs feature .* where the stage .* has rgb in float32"):
        load(Bundle.open(folder), threads=1, lazy=True)._answer("generator_head", ["rgb"])


def test_running_out_of_memory_says_so(bundle: Bundle) -> None:
    backend = load(bundle, lazy=True)
    state = __import__("onnxruntime.capi.onnxruntime_pybind11_state", fromlist=["RuntimeException"])

    class Full:
        def run(self, *_: Any) -> Any:
            raise state.RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer")

    backend._answers["e4e", "latent"] = Graph("e4e", "fp32", ()), Full()
    with pytest.raises(OutOfMemoryError, match=r'^the stage "e4e" failed: not enough memory on cpu; use a smaller batch$'):
        backend.run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])


def test_inputs_of_a_wrong_shape_are_one_sentence(pipeline: Pipeline) -> None:
    with pytest.raises(BackendError, match=r'^the stage "e4e" failed: .*image') as caught:
        pipeline.backend.run("e4e", {"image": np.zeros((1, 3, 65, 64), np.float32)}, ["latent"])
    assert "\n" not in str(caught.value)


def test_a_graph_with_other_tensors_is_refused(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> None:
    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={**graphs, "dipn": graphs["dicn"]})
    sentence = r'dicn.onnx has the inputs .* where the stage "dipn" has image, reconstruction in float32; build'
    with pytest.raises(BundleError, match=sentence):
        load_backend("onnxruntime", Bundle.open(folder), threads=1)
    backend = load_backend("onnxruntime", Bundle.open(folder), threads=1, lazy=True)
    backend.load_stage("dicn")  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=sentence):  # also after the stage whose graph it is
        backend.load_stage("dipn")  # type: ignore[attr-defined]


@pytest.mark.gpu
def test_cuda_gives_the_numbers_of_the_cpu_and_keeps_tensors_there(tiny_bundle: Path, pipeline: Pipeline, image: np.ndarray) -> None:
    on_gpu = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda")
    inversion, want = on_gpu.invert(image), pipeline.invert(image)
    assert not isinstance(inversion.tensors["residual"].on(on_gpu.backend), np.ndarray)
    for name in want.tensors:
        np.testing.assert_allclose(getattr(inversion, name), getattr(want, name), rtol=0, atol=1e-4)
    np.testing.assert_allclose(on_gpu.edit(inversion, "smile").pixels, pipeline.edit(want, "smile").pixels, rtol=0, atol=1e-4)


def test_a_program_with_an_allocator_of_its_own_keeps_it(bundle: Bundle) -> None:
    from sdic_runtime.backends.onnxruntime import _register_shared_arena

    for _ in range(2):  # the second registration is one too many for ONNX Runtime, as it is when the program came first
        _register_shared_arena.__wrapped__()
    latent = load(bundle, threads=1).run("e4e", {"image": np.zeros((1, 3, 64, 64), np.float32)}, ["latent"])["latent"]
    assert latent.shape == (1, 12, 8)


def test_a_graph_whose_shapes_are_not_those_of_the_bundle_is_refused_as_it_loads(
    make_bundle: Callable[..., Path], change: Callable[..., Path]
) -> None:
    """What a graph says of its shapes is compared with the sizes, where it says a number."""
    import onnx

    folder = make_bundle()
    path = folder / "onnx/fp32/dipn.onnx"
    model = onnx.load(path)
    for axes in ([None, 3, 65, 64], [None, 3, 64]):
        for border in (*model.graph.input, *model.graph.output):
            border.CopyFrom(onnx.helper.make_tensor_value_info(border.name, onnx.TensorProto.FLOAT, axes))
        onnx.save(model, path)
        change(folder, ["onnx/fp32/dipn.onnx"])
        with pytest.raises(
            BundleError, match=r"dipn\.onnx has image as \[.*\] where the bundle's sizes say \[N, 3, 64, 64\]; build it again"
        ):
            load(Bundle.open(folder), threads=1)


@pytest.mark.parametrize(
    ("last", "found"),
    [("ReduceMean first keepdims=1", [1, 3, 64, 64]), ("Concat axis=2", [2, 3, 128, 64]), ("Concat axis=0", [4, 3, 64, 64])],
)
def test_a_result_of_a_wrong_shape_is_one_sentence(
    make_bundle: Callable[..., Path], change: Callable[..., Path], last: str, found: list[int]
) -> None:
    """A graph that leaves its shapes open passes the load, and may still give anything: another batch or height."""
    import onnx
    from onnx import helper

    folder = make_bundle()
    kind, *rest = last.split()
    key, value = rest[-1].split("=")
    inputs = ["image", "image"] if kind == "Concat" else ["image", rest[0]]
    nodes = [helper.make_node(kind, inputs, ["odd"], **{key: int(value)}), helper.make_node("Identity", ["reconstruction"], ["unused"])]
    nodes.append(helper.make_node("Identity", ["odd"], ["discrepancy"]))
    borders = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", "C", "H", "W"]) for name in ("image", "reconstruction")]
    output = helper.make_tensor_value_info("discrepancy", onnx.TensorProto.FLOAT, None)
    constants = [onnx.numpy_helper.from_array(np.array([0], np.int64), "first")]
    graph = helper.make_graph(nodes, "dipn", borders, [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "onnx/fp32/dipn.onnx")
    change(folder, ["onnx/fp32/dipn.onnx"])
    backend = load(Bundle.open(folder), threads=1)
    inputs_of_two = dict.fromkeys(("image", "reconstruction"), np.zeros((2, 3, 64, 64), np.float32))
    with pytest.raises(BackendError) as caught:
        backend.run("dipn", inputs_of_two, ["discrepancy"])
    sentence = f'the stage "dipn" gave discrepancy as {found}, expected [2, 3, 64, 64]; build it again with: sdic-export build'
    assert str(caught.value) == sentence
