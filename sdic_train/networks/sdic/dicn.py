"""DICN, the discrepancy information compensation network: discrepancy map -> enhanced code and enhanced feature (Section 3.3)."""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.networks.layers import BasicConv, EqualConv2d, ScaledLeakyReLU


class CodeAffine(nn.Module):
    """Reads a scale and a shift per style row off the discrepancy (Eq. 4)."""

    def __init__(self, inputs: int, hidden: int, rows: int) -> None:
        super().__init__()
        self.sen = nn.Sequential(nn.Conv1d(inputs, hidden, 1), nn.BatchNorm1d(hidden), nn.LeakyReLU(), nn.Conv1d(hidden, rows, 1))
        self.att, self.att2 = self._branch(rows), self._branch(rows)

    @staticmethod
    def _branch(rows: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv1d(rows, rows, 3, padding=1), nn.BatchNorm1d(rows), nn.LeakyReLU(), nn.Conv1d(rows, rows, 1, bias=False)
        )

    def forward(self, condition: Tensor, latent: Tensor) -> Tensor:
        """condition [N, inputs, C], latent [N, L, C] -> enhanced latent code [N, L, C]."""
        condition = self.sen(condition)
        return self.att(condition) * latent + latent + self.att2(condition)


class DICN(nn.Module):
    """discrepancy [N, 3, S, S], layer-7 feature [N, K, 64, 64], latent [N, L, C] -> enhanced latent code and the residual P of Eq. 5."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes, channels = config.discrepancy, config.sizes["K"]
        stem = sizes.stem[0]
        self.conv_layer1 = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        self.semantic = nn.Sequential(*self._descent(config))
        self.fusion = sizes.fusion
        if self.fusion == "affine":
            self.scale, self.shift = self._head(channels, channels // 2), self._head(channels, channels // 2)
        else:
            self.att = self._head(channels, channels)
        rows = sizes.shift_rows
        self.condition_shift3 = nn.Sequential(EqualConv2d(3, rows, 3, padding=1), ScaledLeakyReLU(), EqualConv2d(rows, rows, 3, padding=1))
        self.style_width = config.style_width
        self.aff1d = CodeAffine(config.condition, 4 * rows, config.rows)

    @staticmethod
    def _descent(config: ModelConfig) -> list[nn.Module]:
        """Stride-2 steps from S to 64, each followed by a plain convolution; the last one widens to K channels."""
        steps = int(log2(config.working // FEATURE_SIZE))
        inputs = config.discrepancy.stem[0]
        layers: list[nn.Module] = []
        for step in range(max(steps, 1)):
            outputs = config.sizes["K"] if step >= steps - 1 else config.discrepancy.stem[1]
            layers.append(BasicConv(inputs, outputs, 3, 2 if steps else 1, 1))
            layers.append(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False))
            inputs = outputs
        return layers

    @staticmethod
    def _head(channels: int, hidden: int) -> nn.Sequential:
        """Two of these with half the hidden channels have as many weights as one with all."""
        return nn.Sequential(BasicConv(channels, hidden, 3, 1, 1), nn.Conv2d(hidden, channels, 3, 1, 1, bias=False))

    def silence(self) -> None:
        """Sets the last layers to zero, so that the residual is zero and the enhanced code is the code."""
        for layers in (*((self.scale, self.shift) if self.fusion == "affine" else (self.semantic,)), self.aff1d.att, self.aff1d.att2):
            for weight in layers[-1].parameters():
                nn.init.zeros_(weight)

    def _residual(self, details: Tensor, feature: Tensor) -> Tensor:
        """Eq. 5, or a scale and a shift of the feature in its place: (1 + scale) * feature + shift is feature + residual."""
        if self.fusion == "affine":
            return self.scale(details) * feature + self.shift(details)
        return torch.sigmoid(self.att(details + feature)) * details

    def forward(self, discrepancy: Tensor, feature: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """-> latent_enhanced [N, L, C], residual [N, K, 64, 64]."""
        residual = self._residual(self.semantic(self.conv_layer1(discrepancy)), feature)
        condition = self.condition_shift3(discrepancy)
        if condition.shape[-1] != FEATURE_SIZE:
            condition = F.interpolate(condition, size=(FEATURE_SIZE, FEATURE_SIZE), mode="bilinear", align_corners=False)
        condition = condition.reshape(condition.shape[0], -1, self.style_width)
        return self.aff1d(condition, latent), residual
