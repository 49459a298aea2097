"""Layers that StyleGAN2 and the discrepancy networks share."""

from __future__ import annotations

from functools import cache
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.volumes import VolumeConv, VolumeConvTranspose

LEAKY_SLOPE = 0.2  # of StyleGAN2; the discrepancy networks use PyTorch's 0.01
BLUR_TAPS = (1.0, 3.0, 3.0, 1.0)


def blur_kernel() -> Tensor:
    """The two-dimensional [1, 3, 3, 1] kernel with gain 4 that follows an upsampling by zero insertion; [4, 4]."""
    taps = torch.tensor(BLUR_TAPS)
    return torch.outer(taps, taps) / taps.sum() ** 2 * 4


def blur_taps(like: Tensor) -> Tensor:
    """`BLUR_TAPS` as a tensor. To a GPU they are copied once: a copy waits for everything that it still has to compute."""
    if like.is_cuda and not torch.compiler.is_compiling():
        return _taps_on(like.device, like.dtype)
    return torch.tensor(BLUR_TAPS, dtype=like.dtype, device=like.device)


@cache
def _taps_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # or no gradient could pass by them later
        return torch.tensor(BLUR_TAPS, dtype=dtype, device=device)


def blur(x: Tensor, padding: int = 1, gain: float = 2.0) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 padding - 3, ...]: the [1, 3, 3, 1] filter with `gain` per axis, as two depthwise passes."""
    channels = x.shape[1]
    taps = blur_taps(x) * (gain / sum(BLUR_TAPS))
    x = F.conv2d(x, taps.view(1, 1, 4, 1).repeat(channels, 1, 1, 1), padding=(padding, 0), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, 4).repeat(channels, 1, 1, 1), padding=(0, padding), groups=channels)


class EqualLinear(nn.Module):
    """Linear layer whose weights have unit variance and are scaled at run time (StyleGAN2, equalized learning rate)."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0, activation: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale = rate / sqrt(inputs)
        self.rate = rate
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        x = F.linear(x, self.weight * self.scale, self.bias * self.rate)
        return F.leaky_relu(x, LEAKY_SLOPE) * sqrt(2) if self.activation else x


def strided(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """The convolution of x [N, inputs, H, W].

    Where a gradient is wanted, the stride of a window of one pixel is taken before the convolution, which is the same: PyTorch 2.13 writes
    outside its memory in the gradient of a strided one on CPUs, in the channels-last layout and with fewer than 16 inputs.
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad) and not torch.compiler.is_compiling()
    if stride > 1 and weight.shape[2:] == (1, 1) and wanted:
        return F.conv2d(x[:, :, ::stride, ::stride], weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


class EqualConv2d(nn.Module):
    """Convolution with an equalized learning rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        return strided(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class ScaledLeakyReLU(nn.Module):
    """Leaky ReLU with the gain sqrt(2) that keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, LEAKY_SLOPE) * sqrt(2)


class Activation(ScaledLeakyReLU):
    """Bias, leaky ReLU, gain sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.bias[:, None, None].to(x.dtype))


class ShortcutConv2d(nn.Conv2d):
    """The convolution of a residual unit's shortcut: one pixel wide, without bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        return strided(x, self.weight, self.bias, self.stride[0])  # a norm that is folded in brings a bias


class PixelConv2d(nn.Conv2d):
    """A convolution with kernel 3 and padding 1 that may meet a map of one pixel, where its centre alone counts.

    PyTorch on a CPU leaves the gradients of the other weights there undefined in bfloat16 with stride 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        if x.shape[2:] == (1, 1):
            return F.conv2d(x, self.weight[:, :, 1:2, 1:2], self.bias)
        return super().forward(x)


class BasicConv(nn.Module):
    """Convolution without bias, batch norm, leaky ReLU (0.01): two- or three-dimensional, plain or transposed."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, ...],
        stride: int = 1,
        padding: int | tuple[int, ...] = 0,
        volume: bool = False,
        transposed: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        kinds: dict[tuple[bool, bool], type[nn.Module]] = {
            (False, False): nn.Conv2d,
            (False, True): nn.ConvTranspose2d,
            (True, False): VolumeConv,
            (True, True): VolumeConvTranspose,
        }
        self.conv = kinds[volume, transposed](inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = (nn.BatchNorm3d if volume else nn.BatchNorm2d)(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, (D,) H, W] -> [N, outputs, ...]; without norm there is no activation either."""
        x = self.conv(x)
        return x if self.bn is None else F.leaky_relu(self.bn(x), 0.01)


class SqueezeExcite(nn.Module):
    """Channel attention: the mean over the picture, two 1x1 convolutions, a sigmoid."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // reduction), 1, bias=False)
        self.fc2 = nn.Conv2d(max(1, channels // reduction), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(weight))))


class BottleneckIR(nn.Module):
    """Improved residual unit of ArcFace; with `reduction` it is the squeeze-and-excitation unit of IR-SE-50."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, reduction: int | None = None) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = None if inputs == outputs else nn.Sequential(ShortcutConv2d(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        if reduction is not None:
            layers.append(SqueezeExcite(outputs, reduction))
        self.res_layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        if self.shortcut_layer is not None:
            shortcut = self.shortcut_layer(x)
        else:  # a max pooling with a window of one pixel is a plain stride
            shortcut = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return self.res_layer(x) + shortcut
