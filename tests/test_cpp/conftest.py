"""libsdic, built once per run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_bundle as tiny_bundle_module
from filelock import FileLock
from native_library import Library, NativeError, NativePipeline
from native_refusals import KINDS

from sdic_runtime import Pipeline

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "sdic_runtime/cpp"


def run(*command: str | Path, timeout: int = 480, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; after `timeout` seconds it is killed with all that it started, which would keep its output open."""
    words, pipe = [str(part) for part in command], subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="session")
def execute() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program: see subprocess.run."""
    return run


def onnxruntime_library() -> Path:
    """The shared library inside Python's package."""
    import onnxruntime

    return next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of this run. Name one in SDIC_CPP_BUILD to keep it from run to run."""
    base = tmp_path_factory.getbasetemp()
    kept = os.environ.get("SDIC_CPP_BUILD")
    folder = Path(kept) if kept else (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "libsdic"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def build(build_folder: Path) -> Callable[..., Path]:
    """Configure and build libsdic: `build(name, *cmake options)` gives its build folder. Skips where the tools are missing."""
    for program in ("cmake", "c++"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")

    def build_one(name: str, *options: str) -> Path:
        folder = build_folder / name
        with FileLock(build_folder / "headers.lock"):
            found = (f"-DONNXRUNTIME_LIBRARY={onnxruntime_library()}", *headers(build_folder / "headers"))
        with FileLock(build_folder / f"{name}.lock"):
            unity = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=100")
            done = run("cmake", "-S", SOURCE, "-B", folder, "-DSDIC_BUILD_TESTS=ON", *unity, *found, *options)
            for missing in ("OpenSSL is missing", "nlohmann_json is missing"):
                if missing in done.stderr:
                    pytest.skip(missing)
            assert done.returncode == 0, done.stderr
            made = run("cmake", "--build", folder)
            assert made.returncode == 0, made.stdout + made.stderr
        return folder

    return build_one


def headers(folder: Path) -> tuple[str, ...]:
    """The option that names ONNX Runtime's headers: none where CMake finds them itself, else fetched ones."""
    named = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    if named:
        return (f"-DONNXRUNTIME_INCLUDE_DIR={named}",)
    places = [Path(base) / "onnxruntime" for base in ("/usr/include", "/usr/local/include")]
    if any(found for place in places for found in place.rglob("onnxruntime_c_api.h")):
        return ()
    fetched = next(folder.rglob("onnxruntime_c_api.h"), None)
    if fetched is None:
        done = run(SOURCE / "fetch_onnxruntime_headers.sh", folder)
        if done.returncode != 0:
            pytest.skip(f"ONNX Runtime's headers cannot be had: {done.stderr.strip()}")
        fetched = Path(done.stdout.strip().splitlines()[-1]) / "onnxruntime_c_api.h"
    return (f"-DONNXRUNTIME_INCLUDE_DIR={fetched.parent}",)


@pytest.fixture(scope="session")
def release_build(build: Callable[..., Path]) -> Path:
    return build("release")


@pytest.fixture(scope="session")
def library(release_build: Path) -> Library:
    return Library(release_build / "libsdic.so")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """How the tests of the Python runtime make their tiny bundle: `write_bundle`, `SIZES`, ..."""
    return tiny_bundle_module


@pytest.fixture(scope="session")
def tiny_bundle(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture
def make_bundle(tiny: ModuleType, tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny bundle to break, or with changed manifest fields a new one."""

    def make(name: str = "copy", **changes: Any) -> Path:
        folder = tmp_path / name
        return Path(tiny.write_bundle(folder, **changes) if changes else shutil.copytree(tiny_bundle, folder))

    return make


@pytest.fixture(scope="session")
def python(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, backend="onnxruntime", threads=1)


@pytest.fixture(scope="session")
def native(library: Library, tiny_bundle: Path) -> NativePipeline:
    return library.open(tiny_bundle)


@pytest.fixture
def refusal() -> Callable[..., tuple[int, str]]:
    """The status and the sentence of a call that must fail."""

    def refused(work: Callable[[], Any]) -> tuple[int, str]:
        with pytest.raises(NativeError) as caught:
            work()
        return caught.value.status, str(caught.value)

    return refused


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
