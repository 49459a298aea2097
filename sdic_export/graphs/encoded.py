"""The stages of e4e, pSp, ReStyle and HFGI as modules that export well; what they share with SDIC is in `sdic`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdic_export.graphs.folded import constant
from sdic_export.graphs.parts import FusedEntranceGraph, tail_modules
from sdic_export.graphs.sdic import EncoderGraph, HeadGraph, PreviewGraph, TailGraph
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.hfgi.consultation import Aligner, Consultation
from sdic_train.networks.hfgi.model import HFGI, fuse
from sdic_train.networks.restyle import ReStyle


class PlainTailGraph(TailGraph):
    """feature, rgb, latent -> picture."""

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.picture(feature, rgb, latent)


class FusedTailGraph(TailGraph):
    """feature, scale, shift, rgb, latent -> picture."""

    def forward(self, feature: Tensor, scale: Tensor, shift: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.picture(fuse(feature, scale, shift), rgb, latent)


class StartGraph(nn.Module):
    """image -> latent, reconstruction: those of the mean latent code, for as many pictures."""

    mean_code: Tensor
    mean_picture: Tensor

    def __init__(self, model: ReStyle) -> None:
        super().__init__()
        constant(self, "mean_code", model.latent_avg[None])
        constant(self, "mean_picture", model.average)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        count = image.shape[0]
        return self.mean_code.expand(count, -1, -1), self.mean_picture.expand(count, -1, -1, -1)


class StepGraph(EncoderGraph):
    """image, reconstruction, previous -> latent."""

    def forward(self, image: Tensor, reconstruction: Tensor, previous: Tensor) -> Tensor:  # type: ignore[override]
        offset: Tensor = self.encoder(torch.cat((image, reconstruction), 1))
        return previous + offset


class ShrinkGraph(nn.Module):
    """picture -> reconstruction: the means of its tiles."""

    def __init__(self, model: ReStyle) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(model.config.resolution // model.config.working)

    def forward(self, picture: Tensor) -> Tensor:
        reconstruction: Tensor = self.pool(picture)
        return reconstruction


class DifferenceGraph(nn.Module):
    """image, reconstruction -> distortion."""

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        return image - reconstruction


class AlignerGraph(nn.Module):
    """distortion, reconstruction -> aligned."""

    def __init__(self, aligner: Aligner) -> None:
        super().__init__()
        self.aligner = aligner

    def forward(self, distortion: Tensor, reconstruction: Tensor) -> Tensor:
        aligned: Tensor = self.aligner(distortion, reconstruction)
        return aligned


class ConsultationGraph(nn.Module):
    """aligned -> scale, shift."""

    def __init__(self, consultation: Consultation) -> None:
        super().__init__()
        self.consultation = consultation

    def forward(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.consultation(aligned)
        return scale, shift


def encoded_modules(model: Encoded) -> dict[str, nn.Module]:
    """e4e and pSp: stage -> module; parameters are shared with the model where nothing is folded."""
    own = {"encoder": EncoderGraph(model), "generator_head": HeadGraph(model), "generator_tail": PlainTailGraph(model)}
    return evaluated({**own, **tail_modules(model.generator)})


def restyle_modules(model: ReStyle) -> dict[str, nn.Module]:
    """ReStyle in both forms."""
    ends = {"start": StartGraph(model), "shrink": ShrinkGraph(model)}
    return {**encoded_modules(model), **evaluated({**ends, "encoder": StepGraph(model)})}


def hfgi_modules(model: HFGI) -> dict[str, nn.Module]:
    """HFGI."""
    own = {
        "generator_preview": PreviewGraph(model),
        "difference": DifferenceGraph(),
        "aligner": AlignerGraph(model.aligner),
        "consultation": ConsultationGraph(model.consultation),
        "generator_tail": FusedTailGraph(model),
        **tail_modules(model.generator, FusedEntranceGraph),
    }
    return {**encoded_modules(model), **evaluated(own)}


def evaluated(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: module.eval() for name, module in modules.items()}
