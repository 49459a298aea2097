"""`sdic-export` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdic_export import build as building
from sdic_export.cli.app import main


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_help_comes_without_heavy_imports() -> None:
    heavy = "torch", "onnx", "onnxruntime", "numpy"
    code = (
        "import sys, sdic_export.cli.app as cli; cli.main(['--help']);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(command in done.stdout for command in ("build", "verify", "inspect", "Example: sdic-export build"))


COMMANDS = ["build", "half", "bf16", "engines", "triton", "polygraphy", "web", "verify", "inspect"]


def test_no_summary_in_the_list_of_commands_is_cut_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call("--help") == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].partition("Example")[0].strip().splitlines()
    assert [line.split()[0] for line in listed] == [*COMMANDS, "directions"]
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    assert f"sdic-export {command} " in capsys.readouterr().out.split("Example")[1]


def test_a_build_prints_the_place_and_tells_its_checks(
    built: Any, copies: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("build", checkpoint, "--out", tmp_path / "bundle") == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'bundle'}\n"
    lines = err.splitlines()
    stages = [*built.report.manifest.stages, *built.report.manifest.parts]
    assert [line.split()[0] for line in lines[:8]] == stages
    assert all("worst difference" in line and " s " in line and " MB " in line for line in lines[:8])
    assert lines[8].startswith("8 stages checked against PyTorch in ") and lines[8].endswith("directions: none")


def test_verify_prints_the_worst_check_of_every_stage_and_a_conclusion(arranged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*options: str) -> list[list[str]]:
        assert call("verify", arranged.folder, "--backend", "onnxruntime:threads=1", *options) == 0
        lines: list[str] = capsys.readouterr().out.splitlines()
        assert lines[-1].startswith("passed: the largest difference is ")
        return [line.split() for line in lines if line.startswith("golden tensors ")]

    short, every = rows(), rows("--all")
    assert len(short) == 6 and len(every) == 56 and all(row in every for row in short)
    assert call("verify", arranged.folder, "--backend", "onnxruntime:threads=1", "--json") == 0
    read = json.loads(capsys.readouterr().out)
    assert (
        read["passed"] is True and len(read["checks"]) == 56
    )  # 11 values and 3 of parts of a stage, alone and as a batch, in both variants


def test_cpu_optimized_graphs_are_told_and_can_be_omitted(
    copies: Any, checkpoint: Path, tmp_path: Path, cpu_table: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu_table({"dipn": lambda dipn, *_: [dipn]})
    assert call("build", checkpoint, "--out", tmp_path / "without", "--no-cpu-graphs") == 0
    assert "CPU-optimized" not in capsys.readouterr().err
    assert call("build", checkpoint, "--out", tmp_path / "with") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("dipn "))
    assert line.count("(discrepancy)") == 2 and ", CPU-optimized " in line
    assert call("inspect", tmp_path / "with") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("dipn ")]
    assert [row[1] for row in rows[:2]] == ["fp32", "onnxruntime-cpu"] and rows[1][-1] == "onnx/fp32/dipn.cpu.onnx"
    assert call("verify", tmp_path / "with", "--backend", "onnxruntime:threads=1,cpu_graphs=false") == 0
    assert "onnxruntime-cpu" not in capsys.readouterr().out
    assert call("verify", tmp_path / "with", "--backend", "onnxruntime:threads=1,cpu_graphs=2") == 2
    assert capsys.readouterr().err == "error: cpu_graphs is 2; use true or false\n"


def test_verify_fails_with_another_code_when_numbers_are_off(built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(built.folder, tmp_path / "bundle")
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["tolerances"] = {"fp32": 1e-9}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    assert call("verify", folder, "--backend", "onnxruntime:threads=1") == 1
    out = capsys.readouterr().out
    assert "<-- too large" in out and 'the first is "latent" of e4e' in out.splitlines()[-1]


def test_inspect_prints_a_table_or_json(built: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", built.folder) == 0
    out = capsys.readouterr().out
    assert "tiny: sdic, portraits, 128 px from 64 px" in out and "13 Conv" in out and "onnx/fp32/dicn.onnx" in out
    assert call("inspect", built.folder, "--json") == 0
    read = json.loads(capsys.readouterr().out)
    listed = [item["graph"] for item in read["graphs"] if item["variant"] == "fp32"]
    whole, parts = list(read["manifest"]["stages"]), list(read["manifest"]["part_graphs"])
    assert [key for key in listed if ":" not in key] == [*whole, *parts] and parts and "generator_head:rgb" in listed
    assert read["manifest"]["name"] == "tiny"


def test_bad_input_is_one_sentence_and_code_2(built: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.pt"
    page.write_text("<!DOCTYPE html><html>")
    cases: list[tuple[list[object], str]] = [
        (["build", page, "--out", tmp_path / "new"], "is a web page, not weights"),
        (["build", tmp_path / "none.pt", "--out", tmp_path / "new"], "there is no file"),
        (["build", checkpoint, "--out", built.folder], "there is already a bundle at"),
        (["build", checkpoint], "Missing option '--out'"),
        (["build", checkpoint, "--out", tmp_path / "new", "--weights", "int8"], "Invalid value for '--weights'"),
        (["build", checkpoint, "--out", tmp_path / "new", "--opset", "9"], "Invalid value for '--opset'"),
        (["build", checkpoint, "--out", tmp_path / "new", "--directions", tmp_path / "none"], "there are no directions at"),
        (["verify", tmp_path / "none"], "there is no bundle at"),
        (["verify", built.folder, "--backend", "nonsense"], 'there is no backend "nonsense"'),
        (["verify", built.folder, "--precision", "fp8"], 'in precision "fp8"'),
        (["inspect", tmp_path], "is not a bundle"),
        (["polish"], "No such command 'polish'"),
    ]
    for arguments, sentence in cases:
        assert call(*arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and sentence in err and len(err.splitlines()) == 1 and out == "", (arguments, err)
        assert not (tmp_path / "new").exists()


def test_debug_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", tmp_path / "none", "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_an_interrupt_is_quiet_and_leaves_nothing(
    copies: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "check_stage", interrupted)
    assert call("build", checkpoint, "--out", tmp_path / "place" / "bundle") == 130
    assert "Traceback" not in capsys.readouterr().err and os.listdir(tmp_path / "place") == []


def test_two_half_precisions_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path / "none.pt"), "--out", str(tmp_path / "out"), "--fp16", "--policy", "bf16"]) == 2
    assert capsys.readouterr().err == "error: --fp16 and --policy bf16 are two half precisions; give one of them\n"
