"""The commands as a user types them: files written, words printed, exit codes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from sdic_runtime.cli.app import command_line
from sdic_runtime.cli.app import run as run_command
from sdic_runtime.cpus import has_bfloat16
from sdic_runtime.pipeline import Pipeline

COMMANDS = ("invert", "edit", "sweep", "batch", "compare", "bench", "doctor", "download", "demo")
BACKEND = ("--backend", "onnxruntime:threads=1")


def test_help_names_every_command_and_gives_an_example(run: Any) -> None:
    code, lines, _ = run("--help")
    assert code == 0
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS] == list(COMMANDS)
    assert any("Example: sdic-run edit" in line for line in lines)
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")], "a summary that does not fit the list"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_that_calls_it(run: Any, command: str) -> None:
    code, lines, _ = run(command, "--help")
    assert code == 0
    assert lines[lines.index("  Example:") + 1].startswith(f"    sdic-run {command} ")
    assert any("--debug" in line for line in lines)


def test_help_is_instant_because_nothing_heavy_is_imported() -> None:
    heavy = ("numpy", "PIL", "onnxruntime", "torch", "tqdm", "safetensors", "rich", "sdic_runtime.pipeline")
    script = f"import sys, sdic_runtime.cli.app as c; c.main(['invert', '--help']); print([m for m in {heavy} if m in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.stdout.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_version_is_the_installed_one(run: Any) -> None:
    from sdic_runtime import __version__

    assert run("--version") == (0, [f"sdic-toolkit {__version__}"], "")


# What holds for all


def test_the_demo_bundle_and_the_choice_of_backend_are_announced(run: Any, demo_bundle: Path, photos: Path) -> None:
    code, _, errors = run("invert", photos / "a.png")
    assert code == 0
    assert errors.splitlines()[0] == "using the embedded demo bundle (synthetic portraits); name your own with --bundle"
    assert errors.splitlines()[1].startswith("backend: ONNX Runtime ") and errors.endswith("; why: sdic-run doctor\n")
    assert len(errors.splitlines()) == 2 and len(errors.splitlines()[1]) < 100


@pytest.fixture
def told(run: Any, photos: Path) -> Callable[..., list[str]]:
    """What an inversion says to standard error, but for warnings."""

    def call(bundle: Path, *words: str) -> list[str]:
        code, _, errors = run("invert", photos / "a.png", "--bundle", bundle, *words)
        assert code == 0
        return [line for line in errors.splitlines() if not line.startswith("warning")]

    return call


def test_why_auto_reduces_nothing_is_announced(
    told: Callable[..., list[str]], make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("sdic_runtime.backends.openvino")
    pytest.importorskip("openvino")
    bare = make_bundle("bare")
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    assert told(bare, "--backend", "openvino", "--precision", "auto") == [f"the precision auto stays fp32: {openvino.NO_BF16}"]
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: True)
    unmeasured = f"{bare} does not say what bf16 costs; measure it with: sdic-export bf16 {bare}"
    assert told(bare, "--backend", "openvino:precision=auto") == [f"the precision auto stays fp32: {unmeasured}"]
    assert told(bare, "--precision", "auto")[1:] == [f"the precision auto stays fp32: openvino: {unmeasured}"]


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU does not multiply in bfloat16")
def test_a_reduced_precision_is_announced_whoever_names_it(told: Callable[..., list[str]], make_bundle: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    measured = make_bundle("measured", psnr={"bf16": 50.0})
    for words in (("openvino:precision=bf16",), ("openvino", "--precision", "auto"), ("auto:precision=auto",), ("auto:precision=bf16",)):
        (line,) = told(measured, "--backend", *words)
        assert line.startswith("backend: OpenVINO ") and "bf16 (against fp32: 50.0 dB)" in line
        assert line.endswith("; why: sdic-run doctor") == words[0].startswith("auto")


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_wherever_it_stands(run: Any, place: str) -> None:
    command = ("--debug", "invert", "missing.png") if place == "before" else ("invert", "missing.png", "--debug")
    code, _, errors = run(*command)
    assert code == 2
    assert "Traceback (most recent call last)" in errors
    assert errors.splitlines()[-1] == "error: there is no file missing.png; check the path"
    assert "Traceback" not in run("invert", "missing.png")[2]


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "not enough memory; use a smaller --batch or a smaller picture"),
        (PermissionError(13, "Permission denied", "x.png"), 2, "the system refused access to x.png: permission denied"),
        (OSError(28, "No space left on device", "out/x.png"), 2, "no space left for out/x.png; make room, or choose another place"),
        (OSError(28, "No space left on device"), 2, "no space left; make room, or choose another place"),
        (RuntimeError("odd"), 2, "internal error: RuntimeError: odd; rerun with --debug and report it"),
    ],
)
def test_errors_from_below(
    run: Any, photos: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Pipeline, "invert_many", fail)
    found, lines, errors = run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND)
    assert (found, lines, errors.strip()) == (code, [], f"error: {sentence}" if sentence else "")


def test_closed_standard_output_is_no_failure(photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "-o", tmp_path]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *map(str, command)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("program", ["sdic-export", "sdic-train"])
def test_a_package_of_an_extra_that_is_missing_is_named_with_the_extra(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = command_line(program, "What it is for.", program)

    @app.command("work")
    def work() -> None:
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

    assert run_command(app, ["work"]) == 2
    extra = program.removeprefix("sdic-")
    wanted = f'error: {program} needs the package "torch"; install it with: pip install "sdic-toolkit[{extra}]"\n'
    assert capsys.readouterr().err == wanted


def test_an_option_with_choices_that_is_missing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = command_line("sdic-run", "What it is for.", "sdic-run")
    choices = Enum("choices", {"one": "one", "two": "two"}, type=str)

    def work(target: Any) -> None: ...

    work.__annotations__["target"] = Annotated[choices, typer.Option("--target")]
    app.command("work")(work)
    assert run_command(app, ["work"]) == 2
    assert capsys.readouterr().err == "error: Missing option '--target'. Choose from: one, two; see: sdic-run work --help\n"
