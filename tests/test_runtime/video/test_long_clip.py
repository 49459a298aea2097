"""Ten seconds of a photograph that moves, with the demo networks: what the documents say about videos."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from clips import moving, read_clip, sound_packets, write_clip

import sdic_runtime.bundle
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import write_manifest

pytestmark = pytest.mark.full
SECONDS, RATE = 10, 25


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sdic_runtime.cli.app", "video", *map(str, arguments)]


def test_ten_seconds(tmp_path: Path) -> None:
    demo = Path(shutil.copytree(Path(sdic_runtime.bundle.__file__).parent / "demo", tmp_path / "demo"))
    write_manifest(demo, msgspec.structs.replace(Bundle.open(demo).manifest, faces="ffhq"))
    frames = moving(SECONDS * RATE, (640, 480), 420, 24)
    clip = write_clip(tmp_path / "clip.mp4", frames, sound=SECONDS, options={"crf": "18"})
    shared = (clip, "--bundle", demo, "--backend", "onnxruntime:threads=1", "--edit", "smile:2")
    numbers = tmp_path / "numbers.json"
    subprocess.run(command(*shared, "--out", tmp_path / "whole.mp4", "--json", numbers), check=True)
    report = msgspec.json.decode(numbers.read_bytes())
    print(report)
    assert (report["frames"], report["edited"], report["faces"], report["shots"]) == (250, 250, 1, 1)
    assert report["ratio"] <= 1.2
    assert sound_packets(tmp_path / "whole.mp4") == sound_packets(clip)
    times, pictures = read_clip(tmp_path / "whole.mp4")
    assert times == read_clip(clip)[0]
    changed = np.abs(pictures[100].astype(int) - read_clip(clip)[1][100])
    assert changed[100:300, 200:440].mean() > 2 * changed[:60].mean()

    out, parts = tmp_path / "out.mp4", tmp_path / ".out.mp4.sdic-video/parts.jsonl"
    run = subprocess.Popen(command(*shared, "--out", out))
    while not parts.exists() or parts.read_bytes().count(b"\n") < 2:
        assert run.poll() is None
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    again = subprocess.run(command(*shared, "--out", out), check=True, capture_output=True, text=True)
    assert "continuing: 250 frames were looked at before" in again.stderr
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
