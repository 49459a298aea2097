"""Batch norms and equalized scales folded into the weights in front of them, before a stage is exported."""

from __future__ import annotations

import copy
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from sdic_export.graphs.folded import FoldedLinear
from sdic_train.networks.layers import BasicConv, EqualConv2d, EqualLinear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Network = TypeVar("Network", bound=nn.Module)
HALF_FROM = 256  # elements from which a tensor is worth storing in half precision


def fused(module: Network) -> Network:
    """A copy of `module` in which every convolution has absorbed the batch norm behind it, and equalized layers their scale.

    Tensors that do not change are shared with `module`. A batch norm in front of a padded convolution stays: the padding is not
    normalised, so it cannot be folded exactly.
    """
    tensors = chain(module.parameters(), module.buffers())
    clone = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}).eval()
    with torch.no_grad():
        for parent in list(clone.modules()):
            if isinstance(parent, nn.Sequential):
                _fuse_sequence(parent)
            elif isinstance(parent, BasicConv) and isinstance(parent.bn, NORMS):
                parent.conv, parent.bn = _absorbed(parent.conv, parent.bn), nn.Identity()  # type: ignore[assignment]
            for name, child in parent.named_children():
                if isinstance(child, EqualLinear) and not child.activation:
                    setattr(parent, name, FoldedLinear(child))
                elif isinstance(child, EqualConv2d):
                    setattr(parent, name, _plain(child))
    return clone.requires_grad_(False)


def round_to_half(module: nn.Module) -> None:
    """Round the large float32 tensors of `module` to what float16 can hold, in place of the old ones; they stay float32.

    Tensors beyond the range of float16 are left as they are.
    """
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in list(table.items()):
                if tensor is None or tensor.dtype != torch.float32 or tensor.numel() < HALF_FROM:
                    continue
                rounded = tensor.detach().half().float()
                if torch.isfinite(rounded).all():
                    setattr(part, name, nn.Parameter(rounded, requires_grad=False) if isinstance(tensor, nn.Parameter) else rounded)


def _fuse_sequence(sequence: nn.Sequential) -> None:
    for index, (first, second) in enumerate(pairwise(list(sequence))):
        if isinstance(first, (*CONVOLUTIONS, *TRANSPOSED)) and isinstance(second, NORMS):
            sequence[index], sequence[index + 1] = _absorbed(first, second), nn.Identity()


def _absorbed(convolution: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution with the batch norm behind it; the factors are computed in double precision."""
    assert isinstance(norm, NORMS) and norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    offset = norm.bias.double() - norm.running_mean.double() * factor
    outputs = 1 if isinstance(convolution, TRANSPOSED) else 0  # the axis of output channels
    shape = [-1 if axis == outputs else 1 for axis in range(weight.ndim)]
    result = copy.copy(convolution)
    result._parameters = dict(convolution._parameters)
    result.weight = nn.Parameter((weight.double() * factor.view(shape)).float())
    result.bias = nn.Parameter(((0 if bias is None else bias.double()) * factor + offset).float())
    return result


def _plain(layer: EqualConv2d) -> nn.Conv2d:
    outputs, inputs, kernel, _ = layer.weight.shape
    plain = nn.Conv2d(inputs, outputs, kernel, layer.stride, layer.padding, bias=layer.bias is not None)
    plain.weight = nn.Parameter(layer.weight * layer.scale)
    plain.bias = layer.bias
    return plain
