"""The script for a GPU: its sections, limits and table; and the whole of it, rehearsed on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_bundle import change_manifest, write_bundle

from sdic_runtime.backends.registry import load_backend, parse_backend
from sdic_runtime.bundle.bundle import Bundle

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/gpu_check.sh"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts/gpu_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def check(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def planned(script: ModuleType, tmp_path: Path) -> Any:
    """A plan of small commands in place of the product's."""

    @dataclass(frozen=True)
    class Small(script.Plan):  # type: ignore[name-defined,misc]
        given: list[Any] = field(default_factory=list)

        def sections(self) -> Iterator[Any]:
            return iter(self.given)

    def section(name: str, code: str, **rest: Any) -> Any:
        return script.Section(name, rest.pop("seconds", 60), [sys.executable, "-c", code], **rest)

    write = f"open({str(tmp_path / 'out' / 'b.json')!r}, 'w').write('[1, 2]'); print('written')"
    given = [
        section("good", write, data="b.json"),
        section("bad", "raise SystemExit(3)"),
        section("slow", "import time; time.sleep(60)", seconds=1),
        section("behind", "print('never')", needs="bad"),
        section("last", "print('here')", needs="good"),
    ]
    return Small(tmp_path / "out", None, True, given)


def test_every_section_is_told_with_its_data(script: ModuleType, planned: Any) -> None:
    said: list[str] = []
    written: list[list[str]] = []  # the sections in results.json after each of them

    def say(line: str) -> None:
        said.append(line)
        written.append(list(json.loads((planned.out / "results.json").read_text())["sections"]))

    assert script.run_all(planned, [], say) is False
    found = json.loads((planned.out / "results.json").read_text())
    sections = found["sections"]
    assert {name: told["code"] for name, told in sections.items()} == {"good": 0, "bad": 3, "slow": 124, "behind": None, "last": 0}
    assert sections["good"]["data"] == [1, 2] and sections["good"]["output"] == "written\n" and "data" not in sections["last"]
    assert sections["behind"]["output"] == '"bad" did not go well before it' and found["about"]["rehearsal"] is True
    assert [line.split()[0] for line in said] == list(sections) and said[3].endswith('"bad" did not go well before it')
    assert written == [list(sections)[:count] for count in range(1, 6)] and sections["slow"]["seconds"] < 30
    assert (planned.out / "last.log").read_text() == "here\n"


def test_a_second_call_goes_on_from_what_is_there(script: ModuleType, planned: Any) -> None:
    assert script.run_all(planned, ["good"], str) is True
    assert script.run_all(planned, ["last"], str) is True
    assert list(json.loads((planned.out / "results.json").read_text())["sections"]) == ["good", "last"]


def test_what_runs_again_makes_what_needs_it_outdated(script: ModuleType, planned: Any) -> None:
    path = planned.out / "results.json"
    assert script.run_all(planned, ["good", "last"], str) is True
    assert script.run_all(planned, ["good"], str) is True
    sections = json.loads(path.read_text())["sections"]
    assert sections["good"]["code"] == 0 and sections["last"]["code"] is None
    assert sections["last"]["output"] == '"good" ran again behind it' and sections["last"]["seconds"] >= 0
    assert script.run_all(planned, ["last"], str) is True


