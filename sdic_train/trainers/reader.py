"""Training of the portrait reader: pictures to the parameters they were drawn from. Its features and its identity judge the demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import SdicError
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.portrait_reader import READER_FORMAT, READING_SIZE, PortraitReader
from sdic_train.trainers.engine import Engine, Losses
from sdic_train.trainers.layout import widen
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


class ReaderTrainer:
    """A `PortraitReader` by mean squared error on the parameters scaled to -1..1."""

    losses: tuple[str, ...] = ("parameters",)

    def __init__(self, recipe: ReaderRecipe, pictures: PictureSet, engine: Engine, steps: int) -> None:
        if pictures.values is None:
            raise SdicError("a reader is trained on labelled portraits; draw them with `sdic-train dataset`")
        self.recipe, self.pictures, self.engine, self.steps = recipe, pictures, engine, steps
        torch.manual_seed(recipe.seed)
        self.reader = PortraitReader()
        widen(self.reader).to(engine.device)
        self.values = torch.from_numpy(pictures.values)
        self.optimizer = torch.optim.AdamW(self.reader.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        self.step = 0

    def advance(self) -> dict[str, float]:
        recipe, engine = self.recipe, self.engine
        rise = min(1.0, (self.step + 1) / max(1, recipe.warm_up))
        fall = min(1.0, max(0.02, (self.steps - self.step) / max(1.0, recipe.decay * self.steps)))
        self.optimizer.param_groups[0]["lr"] = recipe.rate * rise * fall
        random = torch.Generator().manual_seed((recipe.seed << 32) + self.step)
        index = torch.randint(len(self.pictures), (engine.options.batch,), generator=random)
        images = scaled(self.pictures, index.numpy(), READING_SIZE)
        images += 2 * recipe.grain * torch.rand(len(images), 1, 1, 1, generator=random) * torch.randn(images.shape, generator=random)
        self.reader.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = Losses(engine)
        for image, values in engine.parts(images, self.values[index]):
            with engine.autocast():
                found = self.reader.normalised(image.contiguous(memory_format=torch.channels_last)).float()
            loss = F.mse_loss(found, self.reader.targets(values))
            engine.backward(loss)
            losses.add(parameters=loss)
        engine.average_gradients(self.reader.parameters())
        self.optimizer.step()
        self.step += 1
        return losses.means()

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "reader": self.reader.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def describe(self) -> dict[str, Any]:
        return {"kind": "reader", "steps": self.steps, "batch": self.engine.options.batch, **asdict(self.recipe)}

    def sheet(self) -> None:
        """A reader draws nothing."""

    def save(self, path: Path) -> None:
        from sdic_train.checkpoints.files import write_safetensors

        write_safetensors(
            path, {name: value.cpu().contiguous() for name, value in self.reader.state_dict().items()}, {"format": READER_FORMAT}
        )


@torch.no_grad()
def explained(reader: PortraitReader, pictures: PictureSet, batch: int = 64) -> np.ndarray:
    """The share of each parameter's variance that the reader explains; [parameters]."""
    found: list[Tensor] = [
        reader.normalised(scaled(pictures, np.arange(start, min(start + batch, len(pictures))), READING_SIZE))
        for start in range(0, len(pictures), batch)
    ]
    wanted = reader.targets(torch.from_numpy(pictures.values))
    return (1 - (torch.cat(found) - wanted).square().mean(0) / wanted.var(0)).numpy()
