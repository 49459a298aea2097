"""The weight files that users hold: written here with the published names and shapes, in the old and the new format of torch.save, and
read; and what the networks then compute, against functions of those names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import SdicError
from sdic_train.losses.identity import FaceIdentity, ObjectIdentity, load_identity
from sdic_train.losses.lpips import load_lpips

Shapes = dict[str, tuple[int, ...]]
BODIES = {"IR-SE-50": (3, 4, 14, 3), "IR-101": (3, 13, 30, 3)}
ALEXNET = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


def norm(name: str, width: int, affine: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (width,), f"{name}.bias": (width,)} if affine else {}
    return shapes | {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}


def face_shapes(kind: str) -> Shapes:
    """model_ir_se50.pth and CurricularFace_Backbone.pth."""
    excitation = kind == "IR-SE-50"
    shapes: Shapes = {"input_layer.0.weight": (64, 3, 3, 3), **norm("input_layer.1", 64), "input_layer.2.weight": (64,)}
    shapes |= norm("output_layer.0", 512) | {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}
    shapes |= norm("output_layer.4", 512, affine=excitation)
    unit, inputs = 0, 64
    for width, units in zip((64, 128, 256, 512), BODIES[kind], strict=True):
        for _ in range(units):
            name = f"body.{unit}"
            if inputs != width:
                shapes |= {f"{name}.shortcut_layer.0.weight": (width, inputs, 1, 1), **norm(f"{name}.shortcut_layer.1", width)}
            shapes |= norm(f"{name}.res_layer.0", inputs) | {f"{name}.res_layer.1.weight": (width, inputs, 3, 3)}
            shapes |= {f"{name}.res_layer.2.weight": (width,), f"{name}.res_layer.3.weight": (width, width, 3, 3)}
            shapes |= norm(f"{name}.res_layer.4", width)
            if excitation:
                shapes |= {
                    f"{name}.res_layer.5.fc1.weight": (width // 16, width, 1, 1),
                    f"{name}.res_layer.5.fc2.weight": (width, width // 16, 1, 1),
                }
            unit, inputs = unit + 1, width
    return shapes


def resnet_shapes() -> Shapes:
    """The encoder of moco_v2_800ep_pretrain.pth.tar, behind its prefix."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for group, units in enumerate((3, 4, 6, 3)):
        width = 64 * 2**group
        for unit in range(units):
            name = f"layer{group + 1}.{unit}"
            for layer, shape in enumerate(((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)), 1):
                shapes |= {f"{name}.conv{layer}.weight": shape, **norm(f"{name}.bn{layer}", shape[0])}
            if unit == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, inputs, 1, 1), **norm(f"{name}.downsample.1", 4 * width)}
            inputs = 4 * width
    return shapes | {"fc.0.weight": (2048, 2048), "fc.0.bias": (2048,), "fc.2.weight": (128, 2048), "fc.2.bias": (128,)}


def constants(shapes: Shapes) -> dict[str, Tensor]:
    """Every weight a constant of its own, of one number on disk."""
    return {
        name: (torch.full((1,), index / 1000) if shape else torch.tensor(index)).expand(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def random_weights(shapes: Shapes) -> dict[str, Tensor]:
    """Weights that keep the activations' size, none of them neutral."""
    random, weights = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=random)
        if len(shape) > 1:
            weights[name] = drawn * torch.Size(shape[1:]).numel() ** -0.5
        elif name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(1)
        else:
            weights[name] = drawn.abs() * 0.2 + 0.8 if name.endswith(("running_var", "weight")) else drawn * 0.1
    return weights


def normed(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    statistics = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, weights.get(f"{name}.weight"), weights.get(f"{name}.bias"))


def face_vectors(weights: dict[str, Tensor], face: Tensor) -> Tensor:
    x = F.conv2d(face, weights["input_layer.0.weight"], padding=1)
    x = F.prelu(normed(weights, "input_layer.1", x), weights["input_layer.2.weight"])
    unit = 0
    while f"body.{unit}.res_layer.1.weight" in weights:
        name = f"body.{unit}"
        stride = 2 if unit == 0 or f"{name}.shortcut_layer.0.weight" in weights else 1
        if f"{name}.shortcut_layer.0.weight" in weights:
            shortcut = normed(weights, f"{name}.shortcut_layer.1", F.conv2d(x, weights[f"{name}.shortcut_layer.0.weight"], stride=stride))
        else:
            shortcut = F.max_pool2d(x, 1, stride)
        y = F.conv2d(normed(weights, f"{name}.res_layer.0", x), weights[f"{name}.res_layer.1.weight"], padding=1)
        y = F.conv2d(F.prelu(y, weights[f"{name}.res_layer.2.weight"]), weights[f"{name}.res_layer.3.weight"], stride=stride, padding=1)
        y = normed(weights, f"{name}.res_layer.4", y)
        if f"{name}.res_layer.5.fc1.weight" in weights:
            attention = F.relu(F.conv2d(F.adaptive_avg_pool2d(y, 1), weights[f"{name}.res_layer.5.fc1.weight"]))
            y = y * torch.sigmoid(F.conv2d(attention, weights[f"{name}.res_layer.5.fc2.weight"]))
        x, unit = y + shortcut, unit + 1
    x = F.linear(normed(weights, "output_layer.0", x).flatten(1), weights["output_layer.3.weight"], weights["output_layer.3.bias"])
    return F.normalize(normed(weights, "output_layer.4", x))


def object_vectors(weights: dict[str, Tensor], picture: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(normed(weights, "bn1", F.conv2d(picture, weights["conv1.weight"], stride=2, padding=3))), 3, 2, 1)
    for group, units in enumerate((3, 4, 6, 3), 1):
        for unit in range(units):
            name, stride = f"layer{group}.{unit}", 2 if unit == 0 and group > 1 else 1
            y = F.relu(normed(weights, f"{name}.bn1", F.conv2d(x, weights[f"{name}.conv1.weight"])))
            y = F.relu(normed(weights, f"{name}.bn2", F.conv2d(y, weights[f"{name}.conv2.weight"], stride=stride, padding=1)))
            y = normed(weights, f"{name}.bn3", F.conv2d(y, weights[f"{name}.conv3.weight"]))
            if unit == 0:
                x = normed(weights, f"{name}.downsample.1", F.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride))
            x = F.relu(x + y)
    return F.normalize(F.adaptive_avg_pool2d(x, 1).flatten(1))


