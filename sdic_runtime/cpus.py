"""How many CPUs this process may use: by affinity and by the quota of its control group, not how many the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """CPUs that this process may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(_quota(CONTROL_GROUPS) or allowed)))


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
