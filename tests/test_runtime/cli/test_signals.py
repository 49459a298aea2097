"""Commands that are asked to end, and standard streams that are closed or that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")

# In slices: a signal that comes between Python's look at it and the system's sleep is heard only after the sleep.
WAITS = "[time.sleep(0.05) for _ in range(1200)]"
WORKS = f"""
import os, sys, time
from pathlib import Path
from sdic_runtime.cli.app import command_line, run
from sdic_runtime.files import replacing
app = command_line("sdic-run", "What it is for.", "sdic-run")
@app.command("work")
def work(out: Path) -> None:
    with replacing(out) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        {WAITS}
raise SystemExit(run(app, sys.argv[1:]))
"""
PRINTS = """
import sys
from sdic_runtime.cli.app import command_line, run
app = command_line("sdic-run", "What it is for.", "sdic-run")
@app.command("work")
def work() -> None:
    import typer
    for number in range(100000):
        typer.echo(number)
@app.command("other")
def other() -> None:
    import os
    read, write = os.pipe()
    os.close(read)
    os.write(write, b"x")
raise SystemExit(run(app, sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "times", "code"), [("SIGTERM", 1, 143), ("SIGTERM", 2, 143), ("SIGHUP", 1, 129), ("SIGINT", 1, 130)])
def test_a_command_that_is_asked_to_end_leaves_nothing(number: str, times: int, code: int, tmp_path: Path) -> None:
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    command = [sys.executable, "-c", heard + WORKS, "work", str(tmp_path / "a")]  # also where the tests run in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr and process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        for _ in range(times):
            process.send_signal(getattr(signal, number))
        assert process.wait(20) == code
        assert process.stderr.read().strip() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_command_goes_on_after_its_terminal_is_closed_when_asked_to(tmp_path: Path) -> None:
    program = WORKS.replace(WAITS, "os.kill(os.getpid(), 1)")
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", program, "work", str(tmp_path / "a")]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "a").read_text() == "half"


@pytest.mark.parametrize("redirect", ["", "2>&1"])
def test_a_reader_that_leaves_early_ends_the_command_as_in_any_pipe(redirect: str) -> None:
    command = f'("$@" {redirect}; echo $? >&3) | head -1'
    with subprocess.Popen(
        ["bash", "-c", f"{{ {command}; }} 3>&2", "sh", sys.executable, "-c", PRINTS, "work"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, errors = process.communicate(timeout=30)
    assert (out, errors) == (b"0\n", b"141\n")


def test_another_broken_pipe_is_an_error_that_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS, "other"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: the system refused access to a file: broken pipe\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("stream", [1, 2])
def test_a_full_disk_behind_a_stream_is_an_error_without_a_traceback(stream: int) -> None:
    program = PRINTS.replace("typer.echo(number)", f"typer.echo(number, err={stream == 2})")
    done = subprocess.run(
        ["bash", "-c", f'"$@" {stream}>/dev/full', "sh", sys.executable, "-c", program, "work"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: no space left; make room, or choose another place\n" if stream == 1 else "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    program = WORKS.replace(WAITS, "os.write(1, b'noise of a library')")
    command = ["sh", "-c", '"$@" >&- 2>&-', "sh", sys.executable, "-c", program, "work", str(tmp_path / "a")]
    program_with_open = program.replace('temporary.write_text("half")', "stream = temporary.open('w')").replace(
        "print(", "stream.close(); print("
    )
    for text in (program, program_with_open):
        command[6] = text
        assert subprocess.run(command).returncode == 0
        assert b"noise" not in (tmp_path / "a").read_bytes()


def test_names_beyond_ascii_in_the_c_locale(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "\u732b \u00fc.png"
    Image.new("RGB", (40, 40), "teal").save(picture)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-m",
        "sdic_runtime.cli.app",
        "invert",
        picture,
        "--bundle",
        tiny_bundle,
        "--backend",
        "onnxruntime:threads=1",
    ]
    done = subprocess.run([*command, "--save", "-o", tmp_path / "\u00f6"], capture_output=True, env={**os.environ, **plain})
    assert done.returncode == 0, done.stderr
    assert b"\\udc" in done.stdout and "\u732b \u00fc.inverted.png" in os.listdir(tmp_path / "\u00f6")


def test_a_batch_that_is_asked_to_end_leaves_nothing_half_done_and_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (40, 40), (6 * number, 0, 0)).save(folder / f"{number:02}.png")
    command: list[Any] = [sys.executable, "-m", "sdic_runtime.cli.app", "batch", folder, "--out", out, "--bundle", tiny_bundle, "--save"]
    command += ["--backend", "onnxruntime", "--workers", "1"]
    # The whole group, as service managers do: workers and all.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        journal = out / ".sdic-batch.jsonl"
        while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") > 1):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        assert process.stderr and process.stderr.read().strip() == ""
    allowed = {".sdic-batch.jsonl", ".sdic-batch.lock", "failures.csv"}
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name not in allowed]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("*.inverted.png"))) == 40 and not (out / "failures.csv").exists()
