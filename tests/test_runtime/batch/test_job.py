"""Batches: what is done, left alone, done again and listed as failed; the same in processes of their own, with a kill, and on Ray."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.batch import local
from sdic_runtime.batch.inputs import tasks_of
from sdic_runtime.batch.job import ATTEMPTS, FAILURES, JOURNAL, MOST_ATTEMPTS, Attempts, Job, Outcome, Summary, Task, Worker, shares
from sdic_runtime.batch.job import run as run_batch
from sdic_runtime.bundle.bundle import DEMO_FOLDER, Bundle
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.errors import OutOfMemoryError, SdicError
from sdic_runtime.pipeline import Pipeline

ONNX = {"backend": "onnxruntime:threads=1"}


def make_pictures(folder: Path, count: int, bad: Sequence[int] = (), side: int = 40) -> Path:
    """Noise, and files that are no pictures."""
    folder.mkdir()
    for index in range(count):
        path = folder / f"p{index:03}.png"
        if index in bad:
            path.write_bytes(b"not a picture")
            continue
        noise = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, compress_level=1)
    return folder


def run_here(job: Job, source: Path, limit: int | None = None) -> tuple[Summary, list[Outcome]]:
    """A run in this process, broken off after `limit` outcomes."""
    job.out.mkdir(exist_ok=True)
    summary, outcomes = Summary(), []
    worker = Worker(job)

    def execute(job: Job, tasks: Sequence[Task]) -> Iterator[Outcome]:
        for task in tasks:
            yield from worker([task])

    for outcome in run_batch(job, Bundle.open(job.bundle), tasks_of(source, job)[0], execute, summary):
        outcomes.append(outcome)
        if len(outcomes) == limit:
            break
    return summary, outcomes


def failures(out: Path) -> dict[str, str]:
    with (out / FAILURES).open(newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def results(out: Path) -> dict[str, int]:
    """The visible results -> when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".") and path.name != FAILURES}


@pytest.fixture
def job(tiny_bundle: Path, tmp_path: Path) -> Job:
    return Job(tiny_bundle, tmp_path / "out", **ONNX)


def test_a_second_run_leaves_alone_what_is_complete_and_tries_failures_again(job: Job, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 4, bad=[2])
    summary, _ = run_here(job, folder)
    assert (summary.done, summary.complete, summary.failed) == (3, 0, 1)
    assert failures(job.out) == {
        str(folder / "p002.png"): f"{folder / 'p002.png'} is not a picture this program can read; "
        "use JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM, AVIF"
    }
    before = results(job.out)
    assert set(before) == {f"p00{index}.inverted.png" for index in (0, 1, 3)}
    Image.new("RGB", (9, 9)).save(folder / "p002.png")
    summary, _ = run_here(job, folder)
    assert (summary.done, summary.complete, summary.failed) == (1, 3, 0)
    assert results(job.out).items() >= before.items()
    assert not (job.out / FAILURES).exists()


def test_a_run_that_stops_keeps_what_is_done(job: Job, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 5)
    run_here(job, folder, limit=2)
    with (job.out / JOURNAL).open("a") as stream:
        stream.write('{"source": "/half a li')  # as a kill in the middle of a line leaves it
    (job.out / ".01234567-01234567-01234567.tmp").write_bytes(b"half")
    summary, _ = run_here(job, folder)
    assert (summary.done, summary.complete) == (3, 2)
    assert len(results(job.out)) == 5
    assert not list(job.out.glob(".*.tmp"))
    assert len([json.loads(line) for line in (job.out / JOURNAL).read_text().splitlines()]) == 5


@pytest.mark.parametrize("what", ["picture", "result gone", "result cut off", "edit", "save", "direction"])
def test_what_changed_is_done_again(make_bundle: Any, change: Any, tmp_path: Path, what: str) -> None:
    from sdic_runtime.directions import save_direction
    from sdic_runtime.edits import Direction

    folder, bundle = make_pictures(tmp_path / "in", 2), make_bundle()
    job = Job(bundle, tmp_path / "out", **ONNX, edits=(EditOrder((("smile", 1.0),)),))
    run_here(job, folder)
    result = job.out / "p000.inverted.png"
    done = 1
    if what == "picture":
        Image.new("RGB", (9, 9)).save(folder / "p000.png")
    elif what == "result gone":
        result.unlink()
    elif what == "result cut off":
        result.write_bytes(result.read_bytes()[:20])
    else:
        done = 2
    if what == "edit":
        job = replace(job, edits=(EditOrder((("smile", 2.0),)),))
    elif what == "save":
        job = replace(job, save=True)
    elif what == "direction":
        save_direction(bundle / "directions/smile.safetensors", Direction(np.ones(8), "smile"))
        change(bundle, ["directions/smile.safetensors"])
    summary, _ = run_here(job, folder)
    assert (summary.done, summary.complete) == (done, 2 - done)
    assert run_here(job, folder)[0].complete == 2


def test_results_are_those_of_the_commands_for_one_picture(run: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 2)
    edits = (EditOrder((("smile", 2.0),)), EditOrder((("smile", 1.0), ("age", -0.5))))
    job = Job(tiny_bundle, tmp_path / "out", **ONNX, edits=edits, save=True, batch=2)
    run_here(job, folder)
    common = ("--bundle", tiny_bundle, "--backend", "onnxruntime:threads=1", "--out", "alone")
    assert run("invert", folder / "p001.png", "--save", *common)[0] == 0
    assert run("edit", folder / "p001.png", "--edit", "smile:2", "--edit", "smile:1,age:-0.5", *common)[0] == 0
    alone = {path.name: path for path in (tmp_path / "alone").iterdir()}
    assert set(alone) == {f"p001{ending}" for ending in job.endings}
    for name, path in alone.items():
        if name.endswith(".png"):
            assert (job.out / name).read_bytes() == path.read_bytes()


