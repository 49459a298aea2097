"""LPIPS (Zhang et al. 2018) on AlexNet, from the published weight files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.files import load_container, unwrapped

# AlexNet's convolutions: index in `features`, inputs, outputs, kernel, stride, padding, and whether a pooling comes before it.
CONVOLUTIONS = (
    (0, 3, 64, 11, 4, 2, False),
    (3, 64, 192, 5, 1, 2, True),
    (6, 192, 384, 3, 1, 1, True),
    (8, 384, 256, 3, 1, 1, False),
    (10, 256, 256, 3, 1, 1, False),
)
SMALLEST = 32  # pixels of a picture's sides, of which AlexNet has a feature left
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the input on [-1, 1]


class LPIPS(nn.Module):
    """Learned perceptual distance, version 0.1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        for index, inputs, outputs, kernel, stride, padding, _ in CONVOLUTIONS:
            self.features[str(index)] = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.weights = nn.ParameterList(torch.ones(outputs) for _, _, outputs, *_ in CONVOLUTIONS)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def levels(self, picture: Tensor) -> list[Tensor]:
        """The five activations, each pixel's feature vector at unit length."""
        x, found = (picture - self.mean) / self.deviation, []
        for index, *_, pooled in CONVOLUTIONS:
            x = F.relu(self.features[str(index)](F.max_pool2d(x, 3, 2) if pooled else x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [N, 3, H, W] in [-1, 1], 32 pixels or more -> [N]."""
        pairs = zip(self.levels(a), self.levels(b), self.weights, strict=True)
        return torch.stack([((x - y).square() * weight[:, None, None]).sum(1).mean((1, 2)) for x, y, weight in pairs]).sum(0)


def load_lpips(paths: Path) -> LPIPS:
    """LPIPS from "ALEXNET,LINEAR": torchvision's AlexNet file and LPIPS' own linear weights (v0.1, alex). Raises CheckpointError."""
    names = str(paths).split(",")
    if len(names) != 2:
        raise CheckpointError(
            f"the perceptual weights \"{paths}\" are not two files; give AlexNet's and LPIPS' linear weights with a comma between"
        )
    alexnet, linear = (_weights(Path(name.strip())) for name in names)
    network = LPIPS()
    state = dict(network.state_dict())
    for level, (index, *_) in enumerate(CONVOLUTIONS):
        for name in (f"features.{index}.weight", f"features.{index}.bias"):
            state[name] = _entry(alexnet, name, names[0])
        state[f"weights.{level}"] = _entry(linear, f"lin{level}.model.1.weight", names[1]).flatten()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f'the perceptual weights "{paths}" have other shapes than AlexNet\'s; download the files again') from error
    return network.eval()


def _weights(path: Path) -> dict[str, Any]:
    container = load_container(path)
    return unwrapped(path, container.get("state_dict", container))


def _entry(state: Mapping[str, Any], name: str, path: str) -> Tensor:
    if name not in state:
        raise CheckpointError(
            f'"{path}" has no "{name}", so it is not the published weight file; give AlexNet\'s first, LPIPS\' linear weights second'
        )
    return state[name].float()
