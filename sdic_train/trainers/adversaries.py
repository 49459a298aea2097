"""Discriminators beside a training: of latent codes (e4e), and of pictures (StyleFeatureEditor)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import EqualLinear
from sdic_train.trainers.compute import Compute, Losses


class LatentDiscriminator(nn.Module):
    """Tells mapped codes from encoded ones: four equalized linear layers; [N, C] -> [N, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = [EqualLinear(width, width, rate=0.01, activation=True) for _ in range(3)]
        self.layers = nn.Sequential(*hidden, EqualLinear(width, 1, rate=0.01))

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent)


class Adversary:
    """A discriminator with the logistic loss and R1, and its optimizer. It is part of a run's state."""

    def __init__(self, network: nn.Module, compute: Compute, rate: float, betas: tuple[float, float], r1: float, every: int) -> None:
        self.network, self.compute, self.r1, self.every = network.to(compute.device), compute, r1, every
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, betas=betas, fused=compute.device.type == "cuda" or None)

    def term(self, made: Tensor) -> Tensor:
        """How far `made` is from passing as real."""
        return F.softplus(-self.network(made)).mean()

    def advance(self, real: Tensor, made: Tensor, step: int, losses: Losses, name: str, share: float = 1.0) -> None:
        """One step of the discriminator on this process' whole share of a batch; neither input gets a gradient. `share`: how many of `made`
        this process has, times the mean number of all processes; it may have none."""
        self.optimizer.zero_grad(set_to_none=True)
        score = F.softplus(-self.network(real)).mean()
        if len(made):
            score = score + F.softplus(self.network(made.detach())).mean() * share
        losses.add(**{name: score * self.compute.accumulate})
        if self.r1 and step % self.every == 0:
            probe = real.detach().requires_grad_(True)
            slope = torch.autograd.grad(self.network(probe).sum(), probe, create_graph=True)[0]
            score = score + self.r1 / 2 * self.every * slope.square().flatten(1).sum(1).mean()
        score.backward()
        self.compute.average_gradients(self.network.parameters())
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
