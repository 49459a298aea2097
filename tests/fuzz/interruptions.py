"""Interrupt commands at random moments: `python -m fuzz.interruptions [COMMAND ...] --cases 20 --first 0`.

Each case sends SIGKILL, SIGTERM or SIGINT to a command somewhere in the time that it takes undisturbed, gives the same command again, and
compares: nothing half-written in between; afterwards the files of an undisturbed run, byte for byte, and nothing else in the output folder,
the home and the temporary folder; no process. Only cases count that interrupted a living process. Ends with 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.commands import COMMANDS, Command, Inputs

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MARK = "SDIC_INTERRUPTED"  # in the environment of a case's processes
NOTES = ".local/state/sdic/checked"
NOTE = re.compile(rf"{re.escape(NOTES)}/[0-9a-f]{{64}}\.json")
WAIT, LONGEST = 15.0, 300.0  # seconds for its processes to end, and for a command
TRIES = 4  # at one case, until the signal finds a living process
# Exit codes, by signal: the signal's own where the process had not come to its own answer, 0 where it was ready.
CODES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, -2, 0}}


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def same(name: str, found: bytes, expected: bytes) -> bool:
    """Whether two files say the same: byte for byte, but for the order of a journal's lines and how a pickle writes equal values."""
    if found != expected and name.endswith(".jsonl"):
        return sorted(found.splitlines()) == sorted(expected.splitlines())
    return found == expected or (name.endswith(".pt") and equal(saved(found), saved(expected)))


