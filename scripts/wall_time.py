"""Runs side by side on one device, each a process, all for the same wall time; `train_table1.py train --wall-minutes` is made of it.

python scripts/wall_time.py SPEC.json    # one run: its stages, one after the other, when the file `go` of the spec is there
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_check import environment

ROOT = Path(__file__).resolve().parents[1]
READY_SHARE = 0.4  # of the time that the runs may take to begin; those that are ready then begin without the others
GRACE = 3.0  # seconds behind the deadline until what still runs is ended
PACE, RESULT = "pace.json", "model.safetensors"  # what a training leaves that ended
TAIL = 8  # lines of a failed run's log that are shown


@dataclass(frozen=True)
class Spec:
    """One run. `stages`: the words of each stage's command and its share of the time; `last` is the name of the last. `until`: seconds
    since 1970. `device`: where its context is made before `go` is there."""

    name: str
    stages: list[tuple[list[str], float]]
    last: str
    until: float
    device: str
    go: str
    ready: str


@dataclass
class Side:
    """A run's process and where it lies."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """No other run works on the folder for as long as the block lasts, or a process that was given the lock, which is yielded."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"another run works on {folder}; stop it first") from None
        yield lock.fileno()


def ends(begin: float, until: float, shares: Sequence[float]) -> list[float]:
    """When each stage ends that has its share of the time from `begin` to `until`."""
    whole = sum(shares)
    return [begin + (until - begin) * sum(shares[: index + 1]) / whole for index in range(len(shares))]


def work(path: Path) -> int:
    """The stages of one run; 0 when all went well."""
    spec = json.loads(path.read_text())
    sys.path.insert(0, str(ROOT))
    import torch

    from sdic_train.cli.app import main
    from sdic_train.trainers.methods import trainings  # noqa: F401 - what the commands import

    if spec["device"] != "cpu":
        torch.zeros(1, device=spec["device"])
    Path(spec["ready"]).touch()
    while not Path(spec["go"]).exists():
        if time.time() > spec["until"]:
            print("the time was over before the runs began")
            return 1
        time.sleep(0.05)
    times = ends(time.time(), spec["until"], [share for _, share in spec["stages"]])
    for (words, _), end in zip(spec["stages"], times, strict=True):
        if code := main([*words, "--until", f"{end:.3f}"]):
            return code
    return 0


def start(spec: Spec, folder: Path, env: dict[str, str], lock: int) -> Side:
    """Start the process of a run, which holds the `lock` too, its output in log.txt of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    path.write_text(json.dumps(asdict(spec), indent=1))
    words = [sys.executable, str(Path(__file__)), str(path)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=ROOT, pass_fds=[lock])
    return Side(spec.name, folder, process)


def begin(sides: Sequence[Side], specs: Sequence[Spec], prepare: Callable[[], None]) -> None:
    """Prepare what the runs need while they start, and let them go when all are ready, or failed, or the time for that is over."""
    until = time.time() + READY_SHARE * (specs[0].until - time.time())
    prepare()
    while time.time() < until:
        waiting = [side for side, spec in zip(sides, specs, strict=True) if side.process.poll() is None and not Path(spec.ready).exists()]
        if not waiting:
            break
        time.sleep(0.1)
    for spec in specs:
        forget(spec)
    Path(specs[0].go).touch()


def forget(spec: Spec) -> None:
    """Remove what an earlier training left in the folders of a run's stages, so that it does not pass for what this one leaves; but not a
    result that a stage starts from."""
    for words, _ in spec.stages:
        place = words.index("--out") + 1
        folder, others = Path(words[place]), [Path(word) for word in (*words[:place], *words[place + 1 :])]
        (folder / PACE).unlink(missing_ok=True)
        if not any(path == folder or folder in path.parents for path in others):
            (folder / RESULT).unlink(missing_ok=True)


def finish(sides: Sequence[Side], until: float) -> dict[str, int]:
    """Wait until all runs are over or shortly behind `until`, when what still runs is ended; each run's exit code."""
    while any(side.process.poll() is None for side in sides) and time.time() < until + GRACE:
        time.sleep(0.1)
    for signal_it in (subprocess.Popen.terminate, subprocess.Popen.kill):
        late = [side for side in sides if side.process.poll() is None]
        for side in late:
            signal_it(side.process)
        wait = time.time() + 1.0
        while any(side.process.poll() is None for side in late) and time.time() < wait:
            time.sleep(0.05)
    return {side.name: side.process.wait() for side in sides}


