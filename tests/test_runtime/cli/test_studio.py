"""The studio's command where no model can be loaded, and where one of two can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.cli.app import main
from sdic_runtime.errors import BackendError

httpx = pytest.importorskip("httpx")
for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)

STUDIO = (sys.executable, "-m", "sdic_runtime.cli.app", "studio", "--port", "0")


@pytest.mark.parametrize("bundles", [0, 2])
def test_it_ends_with_the_reason_where_no_model_can_be_loaded(bundles: int, tiny_bundle: Path) -> None:
    words = [word for path in (DEMO_FOLDER, tiny_bundle)[:bundles] for word in ("--bundle", path)]
    done = subprocess.run([*STUDIO, *words, "--backend", "onnxruntime:precision=bf17"], capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == max(1, bundles), done.stderr
    assert all("bf17" in line for line in errors) and "Traceback" not in done.stderr


def test_it_says_which_model_is_missing_and_serves_the_others(tiny_bundle: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "broken"))
    for graph in broken.glob("onnx/**/*.onnx"):
        graph.write_bytes(b"no graph")
    words = [*STUDIO, "--bundle", str(broken), "--bundle", str(tiny_bundle), "--backend", "onnxruntime:threads=1"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout and process.stderr
    try:
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127.0.0.1:\d+/", url)
        assert process.stderr.readline().startswith(f"error: {broken}: ")
        assert [bundle["name"] for bundle in httpx.get(url + "api/bundles").json()] == ["tiny"]
        answer = httpx.post(url + "edit?direction=smile&strength=2", content=(DEMO_FOLDER / "pictures/portrait_1.png").read_bytes())
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), "the model that is there does it"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("asked", "states", "ends"), [(True, ["ready"], True), (False, ["ready", "failed"], False), (False, ["failed"], True)]
)
def test_a_stop_that_was_asked_for_while_the_models_load_is_kept(
    asked: bool, states: list[str], ends: bool, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = [SimpleNamespace(state=state, path=tiny_bundle, reason="too old", error=BackendError("too old")) for state in states]
    serving = SimpleNamespace(should_exit=asked)

    def create_app(bundles: Any, *, loaded: Callable[[Any], None], **options: Any) -> Any:
        serving.run = lambda sockets: (loaded(rooms), [each.close() for each in sockets])
        return SimpleNamespace(state=SimpleNamespace(studio=SimpleNamespace(rooms=rooms)))

    monkeypatch.setattr("sdic_runtime.studio.service.create_app", create_app)
    monkeypatch.setattr("sdic_runtime.studio.server.server", lambda app, limits: serving)
    assert main(["studio", "--bundle", str(tiny_bundle), "--port", "0"]) == (2 if states == ["failed"] else 0)
    assert serving.should_exit == ends
    assert ("too old" in capsys.readouterr().err) == ("failed" in states)
