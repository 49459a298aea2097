"""Whatever the documents and messages say to install can be installed, from this project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HINT = re.compile(r"pip install [^`\n]*?(?<![\w-])(sdic[\w-]*|\.)\[([^\]]+)\]")


def project() -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def places() -> list[Path]:
    sources = [
        path for package in ("sdic_runtime", "sdic_train", "sdic_export", "examples", "docs") for path in (ROOT / package).rglob("*")
    ]
    return [path for path in (ROOT / "README.md", *sources) if path.suffix in (".py", ".md", ".h", ".hpp", ".cpp", ".txt", ".ipynb")]


def hints() -> list[tuple[str, str, str]]:
    """(file, distribution, extra) of every hint that names an extra; a name made by a program is "{...}"."""
    found = []
    for path in places():
        for distribution, extras in HINT.findall(path.read_text(encoding="utf-8")):
            found += [(str(path.relative_to(ROOT)), distribution, extra.strip()) for extra in extras.split(",")]
    return found


def test_every_hint_names_this_distribution_and_one_of_its_extras() -> None:
    known, found = set(project()["optional-dependencies"]), hints()
    assert len(found) > 5
    strangers = [hint for hint in found if hint[1] not in (project()["name"], ".")]
    unknown = [hint for hint in found if hint[2] not in known and not hint[2].startswith("{")]
    assert (strangers, unknown) == ([], [])


def test_no_hint_installs_another_project() -> None:
    stranger = re.compile(r"pip install (--upgrade )?[\"']?sdic([\"'\[ ]|$)", re.MULTILINE)
    assert [str(path) for path in places() if stranger.search(path.read_text(encoding="utf-8"))] == []


def test_no_extra_brings_a_second_onnx_runtime() -> None:
    every = [*project()["dependencies"], *(item for items in project()["optional-dependencies"].values() for item in items)]
    assert {re.split(r"[<>=\[; ]", item)[0] for item in every if item.startswith("onnxruntime")} == {"onnxruntime"}


@pytest.mark.full
@pytest.mark.parametrize("extra", ["", *(extra for extra in project()["optional-dependencies"] if extra != "dev")])
def test_a_fresh_environment_can_install_it(extra: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    command = [str(tmp_path / "venv/bin/pip"), "install", "--dry-run", "--quiet", "--report", "-", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"name": "sdic-toolkit"' in done.stdout and '"name": "onnxruntime-gpu"' not in done.stdout