def moco_file(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Both encoders, the queue and the optimizer."""
    state = {f"module.encoder_{which}.{name}": value for which in "qk" for name, value in weights.items()}
    queue = {"module.queue": torch.zeros(1).expand(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": {**state, **queue}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]}}


@pytest.mark.parametrize("old_format", [True, False], ids=["old format", "new format"])
@pytest.mark.parametrize("kind", BODIES)
def test_every_weight_of_a_face_network_is_read_by_its_published_name(kind: str, old_format: bool, tmp_path: Path) -> None:
    weights = constants(face_shapes(kind))
    torch.save(weights, tmp_path / "face.pth", _use_new_zipfile_serialization=not old_format)
    loss = load_identity(tmp_path / "face.pth")
    assert isinstance(loss, FaceIdentity)
    read = loss.network.state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) for name, value in weights.items())


@pytest.mark.parametrize("old_format", [True, False], ids=["old format", "new format"])
def test_moco_reads_the_query_encoder(old_format: bool, tmp_path: Path) -> None:
    weights = constants(resnet_shapes())
    file = moco_file(weights)
    for name in [name for name in file["state_dict"] if ".encoder_k." in name]:
        file["state_dict"][name] = torch.zeros_like(file["state_dict"][name])
    torch.save(file, tmp_path / "moco.pth.tar", _use_new_zipfile_serialization=not old_format)
    loss = load_identity(tmp_path / "moco.pth.tar")
    assert isinstance(loss, ObjectIdentity)
    read = loss.network.state_dict()
    assert read.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(value, weights[name]) for name, value in read.items())


def test_lpips_reads_alexnet_with_its_classifier_in_the_old_format(tmp_path: Path) -> None:
    shapes: Shapes = {}
    for index, shape in ALEXNET.items():
        shapes |= {f"features.{index}.weight": shape, f"features.{index}.bias": shape[:1]}
    for index, shape in {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}.items():
        shapes |= {f"classifier.{index}.weight": shape, f"classifier.{index}.bias": shape[:1]}
    alexnet = constants(shapes)
    linear = constants({f"lin{level}.model.1.weight": (1, shape[0], 1, 1) for level, shape in enumerate(ALEXNET.values())})
    for name, weights in (("alexnet-owt-4df8aa71.pth", alexnet), ("alex.pth", linear)):
        torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=False)
    network = load_lpips(Path(f"{tmp_path / 'alexnet-owt-4df8aa71.pth'},{tmp_path / 'alex.pth'}"))
    for level, index in enumerate(ALEXNET):
        assert torch.equal(network.features[str(index)].weight, alexnet[f"features.{index}.weight"])
        assert torch.equal(network.features[str(index)].bias, alexnet[f"features.{index}.bias"])
        assert torch.equal(network.weights[level], linear[f"lin{level}.model.1.weight"].flatten())


@pytest.mark.parametrize("kind", BODIES)
def test_a_face_network_computes_what_its_weights_say(kind: str, tmp_path: Path) -> None:
    weights = random_weights(face_shapes(kind))
    torch.save(weights, tmp_path / "face.pth")
    loss = load_identity(tmp_path / "face.pth")
    pictures = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        # e4e's and SDIC's identity loss looks at rows 35 to 222 and columns 32 to 219 of an aligned face
        want = face_vectors(weights, F.adaptive_avg_pool2d(pictures[:, :, 35:223, 32:220], (112, 112)))
        distance = loss(pictures[:1], pictures[1:])
    assert distance.item() == pytest.approx(1 - (want[0] @ want[1]).item(), abs=1e-4)
    assert distance.item() > 1e-2


def test_moco_computes_what_its_weights_say(tmp_path: Path) -> None:
    weights = random_weights(resnet_shapes())
    torch.save({"state_dict": {f"module.encoder_q.{name}": value for name, value in weights.items()}}, tmp_path / "moco.pth")
    loss = load_identity(tmp_path / "moco.pth")
    random = torch.Generator().manual_seed(1)
    pictures = torch.rand(2, 3, 224, 224, generator=random) * torch.tensor([1.0, -0.5]).view(2, 1, 1, 1)
    with torch.no_grad():
        want = object_vectors(weights, pictures)
        distance = loss(pictures[:1], pictures[1:])
    assert distance.item() == pytest.approx(1 - (want[0] @ want[1]).item(), abs=1e-5)
    assert distance.item() > 1e-3


def test_a_face_file_that_lacks_a_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    weights = constants(face_shapes("IR-SE-50"))
    del weights["body.7.res_layer.4.running_var"]
    torch.save(weights, tmp_path / "face.pth")
    with pytest.raises(SdicError) as caught:
        load_identity(tmp_path / "face.pth")
    assert str(caught.value) == f'"{tmp_path}/face.pth" lacks "body.7.res_layer.4.running_var" and 0 more weights; download it again'
