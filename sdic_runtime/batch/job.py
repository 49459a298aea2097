"""Any number of pictures, once each: what is to be done, what is done already, and what failed.

Workers write the results of a picture under temporary names and move them into place; only then is the picture noted in the journal. A run
that was killed is started again with the same words: pictures in the journal are left alone, all others are done, and a result that was
written but not noted is replaced by the same result.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.errors import FileError, SdicError
from sdic_runtime.files import reason, replacing, sha256
from sdic_runtime.folders import INVERSION, INVERTED, of_photo
from sdic_runtime.leftovers import remove_dead
from sdic_runtime.subjects import BACKGROUND, Inverted, Reader, Wishes, inverted

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdic_runtime.bundle.bundle import Bundle

JOURNAL = ".sdic-batch.jsonl"
LOCK = ".sdic-batch.lock"
ATTEMPTS = ".sdic-batch.attempts"  # a file per picture that is being worked on, a byte per attempt
FAILURES = "failures.csv"
MOST_ATTEMPTS = 3
SAME_NUMBERS = ("precision", "threads", "device", "batch", "graphs", "warm_up", "lazy")  # options of backends; the first is noted by itself


@dataclass(frozen=True)
class Job:
    """What is made of every picture, and with what; workers on other machines get a copy."""

    bundle: Path | None  # None: the embedded demo bundle
    out: Path
    backend: str = "auto"  # with options after a colon: "onnxruntime:device=cuda"
    precision: str | None = None
    edits: tuple[EditOrder, ...] = ()
    move: str | None = None  # the form of the edits; the bundle's own choice when None
    save: bool = False
    batch: int = 1  # pictures that run at once
    threads: int | None = None  # CPU threads of a worker, for backends that know the option
    wishes: Wishes = field(default_factory=Wishes)
    photographs: bool = False  # whether results are whole photographs, of the kind that their sources are
    profiles: bool = True

    @property
    def endings(self) -> list[str]:
        return [INVERTED, *(f".{edit.label}.png" for edit in self.edits), *([INVERSION] if self.save else [])]

    def work(self, bundle: Bundle) -> str:
        """A hash over all that the results depend on besides the picture. Raises SdicError for edits, files, or a precision that cannot
        be."""
        from sdic_runtime.backends.registry import precision_of

        manifest = bundle.manifest
        edits = [edit.fingerprint(bundle) for edit in self.edits]
        content: list[Any] = [manifest.identity, precision_of(self.backend, bundle, self.precision), self.move if edits else None]
        content += [self.endings, edits]
        if told := self._arithmetic():
            content.append(told)
        if (self.wishes, self.profiles) != (Wishes(), True) or self.photographs:
            masks = [path if path == BACKGROUND else _content_of(Path(path)) for path in self.wishes.keep]
            content += [{**vars(self.wishes), "keep": masks}, self.photographs, self.profiles]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _arithmetic(self) -> dict[str, Any]:
        """The backend's options that its numbers depend on; of a file its content. Raises SdicError."""
        from sdic_runtime.backends.registry import parse_backend

        told = {key: value for key, value in parse_backend(self.backend)[1].items() if key not in SAME_NUMBERS}
        files = {key: Path(value) for key, value in told.items() if isinstance(value, str) and Path(value).is_file()}
        return {**told, **{key: _content_of(path) for key, path in files.items()}}


def _content_of(path: Path) -> str:
    """The hash of a file that the user named. Raises FileError."""
    try:
        return sha256(path)
    except OSError as error:
        raise FileError(f"cannot read {path}: {reason(error)}; name another file") from error


@dataclass(frozen=True)
class Task:
    """One picture, and where its results go: `stem` is relative to the output folder."""

    source: str
    stem: str

    def outputs(self, job: Job) -> list[str]:
        source = Path(self.source)
        pictures = [ending for ending in job.endings if ending != INVERSION]
        endings = [of_photo(ending, source) for ending in pictures] if job.photographs else pictures
        return [self.stem + ending for ending in (*endings, *([INVERSION] if job.save else []))]


@dataclass(frozen=True)
class Outcome:
    """What became of a task. `size` and `modified` (nanoseconds) are the picture's from before it was read; `error` is "" on success.
    `notices`: what the user should know about the picture. `ran`: about the backend, see `Pipeline.notices`."""

    task: Task
    size: int = -1
    modified: int = -1
    error: str = ""
    notices: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


@dataclass
class Summary:
    """How a run ended."""

    done: int = 0
    complete: int = 0  # found complete, left alone
    failed: int = 0

    def throughput(self, seconds: float) -> str:
        """How many pictures this run did in a second, in words; "" where it did none."""
        rate = self.done / seconds if seconds else 0.0
        return f"{rate:.3g} pictures/s: {self.done} in {seconds:.1f} s, the start of the workers included" if self.done else ""


