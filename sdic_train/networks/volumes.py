"""Convolutions over volumes of few channels and slices, as PyTorch has them; where they train on a CPU they are computed as 2D ones.

[N, C, D, H, W] is a picture of C * D channels, and a kernel [O, C, K, ., .] a kernel [O * D', C * D, ., .] that is zero where two slices
are further apart than the kernel reaches. PyTorch's gradients of 3D convolutions with a few channels take 3 to 12 times as long on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEEPEST = 16  # slices up to which that pays: the products are 1/3 of their number times as many


class VolumeConv(nn.Conv3d):
    """`nn.Conv3d` with the same stride along all axes."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, D, H, W] -> [N, O, D', H', W']."""
        if not flat(self, x, x.shape[2]):
            return super().forward(x)
        (stride, *_), (pad, *within) = self.stride, padding(self)
        depth = (x.shape[2] + 2 * pad - self.kernel_size[0]) // stride + 1
        taps = torch.arange(x.shape[2])[None] - (torch.arange(depth)[:, None] * stride - pad)  # [D', D]
        outputs, inputs = self.weight.shape[:2]
        dense = banded(self.weight, taps).permute(2, 0, 3, 1, 4, 5)  # [O, D', C, D, ., .]
        made = F.conv2d(x.flatten(1, 2), dense.reshape(outputs * depth, inputs * x.shape[2], *dense.shape[4:]), None, stride, within)
        return made.unflatten(1, (outputs, depth))


class VolumeConvTranspose(nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with the same stride along all axes."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, C, D, H, W] -> [N, O, D', H', W']."""
        if output_size is not None or any(self.output_padding) or not flat(self, x, x.shape[2] * self.stride[0]):
            return super().forward(x, output_size)
        (stride, *_), (pad, *within) = self.stride, padding(self)
        depth = (x.shape[2] - 1) * stride - 2 * pad + self.kernel_size[0]
        taps = torch.arange(depth)[None] - (torch.arange(x.shape[2])[:, None] * stride - pad)  # [D, D']
        inputs, outputs = self.weight.shape[:2]
        dense = banded(self.weight, taps).permute(2, 0, 3, 1, 4, 5)  # [C, D, O, D', ., .]
        dense = dense.reshape(inputs * x.shape[2], outputs * depth, *dense.shape[4:])
        return F.conv_transpose2d(x.flatten(1, 2), dense, None, stride, within).unflatten(1, (outputs, depth))


def flat(layer: VolumeConv | VolumeConvTranspose, x: Tensor, slices: int) -> bool:
    """Whether a layer is computed as a 2D convolution: it trains, on a CPU, it mixes slices, and they are few."""
    trains = torch.is_grad_enabled() and layer.weight.requires_grad and x.device.type == "cpu"
    plain = layer.bias is None and layer.groups == 1 and set(layer.dilation) == {1} and len(set(layer.stride)) == 1
    return trains and plain and layer.kernel_size[0] > 1 and slices <= DEEPEST


def padding(layer: VolumeConv | VolumeConvTranspose) -> tuple[int, ...]:
    """Along every axis; layers here say it in numbers."""
    assert not isinstance(layer.padding, str)
    return layer.padding


def banded(weight: Tensor, taps: Tensor) -> Tensor:
    """weight [A, B, K, H, W], taps [D, E]: which of the K -> [D, E, A, B, H, W], zero where there is no such tap."""
    inside = (taps >= 0) & (taps < weight.shape[2])
    found = weight.permute(2, 0, 1, 3, 4)[taps.clamp(0, weight.shape[2] - 1)]
    return found * inside[:, :, None, None, None, None]