def test_a_picture_that_ends_its_worker_again_and_again_fails_alone(job: Job, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 3)
    job.out.mkdir()
    tasks, attempts = tasks_of(folder, job)[0], Attempts(job.out)
    for _ in range(MOST_ATTEMPTS):
        attempts.begin([tasks[1]])
    outcomes = Worker(job)(tasks)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    assert "ended its worker 3 times" in outcomes[1].error
    assert len(list((job.out / ATTEMPTS).iterdir())) == 1
    attempts.forget()
    assert not Worker(job)(tasks)[1].error


@pytest.mark.parametrize("error", [OutOfMemoryError("no room for the picture"), MemoryError()])
def test_want_of_memory_costs_one_picture(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    folder, inner = make_pictures(tmp_path / "in", 3), Pipeline._invert

    def fail(self: Pipeline, image: np.ndarray, names: Sequence[str], batch: int) -> Any:
        if any("p001" in name for name in names):
            raise error
        return inner(self, image, names, batch)

    monkeypatch.setattr(Pipeline, "_invert", fail)
    job.out.mkdir()
    outcomes = Worker(replace(job, batch=3))(tasks_of(folder, job)[0])
    sentence = str(error) or f"not enough memory for {folder}/p001.png; make it smaller"
    assert [outcome.error for outcome in outcomes] == ["", sentence, ""]


def test_a_list_may_begin_with_a_byte_order_mark(job: Job, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\nb.png\n", encoding="utf-8-sig")
    assert [task.source for task in tasks_of(tmp_path / "list.txt", job)[0]] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_list_may_come_from_standard_input(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa.png\r\n/b/c.png")))
    assert [task.source for task in tasks_of(Path("-"), job)[0]] == [str(tmp_path / "a.png"), "/b/c.png"]


def test_skipped_files_are_told(job: Job, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 1)
    (folder / "film.mov").touch()
    assert tasks_of(folder, job)[1] == [folder / "film.mov"]


def test_a_task_without_an_outcome_is_a_failure(job: Job, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 1)
    job.out.mkdir()
    summary = Summary()
    (outcome,) = run_batch(job, Bundle.open(job.bundle), tasks_of(folder, job)[0], lambda job, tasks: iter(()), summary)
    assert summary.failed == 1
    assert failures(job.out) == {outcome.task.source: outcome.error}


def test_one_run_at_a_time(job: Job, tmp_path: Path) -> None:
    from filelock import FileLock

    folder = make_pictures(tmp_path / "in", 1)
    job.out.mkdir()
    with FileLock(job.out / ".sdic-batch.lock"), pytest.raises(SdicError, match="another run is writing into .*out; wait for it"):
        run_here(job, folder)


def test_a_list_keeps_sub_folders_and_names_missing_pictures(job: Job, tmp_path: Path) -> None:
    make_pictures(tmp_path / "in", 1)
    make_pictures(tmp_path / "in/deep", 1)
    names = tmp_path / "in/names.txt"
    names.write_text(f"p000.png\n\n./deep/p000.png\n{tmp_path / 'in/p000.png'}\ngone.png\n")
    assert [task.stem for task in tasks_of(names, job)[0]] == ["p000", "deep/p000", "gone"]
    summary, _ = run_here(job, names)
    assert (summary.done, summary.failed) == (2, 1)
    assert failures(job.out) == {str(tmp_path / "in/gone.png"): f"there is no picture at {tmp_path / 'in/gone.png'}"}
    assert (job.out / "deep/p000.inverted.png").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list .* is empty; write the path of one picture per line"),
        (b"\xff\xfe\x00", "is not a text file; give a list with the path of one picture per line, in UTF-8"),
    ],
)
def test_lists_that_are_none(job: Job, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(SdicError, match=message):
        tasks_of(tmp_path / "list.txt", job)


def test_results_never_replace_inputs(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "in", 1)
    with pytest.raises(SdicError, match="is the folder of the pictures itself"):
        tasks_of(folder, Job(tiny_bundle, folder))
    Image.new("RGB", (9, 9)).save(folder / "p000.inverted.png")
    (folder / "list.txt").write_text("p000.png\np000.inverted.png")
    with pytest.raises(SdicError, match="the result of .*p000.png would replace the input .*p000.inverted.png"):
        tasks_of(folder / "list.txt", Job(tiny_bundle, folder))


def test_the_throughput_is_told() -> None:
    assert Summary(done=3, complete=7).throughput(4.0) == "0.75 pictures/s: 3 in 4.0 s, the start of the workers included"
    assert Summary(complete=7).throughput(4.0) == ""


def test_workers_and_threads_share_the_cpus() -> None:
    asked = {(None, None): (8, 1), (2, None): (2, 4), (None, 4): (2, 4), (3, 2): (3, 2), (20, None): (20, 1)}
    assert {each: shares(8, *each) for each in asked} == asked


# In processes of their own


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
    job = Job(tiny_bundle, tmp_path / "out", **ONNX, batch=2)
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
