"""FID (Heusel et al. 2017): the Frechet distance between Gaussians fitted to what an Inception network sees of two sets of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.errors import CheckpointError, FileError

Features: TypeAlias = Callable[[Tensor], NDArray[np.float64]]  # pictures [N, 3, H, W] in [-1, 1] -> features [N, C]
CONTRACT = "it must take pictures [N, 3, H, W] with values 0 to 255 and give features [N, C]"


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mean difference|^2 + tr(A + B - 2 sqrt(A B)), with the means and covariances A, B of features [n, C] and [m, C], n and m from 2 on.

    The trace of the root is the sum of the singular values of X Y^T / sqrt((n - 1) (m - 1)), for X and Y the centred features: neither a
    covariance nor its root is formed, and fewer pictures than features are no special case. Features with more rows than columns are
    reduced to R of their QR decomposition first, which leaves those values as they are.
    """
    (mean_a, x), (mean_b, y) = _centred(a), _centred(b)
    root = np.linalg.svd(_reduced(x) @ _reduced(y).T, compute_uv=False).sum()
    return max(0.0, float(((mean_a - mean_b) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root))  # rounding: equal sets have 0


def _centred(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean, and the deviations from it over sqrt(n - 1)."""
    values = np.asarray(features, np.float64)
    mean = values.mean(0)
    return mean, (values - mean) / np.sqrt(len(values) - 1)


def _reduced(x: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(x) <= x.shape[1]:
        return x
    upper: NDArray[np.float64] = np.linalg.qr(x, mode="r")  # type: ignore[assignment]
    return upper


def open_features(path: Path) -> Features:
    """The features of an Inception network in ONNX, or in TorchScript: NVIDIA's `inception-2015-12-05.pt`, which resizes by itself.

    The network takes pictures [N, 3, H, W] with values 0 to 255 (TorchScript: uint8; ONNX: float32 or uint8) and gives features [N, C].
    Pictures are resized, bilinearly with antialiasing, where the ONNX graph says how large they must be. A TorchScript file is a program:
    take it from those you trust. Raises FileError or CheckpointError.
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}; name the Inception network of FID, .onnx or TorchScript .pt")
    see = _of_onnx(path) if path.suffix == ".onnx" else _of_torchscript(path)

    def features(pictures: Tensor) -> NDArray[np.float64]:
        found = np.asarray(see(((pictures.clamp(-1, 1) + 1) * 127.5).round()), np.float64)
        if found.ndim < 2 or len(found) != len(pictures) or not np.isfinite(found).all():
            raise CheckpointError(f"{path} gives an array of shape {list(found.shape)} for {len(pictures)} pictures; {CONTRACT}")
        return found.reshape(len(found), -1)

    return features


def _of_torchscript(path: Path) -> Callable[[Tensor], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # files of this format are what people hold
        try:
            network: Any = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a TorchScript file: {_short(error)}; name inception-2015-12-05.pt or an .onnx") from error
    takes = {argument.name for argument in network.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in takes else {}

    def see(pictures: Tensor) -> Any:
        try:
            with torch.inference_mode():
                return network(pictures.to(torch.uint8), **options).cpu().numpy()
        except RuntimeError as error:
            raise CheckpointError(f"{path} failed on {list(pictures.shape)}: {_short(error)}; {CONTRACT}") from error

    return see


def _of_onnx(path: Path) -> Callable[[Tensor], Any]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # what ONNX Runtime raises has no common base
        raise CheckpointError(f"{path} is not an ONNX graph that runs: {_short(error)}; get it again") from error
    (taken, *further), size = session.get_inputs(), None
    if further or len(taken.shape) != 4 or taken.type not in ("tensor(float)", "tensor(uint8)"):
        raise CheckpointError(f"{path} takes {[each.name for each in session.get_inputs()]}, the first of shape {taken.shape}; {CONTRACT}")
    if all(isinstance(side, int) for side in taken.shape[2:]):
        size = tuple(taken.shape[2:])
    kind = np.uint8 if taken.type == "tensor(uint8)" else np.float32

    def see(pictures: Tensor) -> Any:
        if size is not None and tuple(pictures.shape[2:]) != size:
            pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 255)
        array = (pictures.round() if kind == np.uint8 else pictures).numpy().astype(kind)
        try:
            if taken.shape[0] == 1:
                return np.concatenate([session.run(None, {taken.name: array[index : index + 1]})[0] for index in range(len(array))])
            return session.run(None, {taken.name: array})[0]
        except Exception as error:
            raise CheckpointError(f"{path} failed on {list(array.shape)}: {_short(error)}; {CONTRACT}") from error

    return see


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
