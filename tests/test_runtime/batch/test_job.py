"""Batches: what is done, left alone, done again and listed as failed; all in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_results import failures, results
from noise_pictures import make_pictures
from PIL import Image

from sdic_runtime.batch.inputs import tasks_of
from sdic_runtime.batch.job import ATTEMPTS, FAILURES, JOURNAL, MOST_ATTEMPTS, Attempts, Job, Outcome, Summary, Task, Worker, shares
from sdic_runtime.batch.job import run as run_batch
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.errors import OutOfMemoryError, SdicError
from sdic_runtime.pipeline import Pipeline

ONNX = {"backend": "onnxruntime:threads=1"}


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
