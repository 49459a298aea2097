"""The networks of each method but SDIC, loaded from the files that users hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import Checkpoint, completed, load_model, read_checkpoint
from sdic_train.config import ModelConfig
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.hfgi.consultation import HFGISizes
from sdic_train.networks.hfgi.model import HFGI
from sdic_train.networks.restyle import ReStyle
from sdic_train.networks.sfe.backbone import SFESizes
from sdic_train.networks.sfe.model import SFE, SFEInverter

# `others`: further files that belong to the model, such as the generator that its mean latent code is of. All raise SdicError for a
# file of another kind, or one that lacks something.


def load_encoded(path: Path, domain: str | None = None, others: Sequence[Path] = (), kind: str = "e4e") -> Encoded:
    """e4e or pSp (`kind`), in evaluation mode."""
    return load_model(read_checkpoint(path, domain, kind), Encoded, others)


def load_restyle(path: Path, domain: str | None = None, others: Sequence[Path] = (), kind: str = "ReStyle-pSp") -> ReStyle:
    """ReStyle in one of its forms, in evaluation mode, with its first reconstruction."""
    checkpoint = read_checkpoint(path, domain, kind)
    model = load_model(checkpoint, ReStyle, others)
    model.iterations = checkpoint.iterations or model.iterations
    model.prepare()
    return model


def load_hfgi(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> HFGI:
    """HFGI, in evaluation mode."""
    checkpoint = read_checkpoint(path, domain, "HFGI")
    sizes = hfgi_sizes(checkpoint.state)

    def build(config: ModelConfig) -> HFGI:
        return HFGI(config, sizes)

    return load_model(checkpoint, build, others)


def hfgi_sizes(state: dict[str, Tensor]) -> HFGISizes:
    """Read off the shapes of the weights of ADA and of the consultation encoder."""

    def outputs(part: str, groups: Sequence[str]) -> tuple[int, ...]:
        return tuple(state[f"{part}.{name}"].shape[0] for name in groups if f"{part}.{name}" in state)

    def path(layers: Sequence[int]) -> list[str]:
        return ["conv_layer1.0.weight", *(f"conv_layer{layer}.0.res_layer.1.weight" for layer in layers)]

    return HFGISizes(
        aligner=outputs("aligner", path((2, 3, 4))),
        ascent=outputs("aligner", [f"dconv_layer{layer}.0.res_layer.1.weight" for layer in (1, 2, 3)]),
        consultation=outputs("consultation", path((2, 3))),
    )


def load_sfe(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> SFE:
    """StyleFeatureEditor, in evaluation mode. The file of training holds everything, the light one needs `others`: a generator's file with
    its mean latent code, and e4e's; what these hold is taken in place of the former's own."""
    checkpoint = completed(read_checkpoint(path, domain, "SFE"), others)
    return load_model(checkpoint, lambda config: SFE(config, sfe_sizes(checkpoint)))


def load_sfe_inverter(path: Path, domain: str | None = None, others: Sequence[Path] = ()) -> SFEInverter:
    """The first phase of StyleFeatureEditor, in evaluation mode; `others`: a generator's file."""
    checkpoint = completed(read_checkpoint(path, domain, "SFE-inverter"), others)
    return load_model(checkpoint, lambda config: SFEInverter(config, sfe_sizes(checkpoint)))


def sfe_sizes(checkpoint: Checkpoint) -> SFESizes:
    """Read off the shapes of the weights of the backbone and the fuser."""
    state, backbone = checkpoint.state, "inverter.fs_backbone."
    blocks = [[name for name in state if re.fullmatch(rf"{backbone}block_{number}\.\d+\.conv2\.weight", name)] for number in range(1, 5)]
    if not all(blocks):
        raise CheckpointError(f'"{checkpoint.path}" lacks blocks of its backbone, so it is not complete; download it again')
    return SFESizes(
        widths=tuple(state[names[0]].shape[0] for names in blocks),
        units=tuple(len(names) for names in blocks),
        body=sum(re.fullmatch(r"inverter\.fuser\.body\.\d+\.body\.1\.weight", name) is not None for name in state),
    )
