"""The oldest packages that pyproject.toml allows are named by its own text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/lowest.py"


def test_every_package_of_the_runtime_has_a_lowest_version() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "serve"], capture_output=True, text=True, check=True)
    lines = done.stdout.split()
    assert {"numpy", "onnxruntime", "pillow", "fastapi"} <= {line.partition("==")[0] for line in lines}
    assert all("==" in line for line in lines)


def test_a_requirement_without_a_lowest_version_is_told() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "dev"], capture_output=True, text=True)
    assert done.returncode == 1 and '"sdic-toolkit[train,' in done.stderr


def test_a_version_that_is_the_only_one_is_the_lowest() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "train", "export"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert any(line.startswith("torch==") for line in lines) and "tomli==2; python_version < '3.11'" in lines
