"""DIPN, the discrepancy information prediction network: two 2D hourglass branches and a 3D hourglass (Section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdic_train.config import DiscrepancyConfig, ModelConfig
from sdic_train.networks.layers import BasicConv, BottleneckIR


class FeatureBranch(nn.Module):
    """The descending half of a 2D hourglass; one for the picture, one for its reconstruction."""

    def __init__(self, config: DiscrepancyConfig) -> None:
        super().__init__()
        full, half, quarter, eighth = config.scales
        self.fe1 = BasicConv(3, full, 3, 1, 1)
        self.fe2 = BasicConv(full, config.middle, 3, 2, 1)
        self.fe3 = BasicConv(config.middle, half, 3, 1, 1)
        self.fe4 = BasicConv(half, quarter, 3, 2, 1)
        self.fe5 = BasicConv(quarter, eighth, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[N, 3, S, S] -> features at scales 1, 1/2, 1/4, 1/8."""
        full = self.fe1(x)
        half = self.fe3(self.fe2(full))
        quarter = self.fe4(half)
        return full, half, quarter, self.fe5(quarter)


class UpBlock(nn.Module):
    """Transposed convolution to twice the size, concatenation with the skip, convolution."""

    def __init__(self, inputs: int, added: int, skip: int) -> None:
        super().__init__()
        self.conv1 = BasicConv(inputs, added, 4, 2, 1, transposed=True)
        self.conv2 = BasicConv(added + skip, added + skip, 3, 1, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv2(torch.cat((self.conv1(x), skip), 1))


class FeatureUp(nn.Module):
    """The ascending half of the 2D hourglass; one set of weights serves both branches."""

    def __init__(self, config: DiscrepancyConfig) -> None:
        super().__init__()
        full, half, quarter, eighth = config.scales
        self.deconv8_4 = UpBlock(eighth, config.up[0], quarter)
        self.deconv4_2 = UpBlock(config.up[0] + quarter, config.up[1], half)
        self.deconv2_1 = UpBlock(config.up[1] + half, config.up[2], full)
        self.conv4 = BasicConv(config.up[2] + full, config.up[2] + full, 3, 1, 1)

    def forward(self, scales: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """-> features at scales 1, 1/2, 1/4; the latter two are the multi-resolution context."""
        full, half, quarter, eighth = scales
        quarter = self.deconv8_4(eighth, quarter)
        half = self.deconv4_2(quarter, half)
        return self.conv4(self.deconv2_1(half, full)), half, quarter


class ContextFusion(nn.Module):
    """Adds 2D context to a volume where an attention over both asks for it (Eq. 1 and 2)."""

    def __init__(self, volume: int, context: int) -> None:
        super().__init__()
        self.semantic = nn.Sequential(BasicConv(context, context // 2, 1), nn.Conv2d(context // 2, volume, 1))
        self.att = nn.Sequential(BasicConv(volume, volume, (1, 5, 5), 1, (0, 2, 2), volume=True), nn.Conv3d(volume, volume, 1, bias=False))
        self.agg = BasicConv(volume, volume, (1, 5, 5), 1, (0, 2, 2), volume=True)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        """volume [N, V, D, H, W], context [N, X, H, W] -> [N, V, D, H, W]."""
        context = self.semantic(context).unsqueeze(2)
        attention = torch.sigmoid(self.att(context + volume))
        return self.agg(attention * context + volume)


class Hourglass3d(nn.Module):
    """The 3D hourglass over the volume of concatenated descriptors."""

    def __init__(self, config: DiscrepancyConfig) -> None:
        super().__init__()
        stem, *widths = config.volume
        _, half, quarter, eighth = config.scales

        def down(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(BasicConv(inputs, outputs, 3, 2, 1, volume=True), BasicConv(outputs, outputs, 3, 1, 1, volume=True))

        def aggregate(width: int) -> nn.Sequential:
            return nn.Sequential(
                BasicConv(2 * width, width, 1, volume=True), *(BasicConv(width, width, 3, 1, 1, volume=True) for _ in range(2))
            )

        def up(inputs: int, outputs: int, norm: bool = True) -> BasicConv:
            return BasicConv(inputs, outputs, 4, 2, 1, volume=True, transposed=True, norm=norm)

        self.conv1, self.conv2, self.conv3 = down(stem, widths[0]), down(widths[0], widths[1]), down(widths[1], widths[2])
        self.conv3_up, self.conv2_up, self.conv1_up = up(widths[2], widths[1]), up(widths[1], widths[0]), up(widths[0], 1, norm=False)
        self.agg_0, self.agg_1 = aggregate(widths[1]), aggregate(widths[0])
        self.CGF_32 = ContextFusion(widths[2], eighth)
        self.CGF_16 = ContextFusion(widths[1], config.up[0] + quarter)
        self.CGF_8 = ContextFusion(widths[0], config.up[1] + half)

    def forward(self, volume: Tensor, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        """volume [N, V, D, S, S] and the context at scales 1/2, 1/4, 1/8 -> [N, D, S, S]."""
        first = self.conv1(volume)
        second = self.conv2(first)
        third = self.CGF_32(self.conv3(second), eighth)
        second = self.CGF_16(self.agg_0(torch.cat((self.conv3_up(third), second), 1)), quarter)
        first = self.CGF_8(self.agg_1(torch.cat((self.conv2_up(second), first), 1)), half)
        return self.conv1_up(first).squeeze(1)


class DIPN(nn.Module):
    """image and reconstruction [N, 3, S, S] in [-1, 1] -> discrepancy map [N, 3, S, S]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.discrepancy
        depth, width = 2 * sizes.descriptor, sizes.up[2] + sizes.scales[0]
        self.feature1, self.feature2 = FeatureBranch(sizes), FeatureBranch(sizes)
        self.feature_up = FeatureUp(sizes)
        self.conv = BasicConv(width, depth, 3, 1, 1)
        self.desc = nn.Conv2d(depth, sizes.descriptor, 1)
        self.corr_stem = BasicConv(1, sizes.volume[0], 3, 1, 1, volume=True)
        self.hourglass_fusion = Hourglass3d(sizes)
        self.rgb1 = nn.Sequential(BasicConv(depth, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.rgb = nn.Sequential(BottleneckIR(16, 3), BottleneckIR(3, 3), BottleneckIR(3, 3))

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        scales = self.feature1(image)
        full, half, quarter = self.feature_up(scales)
        other, _, _ = self.feature_up(self.feature2(reconstruction))
        volume = torch.cat((self.desc(self.conv(full)), self.desc(self.conv(other))), 1).unsqueeze(1)
        volume = self.hourglass_fusion(self.corr_stem(volume), half, quarter, scales[3])
        return self.rgb(self.rgb1(volume))