def saved(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one.equal(other) if hasattr(one, "equal") else bool(one == other)


def whole(name: str, found: bytes, last: bytes) -> bool:
    """Whether a file that grows is that of an earlier moment of an undisturbed run."""
    if name.endswith(".pt"):
        return equal(sorted(saved(found)), sorted(saved(last)))
    return last.startswith(found)


@dataclass
class Place:
    """The folders of one run."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.out, self.home, self.temporary):
            folder.mkdir(parents=True)

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "t"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "RAY_")) and name != "CI"}
        own = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", MARK: str(self.root)}
        return {**kept, **own}

    def start(self, words: Iterable[object]) -> subprocess.Popen[str]:
        log = (self.root / "stderr").open("w")
        with log:
            return subprocess.Popen(
                [str(word) for word in words],
                env=self.environment,
                cwd=self.root,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return (self.root / "stderr").read_text(errors="replace")

    def elsewhere(self) -> list[str]:
        """What is in the home and the temporary folder, without finished notes of files that were hashed."""
        found = names(self.home) + names(self.temporary)
        return [name for name in found if not f"{NOTES}/".startswith(f"{name}/") and not NOTE.fullmatch(name)]

    def processes(self) -> list[int]:
        """Those of this case that live, children of children too."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{MARK}={self.root}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it ended, or is another user's
                continue
        return found


@dataclass
class Undisturbed:
    """What a command makes when nothing happens to it."""

    seconds: float
    begins: float  # seconds until it first wrote something
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    names: list[str]
    elsewhere: list[str]


def undisturbed(command: Command, inputs: Inputs, root: Path) -> Undisturbed:
    place = Place(root)
    command.prepare(inputs, place.out)
    before, found, begins = contents(place.out), stamps(place.out), None
    start = time.monotonic()
    process = place.start(command.words(inputs, place.out))
    while process.poll() is None:
        if begins is None and stamps(place.out) != found:
            begins = time.monotonic() - start
        time.sleep(0.005)
    seconds = time.monotonic() - start
    assert process.returncode == 0, f"{command.name} fails undisturbed: {place.said}"
    elsewhere = place.elsewhere()
    return Undisturbed(seconds, begins or seconds, before, contents(place.out), names(place.out), elsewhere)


def stamps(folder: Path, depth: int = 2) -> list[tuple[str, int]]:
    """Names and times of what is in a folder, a few levels deep."""
    found = []
    with suppress(OSError):  # it changes meanwhile
        for entry in os.scandir(folder):
            found.append((entry.path, entry.stat().st_mtime_ns))
            if depth > 1 and entry.is_dir():
                found += stamps(Path(entry.path), depth - 1)
    return found


@dataclass
class Case:
    """One interruption."""

    command: Command
    number: int
    faults: list[str] = field(default_factory=list)
    code: int = 0
    interrupted: bool = False

    def run(self, inputs: Inputs, reference: Undisturbed, root: Path) -> None:
        chance = random.Random(f"{self.command.name} {self.number}")
        sent = SIGNALS[self.number % len(SIGNALS)]
        for attempt in range(TRIES):
            place = Place(root / str(attempt))
            self.command.prepare(inputs, place.out)
            if self._interrupt(place, inputs, reference, sent, chance):
                break
        self.interrupted = self.code != 0
        self._look(place, reference, sent)
        again = place.start(self.command.words(inputs, place.out))
        try:
            again.wait(LONGEST)
        except subprocess.TimeoutExpired:
            again.kill()
        self._check(again.returncode == 0, f"the next run ends with {again.returncode}: {place.said[-400:]}")
        self._compare(place, reference)
        if not self.faults:
            shutil.rmtree(root)

    def _interrupt(self, place: Place, inputs: Inputs, reference: Undisturbed, sent: signal.Signals, chance: random.Random) -> bool:
        """Start the command and signal it; whether it was alive. Three of four signals come while it works, one while it starts."""
        process = place.start(self.command.words(inputs, place.out))
        begin, whole = time.monotonic(), chance.random() < 0.5
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0, reference.begins))
        else:
            found = stamps(place.out)
            while process.poll() is None and stamps(place.out) == found and time.monotonic() - begin < LONGEST:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.9 * (reference.seconds - reference.begins)))
        alive = process.poll() is None
        if alive and whole:
            os.killpg(process.pid, sent)  # as a terminal and service managers do
        elif alive:
            process.send_signal(sent)
        try:
            self.code = process.wait(60)
        except subprocess.TimeoutExpired:
            self.faults.append("it does not end")
            os.killpg(process.pid, signal.SIGKILL)
            self.code = process.wait()
        return alive and self.code != 0

    def _look(self, place: Place, reference: Undisturbed, sent: signal.Signals) -> None:
        """What there is after the interruption: nothing half-written, no traceback, no process."""
        if "sdic" not in place.said:  # Python itself was still starting
            self.code = -sent if self.code == 1 else self.code
        else:
            self._check("Traceback" not in place.said, f"a traceback after {sent.name}: {place.said[-800:]}")
        self._check(self.code in CODES[sent], f"exit code {self.code} after {sent.name}: {place.said[-400:]}")
        self._end(place)
        found = {name: data for name, data in contents(place.out).items() if not any(part.startswith(".") for part in Path(name).parts)}
        for folder in self.command.whole:  # the old one or the new one
            inside = {name: data for name, data in found.items() if name.startswith(f"{folder}/")}
            sound = [
                set(inside) >= set(parts) and all(same(name, inside[name], parts[name]) for name in parts)
                for each in (reference.before, reference.after)
                for parts in [{name: data for name, data in each.items() if name.startswith(f"{folder}/") and "/." not in name}]
            ]
            self._check(any(sound), f"{folder} is neither the old nor the new one: {sorted(inside)}")
        for name, data in found.items():
            if name.partition("/")[0] in self.command.whole:
                continue
            if name in self.command.grows:
                self._check(whole(name, data, reference.after[name]), f"{name} is half-written")
                continue
            known = [each[name] for each in (reference.before, reference.after) if name in each]
            self._check(any(same(name, data, each) for each in known), f"{name} is half-written, or nothing of an undisturbed run")

    def _compare(self, place: Place, reference: Undisturbed) -> None:
        """What there is after the next run: what there is after an undisturbed one."""
        self._check(names(place.out) == reference.names, f"names differ: {sorted(set(names(place.out)) ^ set(reference.names))}")
        for name, data in contents(place.out).items():
            if name in reference.after:
                self._check(same(name, data, reference.after[name]), f"{name} differs")
        left = sorted(set(place.elsewhere()) - set(reference.elsewhere))
        self._check(not left, f"left elsewhere: {left}")
        self._end(place)

    def _end(self, place: Place) -> None:
        """All processes of the case end."""
        end = time.monotonic() + WAIT
        while (living := place.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        self._check(not living, f"processes {living} live on")

    def _check(self, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(fault)


def run(command: Command, inputs: Inputs, first: int, count: int, root: Path) -> tuple[list[Case], Undisturbed]:
    reference = undisturbed(command, inputs, root / f"{command.name}-whole" / "0")
    cases = [Case(command, number) for number in range(first, first + count)]
    for case in cases:
        case.run(inputs, reference, root / f"{command.name}-{case.number}")
        for fault in case.faults:
            print(f"  {command.name} {case.number}: {fault}", flush=True)
    return cases, reference


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.interruptions", description=__doc__)
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], default=[])
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what is made; kept where there is a fault")
    wanted = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would the commands
    root = Path(tempfile.mkdtemp(dir=wanted.keep))
    inputs, sound, total = Inputs(root / "inputs"), True, 0
    for name in wanted.commands or COMMANDS:
        cases, reference = run(COMMANDS[name], inputs, wanted.first, wanted.cases, root)
        real, wrong = [case for case in cases if case.interrupted], [case for case in cases if case.faults]
        codes = dict(sorted(Counter(case.code for case in real).items()))
        print(
            f"{name}: {len(real)} of {len(cases)} interrupted ({reference.seconds:.1f} s undisturbed), {codes}, {len(wrong)} faults",
            flush=True,
        )
        sound, total = sound and not wrong, total + len(real)
    print(f"{total} interruptions", flush=True)
    if sound:
        shutil.rmtree(root)
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
