"""Convolutions whose weights ONNX Runtime reads where the file is mapped, instead of copying them when it loads.

It copies the weights of every 2D convolution into its blocked layout, which for the large weights of e4e's style blocks takes most of a
load and as much memory again. A 3D convolution of depth one is the same matrix product, and reads its weights as they lie in the file.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.folded import constant

HEAVY = 1 << 18  # weights of a layer from which a copy costs something
# By measurement (ONNX Runtime 1.32, Zen 4, one thread, 512 channels, stride two), in ms in the blocked layout and so: 13.7 -> 12.9 for
# 16 x 16 pixels, 3.5 -> 3.2 for 8 x 8, 1.4 -> .9 for 4 x 4, .9 -> .9 for 2 x 2. Above, the blocked layout gains.
MOST_PIXELS = 256


class MappedConv(nn.Conv2d):
    """`layer` in this form: [N, I, H, W] -> [N, O, H', W']."""

    filters: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        stride, padding = cast("tuple[int, int]", layer.stride), cast("tuple[int, int]", layer.padding)
        kernel = cast("tuple[int, int]", layer.kernel_size)
        super().__init__(layer.in_channels, layer.out_channels, kernel, stride, padding, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        constant(self, "filters", layer.weight[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        (down, across), (above, left) = cast("tuple[int, int]", self.stride), cast("tuple[int, int]", self.padding)
        return F.conv3d(x.unsqueeze(2), self.filters, self.bias, (1, down, across), (0, above, left)).squeeze(2)


def is_heavy(layer: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Whether the convolution of a picture of `size` (H, W) has large weights for few pixels."""
    (down, across), ones = cast("tuple[int, int]", layer.stride), (1, 1)
    plain = layer.groups == 1 and layer.dilation == ones and not isinstance(layer.padding, str) and layer.padding_mode == "zeros"
    return plain and layer.weight.numel() >= HEAVY and (size[0] // down) * (size[1] // across) <= MOST_PIXELS
