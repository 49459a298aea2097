"""Runs side by side for the same wall time: when stages end, what a failed or late run leaves, and packing what was trained."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sdic_train.checkpoints.files import read_safetensors, write_safetensors

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SLEEP = "import sys, time; print('begun', flush=True); time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """Where the scripts find each other."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def wall_time(scripts: None) -> ModuleType:
    return importlib.import_module("wall_time")


@pytest.fixture(scope="module")
def table1(scripts: None) -> ModuleType:
    return importlib.import_module("train_table1")


def test_stages_share_the_time(wall_time: ModuleType) -> None:
    assert wall_time.ends(100.0, 200.0, [0.2, 0.8]) == pytest.approx([120.0, 200.0])
    assert wall_time.ends(100.0, 200.0, [1.0]) == [200.0]


def side(wall_time: ModuleType, folder: Path, seconds: float, code: int) -> Any:
    folder.mkdir()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SLEEP, str(seconds), str(code)], stdout=log)
    return wall_time.Side(folder.name, folder, process)


def test_a_late_run_is_ended_and_a_failed_one_shows_its_log(wall_time: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wall_time, "GRACE", 0.5)
    sides = [side(wall_time, tmp_path / name, *rest) for name, *rest in (("late", 60, 0), ("failed", 0, 3), ("well", 0, 0))]
    (tmp_path / "well/stage").mkdir()
    pace = {"steps": 7, "batch": 4, "seconds": 2.0, "losses": {"l2": 0.5}}
    (tmp_path / "well/stage/pace.json").write_text(json.dumps(pace))
    start = time.time()
    codes = wall_time.finish(sides, start + 0.5)
    assert time.time() - start < 5
    assert codes == {"late": -15, "failed": 3, "well": 0}
    found = {each.name: wall_time.told(each, codes[each.name], "stage") for each in sides}
    assert [about["well"] for about in found.values()] == [False, False, True]
    assert "begun" in wall_time.line("failed", found["failed"]) and "no stage was finished" in wall_time.line("late", found["late"])
    assert "7 steps of 4" in wall_time.line("well", found["well"]) and "begun" not in wall_time.line("well", found["well"])


def test_what_an_earlier_run_left_does_not_pass_for_a_failed_one(
    wall_time: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wall_time, "start", lambda spec, folder, *_: wall_time.Side(spec.name, folder, failing(folder)))

    def failing(folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "log.txt").open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", SLEEP, "0", "3"], stdout=log)

    for name in ("fresh", "before", "more"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "pace.json").write_text(json.dumps({"steps": 7, "batch": 4, "seconds": 2.0, "losses": {}}))
        (tmp_path / "run" / name / "model.safetensors").touch()
    more = str(tmp_path / "run/more")
    stages = [(["sdic", "--out", str(tmp_path / "run/fresh")], 0.5), (["sdic", "--model", f"{more}/model.safetensors", "--out", more], 0.5)]
    spec = wall_time.Spec("run", stages, "more", time.time() + 60, "cpu", str(tmp_path / "go"), str(tmp_path / "ready"))
    found = wall_time.run_all([spec], [tmp_path / "run"], lambda: None, [], tmp_path / "site", {}, 0)
    assert not found["run"]["well"] and found["run"]["stages"].keys() == {"before"}, "which is no stage of this run"
    left = {path.parent.name for path in tmp_path.glob("run/*/model.safetensors")}
    assert left == {"before", "more"}, "a training goes on from its own result"


def test_what_cannot_be_prepared_ends_the_runs(wall_time: ModuleType, tmp_path: Path) -> None:
    spec = wall_time.Spec("run", [], "stage", time.time() + 60, "cpu", str(tmp_path / "go"), str(tmp_path / "ready"))
    children: list[Any] = []

    def fail() -> None:
        raise SystemExit("no pictures")

    start = time.time()
    with wall_time.locked(tmp_path) as lock, pytest.raises(SystemExit, match="no pictures"):
        wall_time.run_all([spec], [tmp_path / "run"], fail, children, tmp_path / "site", {}, lock)
    assert time.time() - start < 10 and not children and not (tmp_path / "go").exists()


def test_a_folder_is_locked_for_as_long_as_a_run_lives(wall_time: ModuleType, tmp_path: Path) -> None:
    """Also where the script that began it was killed."""
    spec = wall_time.Spec("run", [], "stage", time.time() + 60, "cpu", str(tmp_path / "go"), str(tmp_path / "ready"))
    with wall_time.locked(tmp_path) as lock:
        run = wall_time.start(spec, tmp_path / "run", dict(os.environ), lock)
    try:
        with pytest.raises(SystemExit, match=f"^another run works on {tmp_path}; stop it first$"), wall_time.locked(tmp_path):
            pytest.fail("the run lives")
    finally:
        run.process.kill()
        run.process.wait()
    with wall_time.locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "method", "stage", "expected"),
    [
        ("rate=1", "sdic", "sdic", True),
        ("sdic:rate=1", "psp", "psp", False),
        ("w:rate=1", "hyperstyle", "w", True),
        ("hyperstyle:rate=1", "hyperstyle", "w", True),
        ("hyperstyle/hyperstyle:rate=1", "hyperstyle", "w", False),
        ("hyperstyle/hyperstyle:rate=1", "hyperstyle", "hyperstyle", True),
        ("sdic:rate=1", "sdic-affine", "sdic", True),
        ("sdic-affine:rate=1", "sdic", "sdic", False),
    ],
)
def test_changes_are_for_a_method_or_a_stage(table1: ModuleType, change: str, method: str, stage: str, expected: bool) -> None:
    assert table1.fits(change, method, next(each for each in table1.TRAINED[method] if each.name == stage)) is expected


