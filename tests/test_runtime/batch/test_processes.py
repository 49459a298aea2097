"""Batches in processes of their own, with a kill, and on Ray."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_results import failures, results
from noise_pictures import make_pictures
from PIL import Image

from sdic_runtime.batch import local
from sdic_runtime.batch.inputs import tasks_of
from sdic_runtime.batch.job import FAILURES, JOURNAL, Job, Task, Worker
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.pipeline import Pipeline


def command(source: Path, bundle: Path, out: Path, *more: str) -> list[str]:
    words = ["batch", str(source), "--bundle", str(bundle), "--out", str(out), "--backend", "onnxruntime", "--threads", "1", *more]
    return [sys.executable, "-m", "sdic_runtime.cli.app", *words]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def has_reader(pipe: Path) -> bool:
    """Whether a process has the named pipe open, or waits in opening it, for reading."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def check_all(folder: Path, out: Path, pipeline: Pipeline, bad: Sequence[int], every: int = 1) -> None:
    good = sorted(path for index, path in enumerate(sorted(folder.glob("*.png"))) if index not in bad)
    assert sorted(results(out)) == [f"{path.stem}.inverted.png" for path in good]
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == [JOURNAL, ".sdic-batch.lock"]
    for path in good[::every]:
        with Image.open(out / f"{path.stem}.inverted.png") as found:
            assert np.array_equal(np.asarray(found), np.asarray(pipeline.invert(path).images[0]))
    assert set(failures(out)) == {str(folder / f"p{index:03}.png") for index in bad}
    assert all("is not a picture this program can read" in text for text in failures(out).values())


def kill_and_resume(folder: Path, bundle: Path, out: Path, kill_at: int, total: int, bad: Sequence[int]) -> None:
    """A run that waits for ever at picture `kill_at`, a pipe that nobody writes to, is killed there; another one finishes the work."""
    names, stuck = folder / "list.txt", folder / f"p{kill_at:03}.png"
    names.write_text("\n".join(f"p{index:03}.png" for index in range(total)))
    whole = stuck.read_bytes()
    stuck.unlink()
    os.mkfifo(stuck)
    before = sum(index not in bad for index in range(kill_at))
    first = subprocess.Popen(command(names, bundle, out, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (out / JOURNAL).exists() and (out / JOURNAL).read_text().count("\n") == before, "the first pictures are not done")
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    wait_for(lambda: not has_reader(stuck), "the worker goes on without the run that started it")
    stuck.unlink()
    stuck.write_bytes(whole)
    kept = results(out)
    second = subprocess.run(command(names, bundle, out, "--workers", "2"), capture_output=True, text=True, timeout=300)
    assert second.returncode == 2
    assert second.stdout == f"{total - before - len(bad)} of {total} pictures done, {before} were complete before\n"
    told = f"{len(bad)} of {total} pictures could not be done; they are listed with the reasons in {out / FAILURES}"
    throughput, error = second.stderr.splitlines()
    assert " pictures/s: " in throughput and error == f"error: {told}"
    assert kept.items() <= results(out).items()  # what was noted was not done twice


def test_a_killed_run_is_finished_by_the_next(tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    folder, bad = make_pictures(tmp_path / "in", 12, [3, 10]), [3, 10]
    kill_and_resume(folder, tiny_bundle, tmp_path / "out", 6, 12, bad)
    check_all(folder, tmp_path / "out", pipeline, bad)


def test_a_picture_that_kills_its_worker_costs_no_other(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 5)
    sitting = tmp_path / "sitecustomize.py"  # Python runs it at the start of every process: there, picture 2 is deadly
    sitting.write_text(
        "import os, sdic_runtime.pictures as pictures\n"
        "load = pictures.load_picture\n"
        "pictures.load_picture = lambda path, *more: os._exit(9) if 'p002' in str(path) else load(path, *more)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = command(folder, tiny_bundle, tmp_path / "out", "--workers", "1", "--batch", "2")
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2 and done.stdout == "4 of 5 pictures done\n"
    assert {Path(path).name for path in failures(tmp_path / "out")} == {"p002.png"}
    assert "ended its worker 3 times" in failures(tmp_path / "out")[str(folder / "p002.png")]
    assert len(results(tmp_path / "out")) == 4


def test_a_pool_that_breaks_while_work_is_handed_out_loses_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, context: Any, initializer: Callable[..., None], arguments: tuple[Job]) -> None:
            super().__init__(workers, initializer=initializer, initargs=arguments)

        def submit(self, *call: Any) -> Any:
            handed.append(len(call[1]))
            if len(handed) == 2:
                raise BrokenProcessPool("a child process terminated abruptly")
            return super().submit(*call)

    monkeypatch.setattr(local, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(local, "serve_parent", lambda: None)
    monkeypatch.setattr(local, "_worker", None)
    job = Job(tiny_bundle, tmp_path / "out", "onnxruntime:threads=1", batch=2)
    job.out.mkdir()
    tasks, _ = tasks_of(make_pictures(tmp_path / "in", 5), job)
    found = list(local.execute(job, tasks, workers=1, threads=1))
    assert sorted(Path(outcome.task.source).name for outcome in found) == [f"p{index:03}.png" for index in range(5)]
    assert handed == [2, 2, 1, 1, 1], "the group that was not begun is done one by one"


def test_a_picture_whose_folder_cannot_be_made_costs_no_other(tiny_bundle: Path, tmp_path: Path) -> None:
    (one,) = make_pictures(tmp_path / "in", 1).iterdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("a file")
    worker = Worker(Job(tiny_bundle, tmp_path / "out", "onnxruntime:threads=1", batch=2))
    bad, good = worker([Task(str(one), "sub/bad"), Task(str(one), "good")])
    assert good.error == "" and (tmp_path / "out/good.inverted.png").exists()
    assert bad.error.startswith(f"cannot make the folder {tmp_path}/out/sub: ") and "choose another one with --out" in bad.error


def test_what_ran_is_told_once(run: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 3)
    words = ("batch", folder, "--bundle", tiny_bundle, "--workers", 2, "--out")
    assert "backend:" not in run(*words, tmp_path / "a", "--backend", "onnxruntime")[2]
    assert run(*words, tmp_path / "b")[2].count("backend: ONNX Runtime ") == 1
    code, _, errors = run(*words, tmp_path / "c", "--backend", "onnxruntime", "--precision", "auto")
    assert (
        code == 0
        and errors.count("the precision auto stays fp32: onnxruntime reduces none by itself; openvino does, or name a precision") == 1
    )


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.full)])
def test_a_worker_that_cannot_start_is_one_sentence(tiny_bundle: Path, tmp_path: Path, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason='Ray is in the extra "ray"')
    folder = make_pictures(tmp_path / "in", 1)
    words = [*command(folder, tiny_bundle, tmp_path / "out"), "--backend", "onnxruntime:device=gpu", "--executor", executor]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.splitlines()[-1] == 'error: the device is "gpu"; use cpu, cuda or cuda:N'


