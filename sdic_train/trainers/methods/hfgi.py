"""Training of HFGI's aligner and consultation encoder (Wang et al. 2022): alignment is learned from warped distortion maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_train.networks.hfgi.model import HFGI, fuse
from sdic_train.trainers.compute import Compute
from sdic_train.trainers.methods.method import MethodRecipe, MethodTrainer


@dataclass(frozen=True)
class HFGIRecipe(MethodRecipe):
    """`narrow` divides the channels of the released networks."""

    align: float = 0.1  # mean absolute difference of the aligned and the unwarped distortion map
    distortion: float = 0.15  # how far the corners of a warped map move at most, as a share of half its side
    warped: float = 0.9  # the share of batches that are warped
    narrow: int = 1
    silent_start: bool = False  # let scale and shift start from zero, so that the first inversions are the encoder's


class HFGITrainer(MethodTrainer):
    """Aligner and consultation encoder; e4e and the generator stay as they are."""

    kind = "hfgi"
    losses = ("total", "l2", "perceptual", "identity", "align")
    parts = ("encoder", "generator", "aligner", "consultation")
    drifting = ("encoder",)

    def __init__(self, model: HFGI, recipe: HFGIRecipe, pictures: Any, compute: Compute, steps: int, *judges: Any) -> None:
        super().__init__(model, [model.aligner, model.consultation], recipe, pictures, compute, steps, *judges)

    def drawn(self, random: torch.Generator) -> tuple[Tensor]:
        """One perspective for the whole batch, [batch, 8]."""
        moved = torch.rand(4, 2, generator=random) * self.recipe.distortion * (torch.rand((), generator=random) < self.recipe.warped)
        return (perspective(CORNERS, CORNERS * (1 - moved)).expand(self.compute.batch, -1),)

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        model, (warp,) = self.model, rest
        with self.compute.autocast():
            with torch.no_grad():
                latent = model.encode(image).float()
                feature, rgb = model.generator.head(latent)
                reconstruction = model.generator.preview(feature, rgb, latent).float()
                distortion = image - reconstruction
                displaced = warped(distortion, warp)
            aligned = model.aligner(displaced, reconstruction)
            scale, shift = model.consultation(aligned)
            picture = model.generator.tail(fuse(feature, scale, shift), rgb, latent)
        terms = self.compare(image, picture)
        if self.recipe.align:
            terms["align"] = F.l1_loss(self.seen(aligned).float(), self.seen(distortion))
        return terms


CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def perspective(source: Tensor, target: Tensor) -> Tensor:
    """The perspective that takes four points `target` [4, 2] to `source`, as eight numbers (Heckbert 1989, 2.2): a point (x, y) goes
    to ((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1))."""
    rows = []
    for (x, y), (u, v) in zip(target.double().tolist(), source.double().tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, u], [0, 0, 0, x, y, 1, -v * x, -v * y, v]]
    system = torch.tensor(rows, dtype=torch.float64)
    return torch.linalg.solve(system[:, :8], system[:, 8]).float()


def warped(x: Tensor, numbers: Tensor) -> Tensor:
    """x [N, C, H, W] read at the points that each picture's perspective [N, 8] gives, bilinearly, zeros outside; in float32, because
    bfloat16 would move the points by up to a quarter of a pixel of 128."""
    with torch.autocast(x.device.type, enabled=False):
        return F.grid_sample(x, _points(x, numbers), mode="bilinear", padding_mode="zeros", align_corners=False)


def _points(x: Tensor, numbers: Tensor) -> Tensor:
    """Where each picture's perspective takes the pixels of `x`: [N, H, W, 2] in [-1, 1]."""
    count, _, height, width = x.shape
    axis_y, axis_x = ((torch.arange(size, device=x.device) + 0.5) * 2 / size - 1 for size in (height, width))
    y, x_axis = torch.meshgrid(axis_y, axis_x, indexing="ij")
    points = torch.stack((x_axis, y, torch.ones_like(y)), 2).view(1, -1, 3)
    matrix = torch.cat((numbers, torch.ones(count, 1, device=x.device)), 1).view(count, 3, 3)
    found = points @ matrix.transpose(1, 2)
    return (found[:, :, :2] / found[:, :, 2:]).view(count, height, width, 2)
