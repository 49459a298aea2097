"""The libraries that run graphs report nothing to their makers, and keep no files of their own in the user's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

OWN = ".local/state/sdic/"
INVERTS = """
import os, sys
from sdic_runtime import Pipeline
with Pipeline.load(sys.argv[1], backend=sys.argv[2], threads=1) as pipeline:
    pipeline.invert(sys.argv[3])
print(os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules)
"""


@pytest.fixture
def inverted(tiny_bundle: Path, photos: Path, tmp_path: Path) -> Callable[..., tuple[str, list[str]]]:
    """An inversion in a process with a home of its own: what it says, and the files that it left there."""

    def invert(backend: str, **settings: str) -> tuple[str, list[str]]:
        home = tmp_path / "home"
        (home / "tmp").mkdir(parents=True)
        names = ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY", "CI")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), **settings}
        command = [sys.executable, "-c", INVERTS, tiny_bundle, backend, photos / "a.png"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        files = (path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
        return done.stdout.strip(), [name for name in files if not name.startswith(OWN)]

    return invert


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_nothing_is_reported(backend: str, inverted: Callable[..., tuple[str, list[str]]]) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    assert inverted(backend) == ("1 False", [])


def test_who_wants_reports_gets_them(inverted: Callable[..., tuple[str, list[str]]]) -> None:
    assert inverted("onnxruntime", ORT_DISABLE_TELEMETRY="0")[0] == "0 False"