def chosen(**options: Any) -> argparse.Namespace:
    fixed = {"state": "state", "reader": "reader", "batch": 16, "device": "cpu", "set": ["sdic:settle_norm=250"], "seeds": [], "only": None}
    return argparse.Namespace(**{**fixed, "ablations": False, **options})


def test_an_ablation_is_trained_like_sdic_but_for_one_option(table1: ModuleType) -> None:
    assert not {run.method for run in table1.runs_of(chosen())} & table1.ABLATIONS.keys()
    runs = {run.name: run for run in table1.runs_of(chosen(ablations=True, seeds=["sdic-affine=2"]))}
    assert runs.keys() == {*table1.METHODS, *table1.ABLATIONS, "sdic-affine-1"}
    assert table1.ABLATIONS.keys() == importlib.import_module("table1_rows").ABLATIONS.keys()
    words = [runs[name].words(table1.TRAINED[runs[name].method][0]) for name in ("sdic", "sdic-affine", "sdic-without-context")]
    assert all("settle_norm=250" in each for each in words)
    for each, change in zip(words[1:], ("fusion=affine", "context=false"), strict=True):
        place = each.index(change) - 1
        assert [*each[:place], *each[place + 2 :]][:-3] == words[0][:-3]  # the last words are the folder and the device


@pytest.mark.parametrize("seeds", ["sdic-afine=3", "sdic-affine=3"])
def test_seeds_of_what_is_not_trained_are_refused(table1: ModuleType, seeds: str) -> None:
    with pytest.raises(table1.Refused, match="--seeds has sdic-af"):
        table1.runs_of(chosen(seeds=[seeds]))


