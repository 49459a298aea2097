"""How many CPU threads PyTorch computes with."""

from __future__ import annotations

from sdic_runtime.cpus import available_cpus


def use_threads(threads: int | None = None) -> None:
    """Let PyTorch compute with `threads` CPU threads; without a number with as many as it chooses, but no more than this process may keep
    busy, of which PyTorch knows the affinity and not the quota."""
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cpus()))
