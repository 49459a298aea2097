"""Training of the portrait reader: pictures to the parameters they were drawn from. Its features and its identity judge the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from sdic_runtime.errors import ArgumentError
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.portrait_reader import READER_FORMAT, READING_SIZE, PortraitReader
from sdic_train.trainers.base import Trainer, wide, widen
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.pictures import scaled


@dataclass(frozen=True)
class ReaderRecipe:
    """Rates; `grain` is the largest noise added to a picture, as a share of its range."""

    rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: int = 50
    decay: float = 0.6
    grain: float = 0.03
    seed: int = 0


class ReaderTrainer(Trainer):
    """A `PortraitReader` by mean squared error on the parameters scaled to -1..1."""

    kind = "reader"
    recorded = False
    kept = ("reader", "optimizer")
    lowest_rate = 0.02
    losses = ("parameters",)

    def __init__(self, recipe: ReaderRecipe, pictures: PictureSet, compute: Compute, steps: int) -> None:
        if pictures.values is None:
            raise ArgumentError("a reader is trained on labelled portraits; draw them with `sdic-train dataset`")
        super().__init__(None, recipe, pictures, compute, steps)
        torch.manual_seed(recipe.seed)
        self.reader = widen(PortraitReader()).to(compute.device)
        self.values = torch.from_numpy(pictures.values)
        self.optimizer = torch.optim.AdamW(self.reader.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)

    def train_step(self, losses: Losses) -> None:
        recipe, compute, random = self.recipe, self.compute, self.random()
        self.begin(self.optimizer, recipe.rate)
        index = torch.randint(len(self.pictures), (compute.batch,), generator=random)
        images = scaled(self.pictures, index.numpy(), READING_SIZE)
        images += 2 * recipe.grain * torch.rand(len(images), 1, 1, 1, generator=random) * torch.randn(images.shape, generator=random)
        self.reader.train()
        for image, values in compute.parts(images, self.values[index]):
            with compute.autocast():
                found = self.reader.normalised(wide(image)).float()
            loss = F.mse_loss(found, self.reader.targets(values))
            compute.backward(loss)
            losses.add(parameters=loss)
        self.update(self.optimizer, self.reader)

    def save(self, path: Path) -> None:
        from sdic_train.checkpoints.files import write_safetensors

        weights = {name: value.cpu().contiguous() for name, value in self.reader.state_dict().items()}
        write_safetensors(path, weights, {"format": READER_FORMAT})


@torch.no_grad()
def explained(reader: PortraitReader, pictures: PictureSet, batch: int = 64) -> np.ndarray:
    """The share of each parameter's variance that the reader explains; [parameters]."""
    parts = np.split(np.arange(len(pictures)), range(batch, len(pictures), batch))
    found = [reader.normalised(scaled(pictures, part, READING_SIZE)) for part in parts]
    wanted = reader.targets(torch.from_numpy(pictures.values))
    return (1 - (torch.cat(found) - wanted).square().mean(0) / wanted.var(0)).numpy()