@pytest.mark.parametrize("single", [True, False])
def test_what_is_packed_comes_back(table1: ModuleType, single: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base, metadata = read_safetensors(table1.BASE)
    name = "dicn.conv_layer1.0.weight"
    trained = {**base, name: base[name].float() + 0.25}
    beyond = "dipn.desc.weight"
    trained[beyond] = torch.full([300], 1e6)  # more than float16 holds
    for seed in ("", "-1"):
        write_safetensors(tmp_path / f"state/runs/sdic{seed}/sdic/model.safetensors", trained, {**metadata, "trained": "sdic, 5 steps"})
    (tmp_path / "state/runs/sdic/sdic/losses.csv").write_text("step,total\n5,1\n")
    (tmp_path / "state/wall.json").write_text("{}")
    monkeypatch.setattr(table1.checkpoints, "PART", 45_000)  # bytes: an archive for each run
    packed, reader = tmp_path / "packed", tmp_path / "model.safetensors"
    write_safetensors(reader, {"weight": torch.zeros(1)}, {"format": "sdic-portrait-reader"})
    places = {"state": str(tmp_path / "state"), "out": str(packed), "judge": None, "reader": str(reader)}
    table1.pack(argparse.Namespace(**places, only=["sdic"], ablations=False, seeds=["sdic=2"], single=single))
    files, alone = {path.name for path in packed.iterdir()}, {"sdic.safetensors", "sdic-1.safetensors", "sdic.sdic.csv", "wall.json"}
    assert files == ({"table1_0.tar.gz", "table1_1.tar.gz"} if single else {*alone, "reader.safetensors"})
    (tmp_path / "models/packed").mkdir(parents=True)
    write_safetensors(tmp_path / "models/packed/former.safetensors", {}, {"shared": "[]"})
    table1.unpack(argparse.Namespace(packed=str(packed), out=str(tmp_path / "models")))
    assert not (tmp_path / "models/former.safetensors").exists()
    for seed in ("", "-1"):
        tensors, said = read_safetensors(tmp_path / f"models/sdic{seed}.safetensors")
        assert tensors.keys() == trained.keys() and said["trained"] == "sdic, 5 steps"
        assert torch.allclose(tensors[name].float(), trained[name], atol=1e-3)
        assert torch.equal(tensors[beyond], trained[beyond])
        assert all(torch.equal(tensors[other].float(), base[other].float()) for other in base if other not in (name, beyond))


@pytest.fixture
def answer(table1: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The exit code and the sentence of a command, in a folder where `file` is a file and nothing may be computed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(table1.signal, "signal", lambda *_: None)
    monkeypatch.setattr(table1, "call", lambda *_: pytest.fail("something is computed"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # `main` puts the checkout into it
    monkeypatch.setattr(table1.table1_evaluation, "command", lambda *_: pytest.fail("something is computed"))

    def run(words: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as caught:
            table1.main(words.split())
        return caught.value.code, capsys.readouterr().err.rpartition("error: ")[2].strip()

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --state new --seeds sdic", "--seeds sdic is not METHOD=COUNT with a COUNT from 1; give for example sdic=3"),
        ("train --state new --seeds sdic=x", "--seeds sdic=x is not METHOD=COUNT with a COUNT from 1; give for example sdic=3"),
        ("train --state new --seeds sdic=0 --wall-minutes 1", "--seeds sdic=0 is not METHOD=COUNT with a COUNT from 1"),
        ("train --state new --reader nosuch", "/nosuch is no file; name a trained portrait reader"),
        ("train --state new --reader nosuch --wall-minutes 1", "/nosuch is no file; name a trained portrait reader"),
        ("train --state file", "/file cannot be made a folder (File exists); name another one"),
        ("pack --state nosuch --out new --only sdic fs", "--state nosuch holds no result of sdic, fs; name the folder that `train` filled"),
        ("pack --state nosuch --out new --judge nosuch", "--judge nosuch is no file; name a trained portrait reader"),
        ("unpack --packed nosuch --out new", "--packed nosuch holds no packed checkpoints; name the folder that `pack` wrote"),
        ("evaluate --packed nosuch --out out", "--packed nosuch holds no packed checkpoints; name the folder that `pack` wrote"),
        ("evaluate --packed nosuch --out file", "/file cannot be made a folder (File exists); name another one"),
        ("evaluate --packed nosuch --out out --edit nose", "directions/nose.safetensors; name one of that folder with --edit"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_before_anything_is_made(answer: Any, words: str, sentence: str, tmp_path: Path) -> None:
    code, said = answer(words)
    assert code == 2 and sentence in said and "\n" not in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", ["", " --wall-minutes 1"])
def test_two_at_once_do_not_train_in_one_folder(
    answer: Any, table1: ModuleType, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(table1.wall_time, "run_all", lambda *_: pytest.fail("something is computed"))
    with table1.wall_time.locked(tmp_path):
        code, _ = answer(f"train --state {tmp_path} --only fs{words}")
    assert code == f"another run works on {tmp_path}; stop it first" and not (tmp_path / "wall.json").exists()


def test_packed_checkpoints_are_not_evaluated_without_a_judge(answer: Any, table1: ModuleType, tmp_path: Path) -> None:
    _, metadata = read_safetensors(table1.BASE)
    write_safetensors(tmp_path / "packed/sdic.safetensors", {"own": torch.zeros(1)}, {**metadata, "shared": "[]"})
    code, said = answer("evaluate --packed packed --out out")
    assert code == 2 and "packed/judge.safetensors; name one with --judge, or pack it with `pack --judge`" in said


def test_a_finished_state_is_not_trained_with_other_options(answer: Any, table1: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "state/runs/sdic/sdic"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "recipe.json").write_text(json.dumps({"kind": "sdic", "rate": 0.001, "context": True, "seed": 0}))
    for change, value in (("context=false", "context=true, not false"), ("sdic:rate=2e-3", "rate=0.001, not 2e-3")):
        code, said = answer(f"train --state state --only sdic --set {change}")
        assert code == 2 and said.endswith(f"was trained with {value}; name another --state")
    runs = table1.runs_of(chosen(state=str(tmp_path / "state"), only=["sdic", "fs"]))
    table1.check_changes(runs, ["context=no", "context=yes", "rate=1e-3", "fs:rate=5", "seed=4", "unknown=1"])


@pytest.mark.parametrize(("well", "code"), [(0, 2), (1, 2), (2, None)])
def test_runs_that_fail_are_in_the_exit_code(
    table1: ModuleType, well: int, code: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_all(specs: Any, *_: Any) -> dict[str, Any]:
        return {spec.name: {"well": index < well} for index, spec in enumerate(specs)}

    monkeypatch.setattr(table1.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(table1, "WALL_RUNS", [])
    monkeypatch.setattr(table1.wall_time, "run_all", run_all)
    found = None
    try:
        table1.main(["train", "--state", str(tmp_path), "--only", "fs", "sdic", "--wall-minutes", "1"])
    except SystemExit as ended:
        found = ended.code
    assert found == code and f"{well} of 2 runs went well" in capsys.readouterr().out and (tmp_path / "wall.json").exists()


def test_more_photos_than_are_there_are_drawn(table1: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(table1, "call", lambda words, *_: calls.append(words))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photo_128_1_0000500.npz").touch()  # the last file of 600 as of 700
    table1.draw(chosen(pictures=700), tmp_path, 0)
    assert [words[words.index("--count") + 1] for words in calls] == ["700"]
