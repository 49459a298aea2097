"""Convolutions with random weights, and what they compute in double precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.volume import SLOPE

BATCH = 2
CLOSE = 2e-5  # of the standard deviation


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def made(kind: Callable[..., nn.Module], inputs: int, outputs: int, *arguments: int, bias: bool = True) -> nn.Module:
    torch.manual_seed(inputs + outputs)
    return kind(inputs, outputs, *arguments, bias=bias).requires_grad_(False)


def expected(conv: nn.Module, x: Tensor, activation: bool = True) -> Tensor:
    y = conv.double()(x.double())
    conv.float()
    return F.leaky_relu(y, SLOPE) if activation else y
