"""The CPUs that this process may use: how many (by affinity and by the quota of its control group, not how many the machine has), and
whether they multiply in bfloat16."""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
CPU_INFORMATION = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # flags of CPUs that multiply in bfloat16


def available_cpus() -> int:
    """CPUs that this process may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(_quota(CONTROL_GROUPS) or allowed)))


def has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16. False where the system does not say (all but Linux)."""
    try:
        lines = CPU_INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(BFLOAT16 & set(line.split()) for line in lines if line.startswith("flags"))


def _quota(root: Path) -> float | None:
    """CPUs that the process may use on average: the smallest quota of its control group and those above it; None where there is none."""
    quotas = []
    for mount, files, group in ((root, ("cpu.max",), _group("")), (root / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), _group("cpu"))):
        for folder in (group, *group.parents):  # in a container the path may be that of the host: what is not there limits nothing
            try:
                quota, period = (int(part) for name in files for part in (mount / folder / name).read_text(encoding="ascii").split())
            except (OSError, ValueError):  # not of this form, or "max"
                continue
            if quota > 0 and period > 0:
                quotas.append(quota / period)
    return min(quotas, default=None)


def _group(controller: str) -> Path:
    """The control group of this process below the folder of all; "" names the controller of the second form."""
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return Path()
    found = (path for _, names, path in (line for line in lines if len(line) == 3) if controller in names.split(","))
    return Path(next(found, "/").lstrip("/"))