def test_ray_gives_the_same(tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is in the extra "ray"')
    folder = make_pictures(tmp_path / "in", 6, [2])
    words = command(folder, tiny_bundle, tmp_path / "out", "--executor", "ray", "--workers", "1")
    short = Path("/tmp", secrets.token_hex(2))  # sockets in it have names that the system takes
    short.mkdir()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "TMPDIR": str(short)})
        assert done.returncode == 2 and done.stdout == "5 of 6 pictures done\n"
        assert list(short.iterdir()) == []  # Ray's logs and sockets go with it
    finally:
        shutil.rmtree(short)
    check_all(folder, tmp_path / "out", pipeline, [2])


@pytest.mark.parametrize("words", [("--gpus", "1"), ("--address", "auto")])
def test_what_is_for_ray_alone_says_so(run: Any, tiny_bundle: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, _, errors = run("batch", make_pictures(tmp_path / "in", 1), "--out", "out", "--bundle", tiny_bundle, *words)
    assert (code, errors) == (2, f"error: {words[0]} is for Ray; add --executor ray\n")


@pytest.mark.full
def test_five_hundred_pictures_ten_bad_ones_and_a_kill(tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    bad = list(range(7, 500, 50))
    folder = make_pictures(tmp_path / "in", 500, bad, side=500)
    kill_and_resume(folder, tiny_bundle, tmp_path / "out", 200, 500, bad)
    check_all(folder, tmp_path / "out", pipeline, bad, every=7)


@pytest.mark.full
def test_two_workers_are_faster_than_one_and_give_the_same(tmp_path: Path) -> None:
    """The embedded bundle on 192 portraits, one thread per worker; the time to start the workers is part of both."""
    portraits = sorted((DEMO_FOLDER / "pictures").glob("*.png"))
    (tmp_path / "in").mkdir()
    for number in range(192):
        shutil.copy(portraits[number % len(portraits)], tmp_path / "in" / f"{number}.png")
    seconds = {}
    for workers in (1, 2):
        begin = time.perf_counter()
        subprocess.run(command(tmp_path / "in", DEMO_FOLDER, tmp_path / f"out{workers}", "--workers", str(workers)), check=True)
        seconds[workers] = time.perf_counter() - begin
    print(f"two workers / one: {seconds[1] / seconds[2]:.2f} times as fast ({seconds[1]:.1f} s, {seconds[2]:.1f} s)")
    assert len(list((tmp_path / "out1").glob("*.png"))) == 192
    for path in sorted((tmp_path / "out1").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes()
    assert seconds[2] < seconds[1]
