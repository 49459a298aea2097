"""Model repositories: Triton's own schema, the ensembles carried out step by step against the pipeline, and a real server.

For the real server, SDIC_TRITONSERVER names a `tritonserver` with the Python backend, such as the package nvidia-pytriton carries; see
docs/serving.md.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_steps import carried_out, parsed

from sdic_export.cli import app as cli
from sdic_export.triton.config import Serving
from sdic_export.triton.repository import TritonOptions, write_repository
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import graph_keys
from sdic_runtime.errors import ArgumentError, BackendError
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline

schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason='Triton\'s schema is in the extra "triton"')
SERVER = os.environ.get("SDIC_TRITONSERVER")
NUMPY = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}


@pytest.fixture(scope="module")
def repository(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    write_repository(TritonOptions(built.folder, folder, serving=Serving(max_batch=4, instances=2, device="cpu", threads=1)))
    return folder


def test_cpu_optimized_graphs_are_not_served(repository: Path, arranged: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    write_repository(TritonOptions(arranged.folder, folder, serving=Serving(max_batch=4, instances=2, device="cpu", threads=1)))
    theirs, ours = (
        {
            path.relative_to(place): path.read_bytes() if "warmup" not in path.parts else b""  # golden tensors of two builds
            for path in place.rglob("*")
            if path.is_file()
        }
        for place in (repository, folder)
    )
    assert theirs == ours


@pytest.fixture(scope="module")
def configs(repository: Path) -> dict[str, Any]:
    return parsed(repository)


@pytest.fixture(scope="module")
def pipeline(built: Any) -> Pipeline:
    return Pipeline.load(built.folder, backend="onnxruntime", threads=1)


def border(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {tensor.name: (schema.DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in tensors}


def test_every_model_is_valid_and_named_as_its_folder(repository: Path, configs: dict[str, Any]) -> None:
    assert set(configs) == {path.name for path in repository.iterdir()}
    for name, config in configs.items():
        assert config.name == name
        assert config.max_batch_size == 4
        assert (repository / name / "1").is_dir()
        assert (config.platform == "ensemble") == (name in ("tiny_invert", "tiny_edit", "tiny_edit_released"))


def test_borders_are_those_of_the_graphs(repository: Path, configs: dict[str, Any]) -> None:
    import onnx

    models = [name for name, config in configs.items() if config.platform != "ensemble"]
    assert "tiny_generator_head_rgb" in models
    for name in models:
        graph = onnx.load(repository / name / "1/model.onnx").graph
        for declared, values in ((configs[name].input, graph.input), (configs[name].output, graph.output)):
            kinds = {1: "TYPE_FP32", 2: "TYPE_UINT8"}
            types = {value.name: value.type.tensor_type for value in values}
            assert border(declared) == {
                name: (kinds[kind.elem_type], [axis.dim_value for axis in kind.shape.dim][1:]) for name, kind in types.items()
            }
            assert all(value.type.tensor_type.shape.dim[0].dim_param for value in values)


def test_stages_batch_and_run_where_asked(configs: dict[str, Any]) -> None:
    config = configs["tiny_dicn"]
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    (group,) = config.instance_group
    assert (group.count, schema.ModelInstanceGroup.Kind.Name(group.kind)) == (2, "KIND_CPU")
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_warm_up_holds_the_golden_picture(repository: Path, configs: dict[str, Any], built: Any, pipeline: Pipeline) -> None:
    from sdic_export.golden import read_golden

    golden = read_golden(built.folder / "golden/golden.safetensors", built.report.manifest).tensors
    assert [sample.batch_size for sample in configs["tiny_e4e"].model_warmup] == [1, 4]
    for name, config in configs.items():
        for sample in config.model_warmup:
            assert set(sample.inputs) == {tensor.name for tensor in config.input}
            for key, value in sample.inputs.items():
                assert (repository / name / "warmup" / value.input_data_file).stat().st_size == 4 * np.prod(value.dims)
                assert list(value.dims) == border(config.input)[key][1]
    image = np.fromfile(repository / "tiny_e4e/warmup/image", "<f4").reshape(golden["image"][0].shape)
    assert np.array_equal(image, golden["image"][0])
    latent = np.fromfile(repository / "tiny_generator_tail/warmup/latent", "<f4").reshape(golden["latent"][0].shape)
    assert np.allclose(latent, golden["latent_enhanced"][0], atol=1e-4)


def test_ensembles_connect_models_that_fit(configs: dict[str, Any]) -> None:
    for name in ("tiny_invert", "tiny_edit", "tiny_edit_released"):
        config = configs[name]
        kinds = border(config.input)
        made: list[str] = []
        for step in config.ensemble_scheduling.step:
            model = configs[step.model_name]
            assert set(step.input_map) == set(border(model.input))
            for declared, pairs in ((border(model.input), step.input_map), (border(model.output), step.output_map)):
                for key, tensor in pairs.items():
                    assert kinds.setdefault(tensor, declared[key]) == declared[key]
            made += step.output_map.values()
        read = {tensor for step in config.ensemble_scheduling.step for tensor in step.input_map.values()}
        assert len(made) == len(set(made))
        assert set(made) <= read | set(border(config.output))  # Triton refuses a tensor that nobody reads
        assert set(border(config.input)) <= read
        assert border(config.output).items() <= kinds.items()
        last = config.ensemble_scheduling.step[-1]
        assert set(border(config.output)) == set(last.output_map.values())  # or Triton could not answer for some of them alone


def test_the_inversion_is_the_pipelines(repository: Path, configs: dict[str, Any], pipeline: Pipeline) -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 3, pipeline.sizes["S"], pipeline.sizes["S"])).astype(np.float32)
    found, expected = carried_out(repository, configs, "tiny_invert", {"image": image}), pipeline.invert(image)
    assert set(found) == {"latent", "latent_enhanced", "feature", "residual", "reconstruction", "discrepancy", "picture", "bytes"}
    for name in set(found) - {"picture", "bytes"}:
        assert np.allclose(found[name], getattr(expected, name), rtol=0, atol=1e-5)
    assert np.allclose(found["picture"], expected.pixels, rtol=0, atol=1e-5)
    assert np.array_equal(found["bytes"], to_bytes(found["picture"]))


@pytest.mark.parametrize(("form", "name"), [("paper", "tiny_edit"), ("released", "tiny_edit_released")])
def test_edits_are_the_pipelines(repository: Path, configs: dict[str, Any], pipeline: Pipeline, form: str, name: str) -> None:
    sizes = pipeline.sizes
    image = np.random.default_rng(2).uniform(-1, 1, (2, 3, sizes["S"], sizes["S"])).astype(np.float32)
    direction = np.random.default_rng(3).standard_normal((sizes["L"], sizes["C"])).astype(np.float32) * 0.2
    inversion = pipeline.invert(image)
    move = pipeline.moves[form]
    inputs = {key: getattr(inversion, key) for key in (*move.codes, "residual")}
    assert set(border(configs[name].input)) == {*inputs, "direction", "strength"}
    inputs |= {"direction": np.stack([direction] * 2), "strength": np.full((2, 1), 1.5, np.float32)}
    found, expected = carried_out(repository, configs, name, inputs), pipeline.edit(inversion, direction, 1.5, form)
    assert set(found) == {"picture", "bytes", *(f"{code}_edited" for code in move.codes)}
    assert np.array_equal(found["latent_enhanced_edited"], expected.latent)
    assert np.allclose(found["picture"], expected.pixels, rtol=0, atol=1e-5)
    assert np.array_equal(found["bytes"], to_bytes(found["picture"]))


def test_python_backend_brings_its_runner_and_links_its_graphs(built: Any, tmp_path: Path) -> None:
    write_repository(TritonOptions(built.folder, tmp_path / "models", "python", files="symbolic", warm_up=False))
    assert parsed(tmp_path / "models")["tiny_dipn"].backend == "python"
    version = tmp_path / "models/tiny_dipn/1"
    assert (version / "model.onnx").resolve() == (built.folder / "onnx/fp32/dipn.onnx").resolve()
    compile((version / "model.py").read_text(), "model.py", "exec")
    assert not (tmp_path / "models/tiny_dipn/warmup").exists()


def test_places_that_are_refused(built: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"notes is a folder with other files in it, which are not overwritten; name a new folder"):
        write_repository(TritonOptions(built.folder, tmp_path / "notes", force=True))
    write_repository(TritonOptions(built.folder, tmp_path / "models", warm_up=False))
    with pytest.raises(
        ArgumentError, match="there is already a model repository at .*models; replace it with --force or name another folder"
    ):
        write_repository(TritonOptions(built.folder, tmp_path / "models"))
    write_repository(TritonOptions(built.folder, tmp_path / "models", serving=Serving(max_batch=2), warm_up=False, force=True))
    assert {config.max_batch_size for config in parsed(tmp_path / "models").values()} == {2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "notes"]


def test_engines_must_be_named_and_there(built: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--backend tensorrt needs the engines to be served; name their folder in the bundle"):
        write_repository(TritonOptions(built.folder, tmp_path / "models", "tensorrt"))
    with pytest.raises(BackendError, match=r"cannot read .*engine\.json"):
        write_repository(TritonOptions(built.folder, tmp_path / "models", "tensorrt", engines=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_engines_become_plans(built: Any, tmp_path: Path) -> None:
    """With files in place of engines: nothing here loads them."""
    from sdic_runtime.backends.tensorrt.engine_files import EngineEntry, EngineSettings, Sidecar, onnx_hash, write_sidecar
    from sdic_runtime.backends.tensorrt.settings import Profile
    from sdic_runtime.files import sha256

    bundle, folder = Bundle.open(built.folder), tmp_path / "engines"
    folder.mkdir()
    entries = {}
    for graph in graph_keys(bundle.manifest, "fp32"):
        file = folder / f"{graph.replace(':', '.')}.engine"
        file.write_bytes(graph.encode())
        entries[graph] = EngineEntry(file.name, sha256(file), len(graph), onnx_hash(bundle, graph, "fp32"), 1.0, {})
    settings = EngineSettings("fp32", Profile(1, 1, 2))
    write_sidecar(folder, Sidecar("tensorrt", "10.13", settings, None, entries))
    write_repository(TritonOptions(built.folder, tmp_path / "models", "tensorrt", engines=folder, warm_up=False))
    configs = parsed(tmp_path / "models")
    assert (tmp_path / "models/tiny_generator_head_rgb/1/model.plan").read_bytes() == b"generator_head:rgb"
    assert (configs["tiny_dicn"].platform, configs["tiny_dicn"].max_batch_size) == ("tensorrt_plan", 2)
    assert configs["tiny_edit_codes"].platform == "onnxruntime_onnx"
    (folder / "dicn.engine").write_bytes(b"dicm")
    with pytest.raises(BackendError, match='the engine of "dicn" in .* cannot be used: .*SHA-256'):
        write_repository(TritonOptions(built.folder, tmp_path / "other", "tensorrt", engines=folder))
    write_sidecar(folder, Sidecar("tensorrt-rtx", "1.2", settings, None, entries))
    with pytest.raises(BackendError, match="are for tensorrt-rtx, and Triton runs those for tensorrt"):
        write_repository(TritonOptions(built.folder, tmp_path / "other", "tensorrt", engines=folder))


def test_the_command_prints_the_models(built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(built.folder, tmp_path / "bundle")
    assert cli.main(["triton", str(folder), str(tmp_path / "models"), "--files", "hard", "--no-warm-up"]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(path.name for path in (tmp_path / "models").iterdir())
    assert cli.main(["triton", str(tmp_path / "nothing"), str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no bundle at {tmp_path / 'nothing'}")


@pytest.mark.full
@pytest.mark.skipif(SERVER is None, reason="SDIC_TRITONSERVER does not name a tritonserver with the Python backend")
def test_a_real_server_gives_the_same(built: Any, tmp_path: Path, pipeline: Pipeline) -> None:
    """Every ensemble through a running Triton, all results at once and each alone."""
    import tritonclient.grpc as triton

    assert SERVER is not None
    write_repository(TritonOptions(built.folder, tmp_path / "models", "python", serving=Serving(device="cpu", threads=1)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backends = Path(SERVER).resolve().parent.parent / "backends"
    server = subprocess.Popen(
        [
            SERVER,
            "--model-repository",
            str(tmp_path / "models"),
            "--backend-directory",
            str(backends),
            "--allow-http",
            "false",
            "--allow-metrics",
            "false",
            "--grpc-address",
            "127.0.0.1",
            "--grpc-port",
            str(port),
        ],
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        wait_until_ready(client, server, tmp_path / "log")

        def ask(model: str, names: list[str], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            tensors = [triton.InferInput(name, array.shape, "FP32") for name, array in inputs.items()]
            for tensor, array in zip(tensors, inputs.values(), strict=True):
                tensor.set_data_from_numpy(np.ascontiguousarray(array))
            answer = client.infer(model, tensors, outputs=[triton.InferRequestedOutput(name) for name in names])
            return {name: answer.as_numpy(name) for name in names}

        side = pipeline.sizes["S"]
        image = np.random.default_rng(4).uniform(-1, 1, (3, 3, side, side)).astype(np.float32)
        expected = pipeline.invert(image)
        names = ["latent", "latent_enhanced", "residual", "feature", "discrepancy", "picture", "bytes"]
        every = ask("tiny_invert", names, {"image": image})
        assert np.allclose(every["picture"], expected.pixels, rtol=0, atol=1e-5)
        for name, array in every.items():
            assert np.array_equal(ask("tiny_invert", [name], {"image": image})[name], array)
        direction = np.zeros_like(expected.latent)
        codes = {name: every[name] for name in ("latent", "latent_enhanced", "residual")}
        unedited = ask("tiny_edit", ["picture"], {**codes, "direction": direction, "strength": np.ones((3, 1), np.float32)})
        assert np.allclose(unedited["picture"], every["picture"], rtol=0, atol=1e-5)
    finally:
        server.terminate()
        server.wait(60)


def wait_until_ready(client: Any, server: subprocess.Popen[bytes], log: Path) -> None:
    from tritonclient.utils import InferenceServerException

    for _ in range(600):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if client.is_server_ready():
                return
        except InferenceServerException:
            pass
        time.sleep(0.5)
    pytest.fail(log.read_text()[-2000:])


def test_a_bundle_with_weights_beside_its_graphs_keeps_them_together(built: Any, tmp_path: Path) -> None:
    import onnx

    from sdic_export.build import finish

    folder = Path(shutil.copytree(built.folder, tmp_path / "bundle"))
    manifest = Bundle.open(folder).manifest
    (name,) = manifest.graphs["dipn"]["fp32"]
    model = onnx.load(folder / name)
    onnx.save(model, folder / name, save_as_external_data=True, location="dipn.onnx.data", size_threshold=0)
    (folder / "bundle.json").unlink()
    finish(folder, manifest)
    write_repository(TritonOptions(folder, tmp_path / "models", warm_up=False))
    place = tmp_path / "models/tiny_dipn/1"
    assert sorted(path.name for path in place.iterdir()) == ["dipn.onnx.data", "model.onnx"]
    onnx.checker.check_model(str(place / "model.onnx"))