def told(side: Side, code: int, last: str) -> dict[str, Any]:
    """What a run's folder says of it: each stage's pace.json, its exit code, the end of its log, and whether its `last` stage ended."""
    stages = {path.parent.name: json.loads(path.read_text()) for path in sorted(side.folder.glob(f"*/{PACE}"))}
    text = side.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return {"well": last in stages, "code": code, "stages": stages, "output": text[-TAIL:]}


def line(name: str, found: dict[str, Any]) -> str:
    """A run in a line, and the end of its log below it where it failed."""
    parts = [
        f"{stage} {about['steps']} steps of {about['batch']} in {about['seconds']:.0f} s, "
        + " ".join(f"{key} {value:.4f}" for key, value in about["losses"].items())
        for stage, about in found["stages"].items()
    ]
    text = f"{name:22} " + ("; ".join(parts) or "no stage was finished")
    return "\n".join([text, *(f"    {row}" for row in ([] if found["well"] else found["output"]))])


@contextmanager
def shared_gpu(state: Path, wanted: bool) -> Iterator[dict[str, str]]:
    """What the processes of one GPU need in their environment to compute at the same time instead of in turns: a server of NVIDIA's
    Multi-Process Service of our own for as long as the block lasts. Nothing where it is not wanted or does not work, which is said."""
    pipes = {"CUDA_MPS_PIPE_DIRECTORY": str(state / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(state / "mps_log")}
    if not wanted:
        yield {}
        return
    for folder in pipes.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **pipes}
    control, works = "nvidia-cuda-mps-control", False
    try:
        subprocess.run([control, "-d"], env=env, timeout=20, check=True)
        probe = "import torch; print(float(torch.ones(8, device='cuda').sum()))"
        works = subprocess.run([sys.executable, "-c", probe], env=env, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the GPU is shared by turns: {error}", flush=True)
    print("the runs share the GPU " + ("at the same time (MPS)" if works else "by turns"), flush=True)
    try:
        yield pipes if works else {}
    finally:
        try:
            subprocess.run([control], input=b"quit\n", env=env, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"MPS was not ended: {error}", flush=True)


def run_all(
    specs: Sequence[Spec],
    folders: Sequence[Path],
    prepare: Callable[[], None],
    children: list[subprocess.Popen[bytes]],
    site: Path,
    extra: dict[str, str],
    lock: int,
) -> dict[str, Any]:
    """Run all specs side by side; what is known of each afterwards, printed too. Their processes are in `children` meanwhile, and hold the
    `lock`, see `locked`."""
    env = {**environment(site), "OMP_NUM_THREADS": "1", **extra}
    for spec in specs:
        Path(spec.go).unlink(missing_ok=True)
        Path(spec.ready).unlink(missing_ok=True)
    sides, until = [start(spec, folder, env, lock) for spec, folder in zip(specs, folders, strict=True)], specs[0].until
    children.extend(side.process for side in sides)
    try:
        begin(sides, specs, prepare)
        codes = finish(sides, until)
    except BaseException:
        finish(sides, 0.0)
        raise
    finally:
        children[:] = [child for child in children if child not in [side.process for side in sides]]
    found = {side.name: told(side, codes[side.name], spec.last) for side, spec in zip(sides, specs, strict=True)}
    print("\n".join(line(name, about) for name, about in found.items()), flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(work(Path(sys.argv[1])))
