"""Identity as a distance: 1 - cosine similarity of what a recognition network sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.files import load_container, unwrapped
from sdic_train.networks.recognition import FACE_SIZE, FaceNetwork, ResNet50

CROP = (35 / 256, 223 / 256, 32 / 256, 220 / 256)  # rows and columns of an aligned face that the loss of e4e and SDIC looks at
OBJECT_SIZE = 224
Network = TypeVar("Network", bound=nn.Module)
MOCO_PREFIX = "encoder_q."


class Identity(nn.Module, ABC):
    """1 - cosine similarity of the vectors of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def vectors(self, picture: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> unit vectors [N, C]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [N, 3, H, W] in [-1, 1] -> [N], 0 for the same."""
        return 1 - (self.vectors(a) * self.vectors(b)).sum(1)


class FaceIdentity(Identity):
    """For aligned faces, with an ArcFace or CurricularFace network: vectors [N, 512]."""

    def vectors(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        top, bottom, left, right = (round(share * size) for share, size in zip(CROP, (height, height, width, width), strict=True))
        return self.network(F.adaptive_avg_pool2d(picture[:, :, top:bottom, left:right], (FACE_SIZE, FACE_SIZE)))


class ObjectIdentity(Identity):
    """For any other domain, with a ResNet-50 trained by MoCo."""

    def vectors(self, picture: Tensor) -> Tensor:
        return self.network(F.interpolate(picture, size=(OBJECT_SIZE, OBJECT_SIZE), mode="nearest"))  # as in e4e's code


def load_identity(path: Path) -> nn.Module:
    """The identity distance of an IR-SE-50 (ArcFace), IR-101 (CurricularFace) or MoCo-v2 ResNet-50 file. Raises CheckpointError."""
    container = load_container(path)
    entries = container.get("state_dict", container).items()
    state = unwrapped(path, {name: value for name, value in entries if hasattr(value, "shape")})
    moco = {name.removeprefix(MOCO_PREFIX): value for name, value in state.items() if name.startswith(MOCO_PREFIX) and ".fc." not in name}
    if moco:
        return ObjectIdentity(_filled(ResNet50(), moco, path))
    if "input_layer.0.weight" not in state:
        raise CheckpointError(f'"{path}" is no recognition network known here; give IR-SE-50, IR-101 or MoCo-v2 ResNet-50 weights')
    depth = 101 if "body.48.res_layer.1.weight" in state else 50
    excitation = "body.0.res_layer.5.fc1.weight" in state
    return FaceIdentity(_filled(FaceNetwork(depth, excitation, "output_layer.4.weight" in state), state, path))


def _filled(network: Network, state: dict[str, Tensor], path: Path) -> Network:
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f'"{path}" lacks "{missing[0]}" and {len(missing) - 1} more weights; download it again')
    network.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    return network.eval()
