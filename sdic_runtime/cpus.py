"""The CPUs that this process may use: how many (by affinity and by the quota of its control group, not how many the machine has), and
whether they multiply in bfloat16."""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
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
    """CPUs that the control group may use on average, in its second form ("cpu.max") or its first; None where there is no limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (int(part) for name in names for part in (root / name).read_text(encoding="ascii").split())
        except (OSError, ValueError):  # not of this form, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
