"""What is evaluated: a bundle or a checkpoint as a pipeline, what its method starts from, and the paper's ablation of the order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.decoding.shapes import SQUASH
from sdic_runtime.edits import Direction
from sdic_runtime.pictures import fit, working_rows
from sdic_runtime.pipeline import BASELINE, Pipeline
from sdic_runtime.program import IMAGE, INVERT, PICTURE, run
from sdic_runtime.tools.scores import judged
from sdic_train.networks.sdic.model import SDIC
from sdic_train.pipelines import only

Pixels = NDArray[np.float32]  # [N, 3, R, R], on the host
# Methods whose program "baseline" is another method.
BASELINES = {"sdic": "e4e", "hfgi": "e4e"}
NAMES = {
    "sdic": "SDIC", "psp": "pSp", "restyle-psp": "ReStyle (pSp)", "restyle-e4e": "ReStyle (e4e)", "hfgi": "HFGI", "clcae": "CLCAE",
    "hyperstyle": "HyperStyle", "fs": "FS", "sfe": "StyleFeatureEditor", "sfe-inverter": "StyleFeatureEditor, first phase", "pti": "PTI",
}  # fmt: skip


class Inverter(Protocol):
    """One row of the table. Its steps are apart, so that what a user waits for can be timed."""

    def image(self, pictures: NDArray[np.uint8]) -> Any:
        """What the networks see of pictures [N, H, W, 3] of any size."""

    def target(self, pictures: NDArray[np.uint8]) -> Tensor:
        """What inversions of them are judged against, [N, 3, h, width] in [-1, 1]."""

    def invert(self, image: Any) -> Any:
        """The inversion, with its picture on the host."""

    def picture(self, inverted: Any) -> Tensor:
        """The picture of an inversion as it is judged, [N, 3, h, width] in [-1, 1]."""

    def edit(self, inverted: Any, direction: Direction, strength: float) -> Pixels:
        """The picture of an edit."""

    def shown(self, pixels: Pixels) -> Tensor:
        """A generated picture as it is judged."""


@dataclass
class Evaluated:
    """A pipeline; its pictures are judged at `width` pixels, without the bars of a letterboxed domain."""

    pipeline: Pipeline
    width: int

    def image(self, pictures: NDArray[np.uint8]) -> Pixels:
        return np.concatenate([self.pipeline.prepare(picture, SQUASH) for picture in pictures])

    def target(self, pictures: NDArray[np.uint8]) -> Tensor:
        from PIL import Image

        manifest = self.pipeline.bundle.manifest
        sizes = {**self.pipeline.sizes, "S": self.width}
        first, end = working_rows(sizes, manifest.visible_rows)
        seen = [fit(Image.fromarray(picture), sizes, manifest.visible_rows, manifest.input.resampling) for picture in pictures]
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(seen)[:, :, first:end]))

    def invert(self, image: Pixels) -> Any:
        inversion = self.pipeline.invert(image)
        _ = inversion.pixels  # waits for the device
        return inversion

    def picture(self, inverted: Any) -> Tensor:
        return self.shown(inverted.pixels)

    def edit(self, inverted: Any, direction: Direction, strength: float) -> Pixels:
        return self.pipeline.edit(inverted, direction, strength=strength).pixels

    def shown(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(judged(pixels, self.pipeline.sizes, self.pipeline.model.visible_rows, self.width)))


class Baseline(Evaluated):
    """What the method starts from, the program "baseline": only the steps that it needs run, so that their time alone is measured."""

    def invert(self, image: Pixels) -> Any:
        backend, manifest = self.pipeline.backend, self.pipeline.bundle.manifest
        baseline = manifest.programs[BASELINE]
        tensors = {IMAGE: backend.upload(image)}
        tensors |= run(only(manifest.programs[INVERT], set(baseline.takes) - set(baseline.zeros)), backend, tensors)
        tensors |= {name: backend.upload(np.zeros(manifest.shape(name, len(image)), np.float32)) for name in baseline.zeros}
        return backend.download(backend.run_program(BASELINE, {name: tensors[name] for name in baseline.takes})[PICTURE])

    def picture(self, inverted: Any) -> Tensor:
        return self.shown(inverted)


@dataclass
class EditFirst(Evaluated):
    """SDIC that edits the encoder's code and then compensates, the paper's ablation, instead of compensating and then editing."""

    model: SDIC

    def invert(self, image: Pixels) -> Any:
        return super().invert(image), torch.from_numpy(image)

    def picture(self, inverted: Any) -> Tensor:
        return super().picture(inverted[0])

    @torch.no_grad()
    def edit(self, inverted: Any, direction: Direction, strength: float) -> Pixels:
        inversion, image = inverted
        latent, generator = inversion.tensors["latent"].host(), self.model.generator
        device = next(self.model.parameters()).device
        moved = torch.from_numpy((latent + strength * direction.offset(latent)).astype(np.float32)).to(device)
        feature, rgb = generator.head(moved)
        discrepancy = self.model.dipn(image.to(device), generator.preview(feature, rgb, moved))
        enhanced, residual = self.model.dicn(discrepancy, feature, moved)
        pixels: Pixels = generator.tail(feature, generator.head(enhanced)[1], enhanced, residual).cpu().numpy()
        return pixels
