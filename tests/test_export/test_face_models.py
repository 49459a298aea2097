from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sdic_export.face_models import SOURCES, make
from sdic_runtime.errors import FileError
from sdic_runtime.faces.networks import MODELS


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "mediapipe.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mediapipe/__init__.py", "")
    with pytest.raises(FileError, match="holds no mediapipe/modules/.*; use the wheel of mediapipe 0.10.21"):
        make(wheel, tmp_path / "out")
    with zipfile.ZipFile(wheel, "w") as archive:
        for source in SOURCES.values():
            archive.writestr(source.file, b"another")
    with pytest.raises(FileError, match="is another version; use the wheel of mediapipe 0.10.21"):
        make(wheel, tmp_path / "out")
    with pytest.raises(FileError, match="cannot read .*absent.whl"):
        make(tmp_path / "absent.whl", tmp_path / "out")
    wheel.write_bytes(b"no archive")
    with pytest.raises(FileError, match="cannot read .*mediapipe.whl"):
        make(wheel, tmp_path / "out")
    assert not list(tmp_path.glob("out/*.onnx"))


@pytest.mark.full
def test_the_wheel_gives_the_models_that_are_carried(tmp_path: Path) -> None:
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, "mediapipe==0.10.21", "-d", tmp_path], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert make(wheel, tmp_path / "out") == json.loads((MODELS / "models.json").read_text())
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (MODELS / path.name).read_bytes()
