"""Whatever the disk refuses, a command ends with one sentence and leaves whole files or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import FULL, REFUSED, every_fault
from PIL import Image
from tiny_bundle import write_bundle

from sdic_export import placement
from sdic_export.changes import LOCK
from sdic_export.cli.app import main as export_main
from sdic_export.placement import placed_folder
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import write_manifest
from sdic_runtime.cli.app import main as run_main
from sdic_runtime.errors import FileError

Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[[Main, list[Any]], int]:
    """Runs a command; an error is one sentence of the product."""

    def call(main: Main, words: list[Any]) -> int:
        capsys.readouterr()
        code = main([str(word) for word in words])
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(told)) in ((0, 0), (2, 1)), (code, told)
        assert not any("internal" in line for line in told), told
        return code

    return call


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != Path(LOCK).name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", [REFUSED, FULL])
@pytest.mark.parametrize("words", [["invert", "--save"], ["edit", "--edit", "smile:2"]], ids=lambda words: words[0])
def test_results_are_whole_or_absent(words: list[str], kind: str, tiny: Path, tmp_path: Path, command: Any) -> None:
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "p.png")
    out = tmp_path / "out"
    line = [words[0], tmp_path / "p.png", *words[1:], "--bundle", tiny, "--backend", "onnxruntime:threads=1", "--out", out]
    assert command(run_main, line) == 0
    whole, codes = contents(out), []
    for what, code in every_fault(out, kind, lambda: shutil.rmtree(out, ignore_errors=True), lambda: int(command(run_main, line))):
        found, codes = contents(out) if out.exists() else {}, [*codes, code]
        assert found.items() <= whole.items() if code else found == whole, what
    assert codes.count(2) >= len(whole)  # each file's failure was seen


@pytest.mark.parametrize("kind", [REFUSED, FULL])
@pytest.mark.parametrize("replace", [False, True])
def test_a_bundle_has_the_old_or_the_new_directions(replace: bool, kind: str, tiny: Path, tmp_path: Path, command: Any) -> None:
    np.save(tmp_path / ("smile.npy" if replace else "beard.npy"), np.arange(8.0))
    bundle = tmp_path / "bundle"
    line = ["directions", "add", bundle, next(tmp_path.glob("*.npy")), *(["--replace"] if replace else [])]

    def prepare() -> None:
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(tiny, bundle)

    prepare()
    assert command(export_main, line) == 0
    old, new, codes = contents(tiny), contents(bundle), []
    for what, code in every_fault(bundle, kind, prepare, lambda: int(command(export_main, line))):
        found, codes = contents(bundle), [*codes, code]
        # A manifest that may not be on the disk yet still needs the old file: it stays.
        both = old | new if what.startswith("fsync") and what.endswith(bundle.name) else new
        assert found in ([old, new, both] if code else [new]), (what, sorted(found.keys() ^ old.keys()))
        Bundle.open(bundle).check()
    assert codes.count(2) >= 2


@pytest.mark.parametrize("kind", [REFUSED, FULL])
@pytest.mark.parametrize("swap", [True, False])
def test_a_folder_is_placed_whole_or_not_at_all(swap: bool, kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "bundle"
    if not swap:
        monkeypatch.setattr(placement, "exchange", lambda one, other: False)

    def prepare() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(tiny, out)

    def run() -> int:
        manifest = Bundle.open(tiny).manifest
        try:
            with placed_folder(out, force=True) as folder:
                for name in list(manifest.files)[:3]:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes((tiny / name).read_bytes())
                write_manifest(folder, manifest)
        except FileError:
            return 2
        return 0

    run()
    old, new, codes = contents(tiny), contents(out), []
    for what, code in every_fault(out.parent, kind, prepare, run):
        codes.append(code)
        assert contents(out) in ([old, new] if code else [new]), what
        assert [path.name for path in out.parent.iterdir()] == ["bundle"], what
    assert codes.count(2) >= 4
