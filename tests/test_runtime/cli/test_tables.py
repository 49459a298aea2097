"""The tables of compare, bench and doctor; their numbers are tested beside their modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.cli.bench import show

BACKEND = ("--backend", "onnxruntime:threads=1")


def test_compare_prints_a_table_and_its_json_says_the_same(run: Any, photos: Path, tiny_bundle: Path) -> None:
    base = ("compare", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--against", "onnxruntime")
    code, lines, _ = run(*base, "--json", "numbers.json")
    assert code == 0 and lines[-1] == "numbers.json" and lines[-2] == "tolerance 1.0e-04 of each tensor's standard deviation: passed"
    data = json.loads(Path("numbers.json").read_text())
    shown = [tuple(line.split()[:2]) for line in lines[5:-3]]
    assert shown == [(item["where"], item["tensor"]) for item in data["differences"]] and len(shown) == 16
    code, lines, _ = run(*base, "--json", "-")
    assert code == 0 and json.loads("\n".join(lines)) == data


def test_bench_reports_the_good_backend_and_fails_for_the_bad_one(run: Any, tiny_bundle: Path) -> None:
    few = ("--runs", 2, "--warm-up", 0, "--rounds", 2)
    code, lines, errors = run("bench", "--bundle", tiny_bundle, "--backend", "nonsense", *BACKEND, *few, "--json", "b.json")
    assert code == 2 and 'error: nonsense: there is no backend "nonsense"' in errors and errors.count("\n") == 1
    assert sum(line.startswith("onnxruntime:threads=1") for line in lines) == 2 + 6 + 1 and lines[-1] == "b.json"
    (measured,) = json.loads(Path("b.json").read_text())["measured"]
    assert measured["backend"] == "onnxruntime:threads=1" and measured["batches"][0]["inversion"]["runs"] == 4 and measured["rounds"] == 2


def test_bench_tells_of_gpu_memory_where_there_is_any(capsys: pytest.CaptureFixture[str]) -> None:
    base = {"path": None, "bundle": "b", "batches": [], "load_seconds": 1.0, "first_call_seconds": 2.0, "peak_memory_bytes": None}
    on_host = {**base, "backend": "host", "description": "what ran", "gpu_memory_bytes": None}
    show([on_host, {**base, "backend": "card", "description": "what ran", "gpu_memory_bytes": 3 << 20}])
    *_, heading, host, card = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip("- "))
    assert heading == "backend load s first call s peak MiB GPU MiB what ran"
    assert (host, card) == ("host 1.00 2.00 unknown - what ran", "card 1.00 2.00 unknown 3 what ran")
    show([on_host])
    assert "GPU" not in capsys.readouterr().out


def test_bench_measures_several_bundles_each_against_its_first_backend(run: Any, tiny_bundle: Path) -> None:
    few = ("--runs", 1, "--warm-up", 0)
    code, lines, _ = run("bench", "--bundle", tiny_bundle, "--bundle", DEMO_FOLDER, "--backend", "onnxruntime", *few, "--json", "b.json")
    measured = json.loads(Path("b.json").read_text())["measured"]
    assert code == 0
    assert [(each["path"], each["bundle"]) for each in measured] == [(str(tiny_bundle), "tiny"), (str(DEMO_FOLDER), "portraits")]
    inversions = [line.split() for line in lines if " inversion " in line]
    assert [(words[0], words[-1]) for words in inversions[:2]] == [("tiny", "1.00x"), ("portraits", "1.00x")]
    code, _, errors = run("bench", "--bundle", tiny_bundle, "--bundle", DEMO_FOLDER, "--backend", "torch", "--checkpoint", "w.pt")
    assert code == 2 and errors.startswith("error: --checkpoint is the weights of one bundle, and 2 are named; measure its bundle alone")


def test_bench_and_compare_say_why_auto_reduces_nothing(
    run: Any, make_bundle: Callable[..., Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, other = make_bundle("bare"), make_bundle("other")
    words = ("--backend", "onnxruntime", "--precision", "auto")
    why = "the precision auto stays fp32: onnxruntime reduces none by itself; openvino does, or name a precision"
    code, _, errors = run("bench", "--bundle", bare, *words, "--runs", 1, "--warm-up", 0)
    assert (code, errors) == (0, f"onnxruntime: {why}\n")
    code, _, errors = run("compare", photos / "a.png", "--bundle", bare, "--bundle", other, *words, "--runs", 1)
    assert code == 0 and f"bare: {why}\nother: {why}\n" in errors


def test_doctor_exits_with_2_only_when_something_named_is_bad(run: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    code, lines, _ = run("doctor", tiny_bundle)
    assert code == 0 and {"environment", "gpu", "backends", str(tiny_bundle)} <= set(lines)
    (tmp_path / "SDIC_ffhq.pt").write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    code, lines, _ = run("doctor", "SDIC_ffhq.pt", tiny_bundle)
    assert code == 2
    assert [line for line in lines if line.startswith("  BAD  content  this is a web page, not weights: it speaks of a download quota; ")]
