"""The programs in C and C++: the header as C, the example against an installed libsdic, and a soak under sanitizers and valgrind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Inversion, Pipeline

ROOT = Path(__file__).parents[2]
QUICK = ("-DCMAKE_BUILD_TYPE=Checked", "-DCMAKE_CXX_FLAGS_CHECKED=-O1 -g1")  # line numbers, and a compiler that comes back
Execute = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def example(release_build: Path, build_folder: Path, execute: Execute) -> Path:
    """The example program, built as a user does: against an installed package."""
    return build_example(release_build, build_folder / "installed", execute)


def build_example(library: Path, folder: Path, execute: Execute) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        ("cmake", "--install", library, "--prefix", folder / "prefix"),
        ("cmake", "-S", ROOT / "examples/cpp", "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}"),
        ("cmake", "--build", folder / "build"),
    ):
        done = execute(*command)
        if "Could NOT find PNG" in done.stderr:
            pytest.skip("libpng's headers are not installed")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return folder / "build/invert_and_edit"


def photo(path: Path, mode: str, size: tuple[int, int] = (140, 200)) -> Path:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], channels), np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)
    return path


def test_the_header_is_c(release_build: Path, execute: Execute) -> None:
    assert execute(release_build / "tests/header").returncode == 0


def test_a_pipeline_is_moved_into_another_safely(release_build: Path, execute: Execute) -> None:
    assert execute(release_build / "tests/moved").returncode == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_example_gives_the_pictures_of_python(
    example: Path, execute: Execute, tiny_bundle: Path, python: Pipeline, tmp_path: Path, mode: str
) -> None:
    path = photo(tmp_path / "photo.png", mode)
    done = execute(example, tiny_bundle, path, tmp_path / "out", "smile", "age")
    assert done.returncode == 0, done.stderr
    names = ["inversion", "smile", "age"]
    assert done.stdout.splitlines() == [f"{tmp_path}/out/{name}.png" for name in names]
    inversion = python.invert(path)
    expected = [inversion, python.edit(inversion, "smile", 2.0), python.edit(inversion, "age", 2.0)]
    for name, want in zip(names, expected, strict=True):
        got = np.asarray(Image.open(tmp_path / f"out/{name}.png"), int)
        assert np.abs(got - np.asarray(want.images[0])).max() <= 1
    assert Inversion.load(tmp_path / "out/inversion.safetensors").names == (str(path),)


def test_onnx_runtime_reports_nothing_and_keeps_no_files(example: Path, execute: Execute, tiny_bundle: Path, tmp_path: Path) -> None:
    path, home = photo(tmp_path / "photo.png", "RGB"), tmp_path / "home"
    home.mkdir()
    names = ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": str(home), "TMPDIR": str(home)}
    assert execute(example, tiny_bundle, path, tmp_path / "out", "smile", env=environment).returncode == 0
    assert list(home.iterdir()) == []


def test_the_example_says_what_is_wrong(example: Path, execute: Execute, tiny_bundle: Path, tmp_path: Path) -> None:
    good = photo(tmp_path / "good.png", "RGB")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "short.png").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "vast.png")
    out = tmp_path / "out"
    cases: list[tuple[list[Any], str]] = [
        ([], "error: too few arguments; usage: invert_and_edit BUNDLE photo.png FOLDER DIRECTION..."),
        ([tmp_path, good, out, "smile"], f"error: {tmp_path} is not a bundle, it has no bundle.json"),
        ([tiny_bundle, good, out, "age", "smiel"], 'error: there is no direction "smiel"; the bundle "tiny" has: age, basis, smile'),
        ([tiny_bundle, good, out, "age", "basis"], "error: basis is a PCA basis, whose components this example does not take; name a"),
        ([tiny_bundle, good, good / "below", "smile"], "error: "),
        ([tiny_bundle, tmp_path / "vast.png", out, "smile"], f"error: {tmp_path}/vast.png has more than 100 megapixels; make the"),
        *(
            ([tiny_bundle, tmp_path / f"{name}.png", out, "smile"], f"error: {tmp_path}/{name}.png ")
            for name in ("text", "short", "empty", "none")
        ),
    ]
    for arguments, sentence in cases:
        done = execute(example, *arguments)
        assert done.returncode == 2 and done.stdout == "" and not out.exists()
        assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1, done.stderr


def test_four_threads_with_a_handle_each_give_the_same_pictures(release_build: Path, execute: Execute, tiny_bundle: Path) -> None:
    for arguments in (("3", "4"), ("3", "4", "shared")):
        done = execute(release_build / "tests/soak", tiny_bundle, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "13 rounds of 22 pictures, all the same\n"


@pytest.fixture
def banded(make_bundle: Callable[..., Path], tiny: Any) -> Path:
    """A bundle whose tail and DIPN are in bands of rows."""
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", ((0, 40), (40, 96), (96, 128)))
    tiny.add_bands(folder, "dipn", ((0, 16), (16, 64)))
    return folder


def test_bands_give_the_same_pictures_in_four_threads(release_build: Path, execute: Execute, banded: Path) -> None:
    for sharing in ("own", "shared"):
        done = execute(release_build / "tests/soak", banded, "3", "4", sharing, "3")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "13 rounds of 22 pictures, all the same\n"


def test_ctest_runs_what_was_built(build: Callable[..., Path], execute: Execute, tiny_bundle: Path) -> None:
    folder = build("release", f"-DSDIC_TEST_BUNDLE={tiny_bundle}")
    done = execute("ctest", "--test-dir", folder, "--output-on-failure")
    assert done.returncode == 0, done.stdout
    assert "100% tests passed, 0 tests failed out of 3" in done.stdout
    assert execute(folder / "tests/moved").returncode == 0, "a pipeline's handle is closed before what it uses"


@pytest.mark.full
def test_no_leak_and_no_invalid_access_over_200_inversions(build: Callable[..., Path], execute: Execute, tiny_bundle: Path) -> None:
    program = build("sanitized", "-DSDIC_SANITIZE=ON", *QUICK) / "tests/soak"
    done = execute(program, tiny_bundle, "200", "1", env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"})
    assert done.returncode == 0 and "201 rounds" in done.stdout, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr


@pytest.mark.full
def test_valgrind_finds_no_error_and_nothing_lost(release_build: Path, execute: Execute, tiny_bundle: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    done = execute(
        "valgrind",
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
        "--show-leak-kinds=definite",
        f"--suppressions={ROOT / 'sdic_runtime/cpp/tests/valgrind.supp'}",
        release_build / "tests/soak",
        tiny_bundle,
        "2",
        "1",
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr[-4000:]


@pytest.mark.full
@pytest.mark.parametrize("sharing", [[], ["shared"]])
def test_no_race_in_four_threads(build: Callable[..., Path], execute: Execute, tiny_bundle: Path, sharing: list[str]) -> None:
    program = build("threads", "-DCMAKE_CXX_FLAGS=-fsanitize=thread", *QUICK) / "tests/soak"
    options = f"exitcode=66 suppressions={ROOT / 'sdic_runtime/cpp/tests/threads.supp'}"
    done = execute(program, tiny_bundle, "3", "4", *sharing, env={**os.environ, "TSAN_OPTIONS": options})
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-4000:]


@pytest.mark.full
@pytest.mark.parametrize("sharing", ["own", "shared"])
def test_no_race_between_bands(build: Callable[..., Path], execute: Execute, banded: Path, sharing: str) -> None:
    program = build("threads", "-DCMAKE_CXX_FLAGS=-fsanitize=thread", *QUICK) / "tests/soak"
    options = f"exitcode=66 suppressions={ROOT / 'sdic_runtime/cpp/tests/threads.supp'}"
    done = execute(program, banded, "2", "3", sharing, "3", env={**os.environ, "TSAN_OPTIONS": options})
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-4000:]


@pytest.mark.full
def test_no_leak_of_bands(build: Callable[..., Path], execute: Execute, banded: Path) -> None:
    program = build("sanitized", "-DSDIC_SANITIZE=ON", *QUICK) / "tests/soak"
    done = execute(program, banded, "20", "1", "own", "3", env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"})
    assert done.returncode == 0 and "21 rounds" in done.stdout, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr


@pytest.mark.full
def test_a_static_library_serves_too(
    build: Callable[..., Path], build_folder: Path, execute: Execute, tiny_bundle: Path, tmp_path: Path
) -> None:
    program = build_example(build("static", "-DBUILD_SHARED_LIBS=OFF"), build_folder / "installed-static", execute)
    done = execute(program, tiny_bundle, photo(tmp_path / "photo.png", "RGB"), tmp_path / "out", "smile")
    assert done.returncode == 0, done.stderr
    assert "libsdic" not in execute("ldd", program).stdout
