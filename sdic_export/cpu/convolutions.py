"""Plain networks optimized for CPUs: Winograd convolutions where they gain, PReLU in faster operations."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.mapped import MappedConv, is_heavy
from sdic_export.cpu.winograd import WinogradConv2d, faster_form
from sdic_export.graphs.folded import constant
from sdic_export.graphs.fusion import NORMS
from sdic_train.networks.layers import BottleneckIR

Network = TypeVar("Network", bound=nn.Module)


class Offset(nn.Module):
    """A convolution and what is added behind it: a bias, or the response to the shift of a batch norm in front."""

    offset: Tensor

    def __init__(self, convolution: nn.Module, offset: Tensor) -> None:
        super().__init__()
        self.convolution = convolution
        constant(self, "offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x) + self.offset


class SplitPReLU(nn.Module):
    """PReLU in operations that ONNX Runtime runs in a fraction of the time of its PRelu: max(x, a x), or min(a, 1) x + relu(|1 - a| x).

    In the layout of the convolutions the latter takes two passes, since factors become depthwise convolutions, into which a ReLU and a
    sum are fused; elsewhere the former does. Both need slopes a of one at most, or channels that have been `turned`, see `_turned`;
    otherwise it is a x + (1 - a) relu(x).
    """

    slope: Tensor
    rest: Tensor

    def __init__(self, layer: nn.PReLU, behind_convolution: bool, turned: bool = False) -> None:
        super().__init__()
        slope = layer.weight[:, None, None]
        self.is_maximum, self.behind_convolution = turned or bool((slope <= 1).all()), behind_convolution
        constant(self, "slope", slope.clamp(max=1) if self.is_maximum and behind_convolution else slope)
        constant(self, "rest", (1 - slope).abs() if self.is_maximum else 1 - slope)

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_maximum:
            return x * self.slope + torch.relu(x) * self.rest
        return torch.relu(x * self.rest) + x * self.slope if self.behind_convolution else torch.maximum(x, x * self.slope)


def optimized(module: Network, *example: Tensor, form: type[WinogradConv2d] = WinogradConv2d) -> Network:
    """Rewrite `module`, whose batch norms are fused, in place for CPUs; `example` is an input of the sizes it will see, `form` the form of
    Winograd's algorithm in both axes."""
    sizes, turned = _sizes(module, example), _turned(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.PReLU):
                setattr(parent, name, SplitPReLU(child, isinstance(_in_front(parent, name), nn.Conv2d), child in turned))
            elif isinstance(child, BottleneckIR) and child.shortcut_layer is None and child.stride > 1:
                child.shortcut_layer = nn.Sequential(nn.MaxPool2d(1, child.stride))  # every other pixel, in the layout of the convolutions
            elif isinstance(child, nn.Conv2d) and _is_plain(child) and faster_form(child.in_channels, child.out_channels, sizes[child][1]):
                setattr(parent, name, _faster(parent, name, child, sizes[child], form))
            elif isinstance(child, nn.Conv2d) and is_heavy(child, sizes[child]):
                setattr(parent, name, MappedConv(child))
    return module


def _sizes(module: nn.Module, example: tuple[Tensor, ...]) -> dict[nn.Module, tuple[int, int]]:
    """Height and width of the input of every convolution."""
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes[layer] = (inputs[0].shape[2], inputs[0].shape[3])

    hooks = [layer.register_forward_pre_hook(record) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        module(*example)
    for hook in hooks:
        hook.remove()
    return sizes


def _in_front(parent: nn.Module, name: str) -> nn.Module | None:
    """The layer of a sequence whose output the layer `name` reads."""
    layers = [parent[index] for index in range(int(name))] if isinstance(parent, nn.Sequential) else []
    return next((layer for layer in reversed(layers) if not isinstance(layer, nn.Identity)), None)


def _turned(module: nn.Module) -> set[nn.Module]:
    """The PReLUs between two convolutions, which now compute and read the channels with slopes a above one with the other sign.

    There PReLU is min(x, a x), which is -max(-x, -a x).
    """
    turned: set[nn.Module] = set()
    for sequence in module.modules():
        layers = list(sequence) if isinstance(sequence, nn.Sequential) else []
        for before, layer, behind in zip(layers, layers[1:], layers[2:], strict=False):
            if isinstance(before, nn.Conv2d) and isinstance(layer, nn.PReLU) and isinstance(behind, nn.Conv2d) and behind.groups == 1:
                signs = torch.where(layer.weight > 1, -1.0, 1.0).detach()
                before.weight = nn.Parameter(before.weight * signs[:, None, None, None], requires_grad=False)
                before.bias = None if before.bias is None else nn.Parameter(before.bias * signs, requires_grad=False)
                behind.weight = nn.Parameter(behind.weight * signs[:, None, None], requires_grad=False)
                turned.add(layer)
    return turned


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1) and layer.groups == 1


def _faster(parent: nn.Module, name: str, layer: nn.Conv2d, size: tuple[int, int], both: type[WinogradConv2d]) -> nn.Module:
    """`layer` in its faster form; a batch norm right in front of it, which padding keeps from being fused, is taken in."""
    form = faster_form(layer.in_channels, layer.out_channels, size[1])
    assert form is not None
    form = both if form is WinogradConv2d else form
    weight, offset = layer.weight, None if layer.bias is None else layer.bias[None, :, None, None]
    if isinstance(parent, nn.Sequential) and name != "0" and isinstance(norm := parent[int(name) - 1], NORMS):
        assert norm.running_mean is not None and norm.running_var is not None
        factor = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = (norm.bias.double() - norm.running_mean.double() * factor)[None, :, None, None].expand(-1, -1, *size)
        response = F.conv2d(shift, weight.double(), padding=1).float()
        offset = response if offset is None else response + offset
        weight = nn.Parameter(weight.double() * factor[None, :, None, None])
        parent[int(name) - 1] = nn.Identity()
    return form(weight, size) if offset is None else Offset(form(weight, size), offset)