Executor = Callable[[Job, Sequence[Task]], Iterator[Outcome]]


def shares(cpus: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers and CPU threads per worker on `cpus` CPUs. None: as many workers as the CPUs allow, the CPUs shared among the workers, and 1
    thread when both are None."""
    threads = threads or (max(1, cpus // workers) if workers else 1)
    return workers or max(1, cpus // threads), threads


class Worker:
    """Holds a pipeline and does tasks; one per process."""

    def __init__(self, job: Job) -> None:
        from sdic_runtime.backends.registry import find_backend
        from sdic_runtime.bundle.bundle import Bundle
        from sdic_runtime.pipeline import Pipeline

        bundle = Bundle.open(job.bundle, remember=True)
        choice = find_backend(job.backend, bundle, {"threads": job.threads}, precision=job.precision)
        self.job, self.pipeline = job, Pipeline(bundle, choice.load(bundle), choice.reason, job.profiles, choice.exact)
        self._reader = Reader(bundle.manifest, job.wishes, job.profiles)
        self._edits = [order.edit(bundle, self.pipeline.directions) for order in job.edits]

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Do the tasks in batches; no error of a picture gets out. Where a process died, tasks come back: then one at a time, to find the
        picture that kills it, which fails in the end."""
        attempts = Attempts(self.job.out)
        again = any(attempts.of(task) for task in tasks)
        groups, ran = [[task] for task in tasks] if again else [tasks], self.pipeline.notices
        return [replace(outcome, ran=ran) for group in groups for outcome in self._attempt(group, attempts)]

    def _attempt(self, tasks: Sequence[Task], attempts: Attempts) -> list[Outcome]:
        if max(attempts.of(task) for task in tasks) >= MOST_ATTEMPTS:
            why = f"ended its worker {MOST_ATTEMPTS} times, perhaps because memory ran out or a decoder crashed"
            advice = "try the picture alone with: sdic-run invert"
            return [Outcome(task, *stamp(task.source), f"{task.source} {why}; {advice}") for task in tasks]
        attempts.begin(tasks)
        outcomes = self._do(tasks)
        attempts.end(tasks)
        return outcomes

    def _do(self, tasks: Sequence[Task]) -> list[Outcome]:
        stamps = [stamp(task.source) for task in tasks]
        try:
            results = list(inverted(self.pipeline, tasks, lambda task: self._reader.read(task.source), self.job.batch))
        except (SdicError, MemoryError) as problem:
            if len(tasks) > 1:  # perhaps one of them alone is at fault
                return [outcome for task in tasks for outcome in self._do([task])]
            return [Outcome(tasks[0], *stamps[0], _sentence(problem, tasks[0]))]
        outcomes = []
        for task, times, result in zip(tasks, stamps, results, strict=True):
            error = str(result.error) if result.error else ""
            if result.inversion is not None:
                try:
                    self._write(task, result)
                except (SdicError, MemoryError) as problem:
                    error = _sentence(problem, task)
            outcomes.append(Outcome(task, *times, error, tuple(result.subject.notices) if result.subject else ()))
        return outcomes

    def _write(self, task: Task, result: Inverted[Task]) -> None:
        from sdic_runtime.sheets import save_picture

        paths = [self.job.out / name for name in task.outputs(self.job)]
        try:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder {paths[0].parent}: {reason(error)}; choose another one with --out") from error
        subject, inversion = result.subject, result.inversion
        assert subject is not None and inversion is not None

        def write(images: Sequence[Image], path: Path, bases: Sequence[Image] | None = None) -> None:
            if subject.whole:
                subject.save(subject.pasted(images, bases), path)
            else:
                save_picture(images[0], path)

        bases = inversion.images
        with ThreadPoolExecutor(1, "sdic-encode") as encoder:  # compresses a picture while the next edit is computed
            saved = [encoder.submit(write, bases, paths[0])]
            for path, edit in zip(paths[1:], self._edits, strict=False):
                edited = self.pipeline.edit(inversion, edit, move=self.job.move)
                saved.append(encoder.submit(write, edited.images, path, bases))
            if self.job.save:
                inversion.save(paths[-1])
            for each in saved:
                each.result()


def _sentence(problem: Exception, task: Task) -> str:
    return str(problem) if isinstance(problem, SdicError) else f"not enough memory for {task.source}; make it smaller"


def stamp(source: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds of a file, -1 and -1 where there is none."""
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


class Attempts:
    """How often each picture was begun and not ended in this run, kept in files because the processes that count die."""

    def __init__(self, out: Path) -> None:
        self._folder = out / ATTEMPTS

    def _file(self, task: Task) -> Path:
        return self._folder / hashlib.sha256(os.fsencode(task.source)).hexdigest()

    def of(self, task: Task) -> int:
        return max(stamp(str(self._file(task)))[0], 0)

    def begin(self, tasks: Iterable[Task]) -> None:
        self._folder.mkdir(exist_ok=True)
        for task in tasks:
            with self._file(task).open("ab") as stream:
                stream.write(b".")

    def end(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._file(task).unlink(missing_ok=True)

    def forget(self) -> None:
        """Start from nothing: a run that was killed says nothing about its pictures."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Entry(msgspec.Struct):
    """A line of the journal: a picture as it was, the work done on it, and its results with their sizes."""

    # Written by json: names of files that are not UTF-8 hold surrogates, which msgspec refuses.

    source: str
    size: int
    modified: int
    work: str
    outputs: dict[str, int]

    def line(self) -> str:
        return json.dumps(msgspec.to_builtins(self)) + "\n"


class Journal:
    """The pictures that are complete, one JSON line each, in the output folder."""

    def __init__(self, job: Job, work: str) -> None:
        self._job, self._work, self._path = job, work, job.out / JOURNAL
        self._entries: dict[str, Entry] = {}
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise FileError(f"cannot read {self._path}: {reason(error)}; choose another folder with --out") from error
        for line in lines:
            with suppress(ValueError, RecursionError):  # a killed run leaves half a line
                entry = msgspec.convert(json.loads(line), Entry)
                self._entries[entry.source] = entry

    def _written(self, task: Task) -> dict[str, int]:
        """The results of a task, with the sizes that they have now."""
        return {name: stamp(str(self._job.out / name))[0] for name in task.outputs(self._job)}

    def complete(self, task: Task) -> bool:
        """Whether this very picture was done with this very work, and all its results are there as they were written."""
        entry = self._entries.get(task.source)
        if entry is None or entry.work != self._work or (entry.size, entry.modified) != stamp(task.source):
            return False
        return -1 not in (written := self._written(task)).values() and written.items() <= entry.outputs.items()

    @contextmanager
    def opened(self) -> Iterator[Callable[[Outcome], None]]:
        """Write the entries anew, one line per picture; gives what notes that another is complete."""
        with replacing(self._path) as temporary:
            temporary.write_text("".join(entry.line() for entry in self._entries.values()), encoding="utf-8")
        with self._path.open("a", encoding="utf-8") as stream:

            def add(outcome: Outcome) -> None:
                task = outcome.task
                stream.write(Entry(task.source, outcome.size, outcome.modified, self._work, self._written(task)).line())
                stream.flush()

            yield add


def run(job: Job, bundle: Bundle, tasks: Sequence[Task], execute: Executor, summary: Summary) -> Iterator[Outcome]:
    """Do all of `tasks` that are not complete, and give the outcome of each; `summary` is filled on the way. `execute` does tasks in any
    order and gives every outcome once; a task without an outcome counts as failed. The output folder is locked meanwhile. `failures.csv`
    gets the pictures that failed in this run, and vanishes when none did. Raises FileError when the folder is in use."""
    with _locked(job.out):
        journal = Journal(job, job.work(bundle))
        waiting = {task.source: task for task in tasks if not journal.complete(task)}
        summary.complete = len(tasks) - len(waiting)
        folders = {(job.out / task.stem).parent for task in tasks}
        failures: dict[str, str] = {}
        with journal.opened() as note:
            try:
                remove_left_overs(folders)
                Attempts(job.out).forget()
                for outcome in execute(job, list(waiting.values())) if waiting else ():
                    del waiting[outcome.task.source]
                    if outcome.error:
                        failures[outcome.task.source] = outcome.error
                    else:
                        note(outcome)
                        summary.done += 1
                    summary.failed = len(failures)
                    yield outcome
                for task in waiting.values():
                    failures[task.source] = f"{task.source} was not done; start again with the same command"
                    summary.failed = len(failures)
                    yield Outcome(task, error=failures[task.source])
            finally:
                remove_left_overs(folders)
                Attempts(job.out).forget()
                write_failures(job.out / FAILURES, failures)


def _locked(out: Path) -> AbstractContextManager[Any]:
    from filelock import FileLock, Timeout

    try:
        return FileLock(out / LOCK).acquire(timeout=0)  # released at the end of the block
    except Timeout:
        raise FileError(f"another run is writing into {out}; wait for it, or choose another folder with --out") from None


def remove_left_overs(folders: Iterable[Path]) -> None:
    """Remove the temporary files of workers that were killed, on any machine; the caller holds the lock of the output folder."""
    for folder in folders:
        remove_dead(folder, others=True)


def write_failures(path: Path, failures: Mapping[str, str]) -> None:
    """Write the table of failures, path and reason, in order of path; no table where there are none."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="", errors="backslashreplace") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "reason"])
        table.writerows(sorted(failures.items()))
