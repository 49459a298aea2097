"""Throw mutated files at the library, in processes of bounded memory: `python -m fuzz [TARGET ...] --cases 3000 --first 0`.

Prints a line per target, and every fault with the number of its case, which makes the same file again. Ends with 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import queue
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.targets import TARGETS, verdict

SECONDS, MEGABYTES = 10.0, 2048
AT_ONCE = 500  # cases of one process


def work(name: str, first: int, count: int, folder: str, answers: Any) -> None:
    """Do some cases and report each: before it begins, and what came of it."""
    warnings.simplefilter("ignore")
    with contextlib.suppress(OSError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - of decoders that complain
        os.dup2(sys.stderr.fileno(), 2)
    target = TARGETS[name]
    for case in range(first, first + count):
        place = Path(folder) / str(case)
        place.mkdir()
        path = target.make(np.random.default_rng([7, case]), place)
        answers.put((case, "begun", "", 0.0, 0))
        begun = time.perf_counter()
        kind, said = verdict(target.read, path)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        if kind != "fault" and (seconds > SECONDS or peak > MEGABYTES):
            kind, said = "fault", f"{seconds:.1f} s and {peak} MB: {said}"
        answers.put((case, kind, said, seconds, peak))
        shutil.rmtree(place, ignore_errors=True)


def run(name: str, first: int, count: int) -> bool:
    """All cases of one target; whether none is a fault."""
    kinds: Counter[str] = Counter()
    slowest, largest, faults = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        case, end = first, first + count
        while case < end:
            answers = multiprocessing.get_context("spawn").Queue()
            process = multiprocessing.get_context("spawn").Process(
                target=work, args=(name, case, min(AT_ONCE, end - case), folder, answers)
            )
            process.start()
            done, stop = case, min(case + AT_ONCE, end)
            while done < stop:
                try:
                    number, kind, said, seconds, peak = answers.get(timeout=6 * SECONDS)
                except queue.Empty:
                    kind, said = "fault", f"no answer (exit code {process.exitcode})"
                    number, seconds, peak = done, 0.0, 0
                    process.kill()
                if kind == "begun":
                    continue
                kinds[kind] += 1
                slowest, largest = max(slowest, seconds), max(largest, peak)
                if kind == "fault":
                    faults.append((number, said))
                done = number + 1
                if not process.is_alive() and process.exitcode:
                    break
            process.join(5)
            process.kill()
            case = done
    print(f"{name}: {count} cases, {dict(kinds)}, slowest {slowest:.1f} s, most memory {largest} MB", flush=True)
    for number, said in faults[:20]:
        print(f"  case {number}: {said!r}", flush=True)
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0)
    wanted = parser.parse_args()
    sound = [run(name, wanted.first, wanted.cases) for name in (wanted.targets or list(TARGETS))]
    return 0 if all(sound) else 1