def test_a_section_that_is_killed_did_not_go_well(script: ModuleType, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.run_all(planned, ["good", "last"], str) is True

    def killed(*given: Any) -> Any:
        raise SystemExit(137)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(script, "run", killed)
        script.run_all(planned, ["good"], str)
    assert script.run_all(planned, ["last"], str) is False
    sections = json.loads((planned.out / "results.json").read_text())["sections"]
    assert sections["good"]["code"] is None and sections["last"]["output"] == '"good" did not go well before it'


def test_half_precision_that_is_there_already_is_fine(script: ModuleType, tmp_path: Path) -> None:
    plan = script.Plan(tmp_path, None, True)
    (half,) = (section for section in plan.sections() if section.name == "half")
    bundle = write_bundle(tmp_path / "bundle")
    manifest = Bundle.open(bundle).manifest
    change_manifest(bundle, graphs={key: {**variants, "fp16": variants["fp32"]} for key, variants in manifest.graphs.items()})
    done = subprocess.run(half.command, env=script.environment(tmp_path / "site"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "fp16 graphs are there already\n"), done.stderr


def test_the_table(script: ModuleType) -> None:
    def measured(name: str, inversion: float, edit: float) -> dict[str, Any]:
        batch = {"batch": 1, "inversion": {"p50": inversion}, "edit": {"p50": edit}}
        gpu = {} if name == "plain" else {"gpu_memory_bytes": 1.54e9}
        return {"description": name, "batches": [batch], "peak_memory_bytes": 3.2e9, **gpu}

    sections = {
        "libraries": {"code": 0, "data": {"card": "A Card", "torch": "2.13", "cuda": "13.0", "onnxruntime": "1.32"}},
        "bench_fp32": {"code": 0, "data": {"measured": [measured("plain", 0.16, 0.02)]}},
        "bench_fp16": {"code": 0, "data": {"measured": [measured("plain", 0.08, 0.02), measured("half", 0.01, 0.004)]}},
        "gpu_tests": {"code": 124},
    }
    lines = script.table({"about": {"date": "2026-11-26", "rehearsal": False}, "sections": sections}).splitlines()
    assert lines[0] == "A Card, 2026-11-26, torch 2.13, cuda 13.0, onnxruntime 1.32"
    assert lines[4:7] == [
        "| bench_fp32 | plain | 1 | 160.0 | 1.00 x | 20.0 | 1.00 x | 3.2 | - |",
        "| bench_fp16 | plain | 1 | 80.0 | 1.00 x | 20.0 | 1.00 x | 3.2 | - |",
        "| bench_fp16 | half | 1 | 10.0 | 8.00 x | 4.0 | 5.00 x | 3.2 | 1.5 |",
    ]
    assert lines[-1] == "* gpu_tests: ran past its limit"


def test_the_checkout_answers_without_being_installed(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "--rehearse", "--only", "libraries")
    assert done.returncode == 0 and done.stdout.startswith("libraries") and "code 0" in done.stdout
    told = json.loads((tmp_path / "out/results.json").read_text())["sections"]["libraries"]
    assert told["data"]["torch"] and "CPUExecutionProvider" in told["data"]["providers"]
    table = check(tmp_path / "out", "--table")
    assert table.returncode == 0 and "(a rehearsal)" in table.stdout


def test_one_run_compares_all_with_plain_torch_and_the_compiled_one_costs_no_numbers(script: ModuleType, tmp_path: Path) -> None:
    sections = {section.name: section for section in script.Plan(tmp_path, None, False).sections()}
    benches = [section for name, section in sections.items() if name.startswith("bench")]
    told = {
        section.name: [word for before, word in zip(section.command, section.command[1:], strict=False) if before == "--backend"]
        for section in benches
    }
    assert all(backends[0] == "torch-plain:device=cuda" for backends in told.values())
    others = {"torch-plain:device=cuda", "torch:device=cuda,precision=fp16", "onnxruntime:device=cuda,precision=fp16"}
    assert others <= {*told["bench_fp16"]} and {*told["bench_compiled"]} == others | {"torch:device=cuda,precision=fp16,compile=true"}
    assert list(sections).index("bench_fp16") < list(sections).index("bench_compiled")
    assert [name for name, backends in told.items() if any("compile=true" in backend for backend in backends)] == ["bench_compiled"]


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    wrong = check(tmp_path, "--only", "everything")
    assert wrong.returncode == 2 and 'there is no section "everything"; there are: libraries, driver, draw, build' in wrong.stderr
    assert check(tmp_path, "--table").returncode == 2
    listed = check(tmp_path, "--list").stdout.splitlines()
    assert check(tmp_path, "--list", "--rehearse").stdout.splitlines()[0].split() == ["libraries", "360", "s"]
    assert listed[0].split() == ["libraries", "120", "s"] and [line for line in listed if line.startswith("gpu_tests")]


def test_a_cpu_takes_the_options_of_the_rehearsal(script: ModuleType, tmp_path: Path) -> None:
    plan = script.Plan(tmp_path, None, True)
    words = [word for section in plan.sections() for word in section.command if word.startswith("onnxruntime:")]
    demo = Bundle.open()
    for word in dict.fromkeys(words):
        name, options = parse_backend(word)
        load_backend(name, demo, **{**options, "precision": None, "lazy": True}).close()
    for section in plan.sections():
        named = [after for word, after in zip(section.command, section.command[1:], strict=False) if word == "--backend"]
        assert len(set(named)) == len(named), "a backend is measured once"


@pytest.mark.full
def test_the_whole_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "--rehearse")
    assert done.returncode == 0, done.stdout
    table = check(tmp_path / "out", "--table").stdout
    for name in ("plain generator", "ONNX Runtime", "fp16 autocast, channels last", "torch.compile"):
        assert name in table
