"""A demo model in stages: what is carried comes back, the commands exist, a stage that was cut goes on, and what is out of date is seen."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer

from sdic_train.checkpoints.files import read_safetensors
from sdic_train.checkpoints.load import load_sdic
from sdic_train.config import TINY, ModelConfig
from sdic_train.trainers.loops.pace import Pace

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def demo() -> Any:
    """The script; its modules find each other."""
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("train_demo")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def state(demo: ModuleType) -> ModuleType:
    return importlib.import_module("demo_state")


def left(state: ModuleType, stage: str, made_from: dict[str, str]) -> Any:
    return state.Left(stage, [], True, made_from)


def test_what_is_carried_comes_back(state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state, "PART", 8000)
    contents = {"a/a/x.bin": bytes(range(256)) * 50, "b/b/y.txt": b"text"}
    state.pack(tmp_path / "out", left(state, "fit", {}), {"a/a/x.bin": b"older"})
    told = state.pack(tmp_path / "out", left(state, "fit", {}), contents)
    assert len(told.parts) == 3 and len(list((tmp_path / "out").iterdir())) == 4  # what was there is gone
    found, folder = state.Left.read("fit", [tmp_path / "nothing", tmp_path / "out"])
    assert found == told
    state.unpack(found, [folder], tmp_path / "runs")
    assert {name: (tmp_path / "runs" / name).read_bytes() for name in contents} == contents
    (folder / told.parts[1].name).write_bytes(b"cut")
    with pytest.raises(SystemExit, match=r"fit\..*\.1\.part .* is missing or damaged"):
        state.unpack(found, [folder], tmp_path / "runs")
    with pytest.raises(SystemExit, match="can be carried"):
        state.pack(tmp_path / "out", left(state, "fit", {}), {"large": bytes(8 * 8000)})


def test_half_precision_where_it_holds_the_values(state: ModuleType) -> None:
    tensors = {"large": torch.full((300,), 0.5), "beyond": torch.full((300,), 1e6), "small": torch.ones(3), "count": torch.ones(300).long()}
    found = {name: tensor.dtype for name, tensor in state.half(tensors).items()}
    assert found == {"large": torch.float16, "beyond": torch.float32, "small": torch.float32, "count": torch.int64}


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_training_is_a_command_and_starts_from_an_earlier_one(demo: ModuleType, size: int, device: str, tmp_path: Path) -> None:
    from sdic_train.cli.app import app

    chosen = demo.Demo(demo.parsed(["--stage", "all", "--size", str(size), "--device", device, "--work", str(tmp_path)]))
    group: Any = typer.main.get_command(app)
    before: set[str] = set()
    for stage in demo.stages(size):
        for chain in stage.chains:
            own: set[str] = set()
            for task in chain:
                assert not task.start or task.start in before | own
                command, *words = chosen.words(task, False, len(stage.chains))
                with group.commands[command].make_context(command, [*words, "--until", "1"]) as context:
                    assert context.params["out"] == chosen.folder(task) and context.params["graphs"] is (task.graphs and device == "cuda")
                own.add(task.name)
            assert sum(task.share for task in chain) == pytest.approx(1)
        before |= {task.name for chain in stage.chains for task in chain[-1:]}
    config = ModelConfig.from_dict(json.loads(json.dumps(chosen.model_sizes())))
    assert (config.resolution, config.working, config.discrepancy.shift_rows) == (size, 128, config.rows)


def run_here(demo: ModuleType, monkeypatch: pytest.MonkeyPatch, most: list[int]) -> list[str]:
    """Lets trainings run in this process and not long: no more than `most` of a chain, a number for each stage. Returns the chains that
    ran, as they run."""
    from sdic_train.cli.app import main
    from sdic_train.trainers.loops import fill

    ran: list[str] = []
    monkeypatch.setattr(fill, "Pace", lambda until: Pace(time.time() + until))  # begins when the training does

    def run_all(specs: Any, folders: Any, prepare: Any, *_: Any) -> None:
        prepare()
        limit = most.pop(0)
        for spec, folder in zip(specs, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            for words, _ in spec.stages[:limit]:
                assert main([*words, "--until", "0.1"]) == 0
            ran.append(spec.name)

    def call(_: Any, package: str, *words: str) -> None:
        assert package == "sdic_train" and main([*words, "--processes", "1"]) == 0

    monkeypatch.setattr(demo.wall_time, "run_all", run_all)
    monkeypatch.setattr(demo.Demo, "call", call)
    monkeypatch.setattr(demo, "WATCH", 0.05)
    return ran


def test_two_at_once_do_not_train_in_one_folder(demo: ModuleType, tmp_path: Path) -> None:
    words = ["--rehearse", "--stage", "begin", "--state", str(tmp_path / "state"), "--work", str(tmp_path)]
    with demo.wall_time.locked(tmp_path), pytest.raises(SystemExit, match=f"^another run works on {tmp_path}; stop it first$"):
        demo.main(words)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("size", [128, pytest.param(256, marks=pytest.mark.full)])
def test_trainings_of_all_stages_and_one_that_was_cut(
    demo: ModuleType, state: ModuleType, size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    words = ["--rehearse", "--size", str(size), "--pictures", "16", "--state", str(folder), "--work", str(tmp_path / "work")]
    ran = run_here(demo, monkeypatch, [2, 9, 9, 9, 9, 9, 9, 9])
    assert demo.main([*words, "--stage", "begin"]) == 1
    assert state.Left.read("begin", [folder])[0].finished == ["reader", "judge", "g16", "g32"]
    bare = [*words[:-1], str(tmp_path / "bare")]  # a machine that kept nothing
    assert demo.main([*bare, "--stage", "begin"]) == 0
    assert not (tmp_path / "bare/begin/runs/g64/g16/state.pt").exists(), "what was finished is not trained again"
    before = state.Left.read("begin", [folder])[0]
    assert before.complete and before.finished == ["reader", "judge", "g16", "g32", "g64"]
    assert demo.main([*words[:-1], str(tmp_path / "more"), "--stage", "begin", "--more"]) == 0
    assert state.Left.read("begin", [folder])[0].digest != before.digest
    for stage in ("fit", "sharpen", "encoder", "sdic"):
        assert demo.main([*bare, "--stage", stage]) == 0
    assert ran == ["reader", "judge", "g64", "g64", "g64", f"g{size}", "sharpen", "picture", "sdic_edits"]
    told, _ = state.Left.read("sdic", [folder])
    assert told.complete and set(told.made_from) == {"begin", "fit", "sharpen", "encoder"}
    state.unpack(told, [folder], tmp_path / "found")
    model = tmp_path / "found/sdic_edits/sdic_edits/model.safetensors"
    config = load_sdic(model).config
    assert (config.resolution, config.working) == (size, TINY.working)
    assert {tensor.dtype for tensor in read_safetensors(model)[0].values() if tensor.numel() > 300} == {torch.float16}
    assert not (tmp_path / "found/sdic_edits/sdic/model.safetensors").exists()
    capfd.readouterr()
    assert demo.main([*words, "--stage", "sdic"]) == 0 and "finished already" in capfd.readouterr().out
    assert demo.main([*words, "--stage", "sharpen", "--more"]) == 0
    with pytest.raises(SystemExit, match='the stage "encoder" was made from another "sharpen"'):
        demo.main([*words, "--stage", "sdic"])
    assert demo.main(["--list", "--state", str(folder)]) == 0
    assert signal.getsignal(signal.SIGTERM) is not demo.stop, "whoever called it has its own handler again"
    assert "sharpen      complete" in capfd.readouterr().out


def test_what_is_out_of_date_is_seen(demo: ModuleType, state: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = demo.Demo(demo.parsed(["--stage", "fit", "--state", str(tmp_path / "state"), "--work", str(tmp_path / "work")]))
    stages = {stage.name: stage for stage in demo.stages(128)}
    for name in ("begin", "fit"):
        state.pack(tmp_path / "state", left(state, name, demo.fetch(chosen, stages[name])), {f"{name}/{name}/pace.json": b"{}"})
    assert demo.resume(chosen, stages["fit"], demo.fetch(chosen, stages["fit"]))
    state.pack(tmp_path / "state", left(state, "begin", {}), {"reader/reader/pace.json": b"{}"})
    assert not demo.resume(chosen, stages["fit"], demo.fetch(chosen, stages["fit"])) and "made anew" in capfd.readouterr().out
    with pytest.raises(SystemExit, match='the stage "fit" was made from another "begin"'):
        demo.fetch(chosen, stages["sharpen"])
    with pytest.raises(SystemExit, match='the stage "begin" is not finished'):
        demo.fetch(demo.Demo(demo.parsed(["--list", "--state", str(tmp_path / "nothing")])), stages["fit"])


@pytest.mark.full
def test_the_whole_rehearsal(demo: ModuleType, tmp_path: Path) -> None:
    words = ["--stage", "all", "--rehearse", "--state", str(tmp_path / "state"), "--work", str(tmp_path / "work")]
    minutes = 0.4
    while demo.main([*words, "--minutes", str(minutes)]) and minutes < 4:
        minutes *= 2
    assert all("complete" in line for line in demo.overview(demo.Demo(demo.parsed(words))).splitlines())
    assert (tmp_path / "state/bundle/bundle.json").is_file() and (tmp_path / "state/sheets/sheet.png").is_file()
    assert "PSNR" in (tmp_path / "state/evaluation.md").read_text(encoding="utf-8")
    assert all(path.stat().st_size < 16_000_000 for path in (tmp_path / "state").glob("*.part"))
