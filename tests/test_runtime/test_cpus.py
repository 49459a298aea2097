"""CPUs by affinity and by quota, in files of the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdic_runtime import cpus

SECOND, FIRST = "0::/user.slice/job.service\n", "4:memory:/x\n3:cpu,cpuacct:/docker/ab\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 8),
        ("", {"cpu.max": "max 100000\n"}, 8),
        ("", {"cpu.max": "200000 100000\n"}, 2),
        ("", {"cpu.max": "50000 100000\n"}, 1),
        ("", {"cpu.max": "250000 100000\n"}, 3),
        ("", {"cpu.max": "9900000 100000\n"}, 8),
        ("", {"cpu.max": "nonsense"}, 8),
        ("", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        # A service of systemd, a job of a scheduler: the quota is that of a group inside, or of one above it.
        (SECOND, {"user.slice/job.service/cpu.max": "300000 100000\n", "user.slice/cpu.max": "max 100000\n"}, 3),
        (SECOND, {"user.slice/job.service/cpu.max": "max 100000\n", "user.slice/cpu.max": "200000 100000\n"}, 2),
        (SECOND, {"other.slice/cpu.max": "100000 100000\n", "cpu.max": "700000 100000\n"}, 7),
        (FIRST, {"cpu/docker/ab/cpu.cfs_quota_us": "150000\n", "cpu/docker/ab/cpu.cfs_period_us": "100000\n"}, 2),
        ("nonsense\n0::\n", {"cpu.max": "500000 100000\n"}, 5),
    ],
)
def test_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(groups)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cpus, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(cpus, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cpus.available_cpus() == expected
