"""PyTorch as a backend of the runtime: the same chain on the networks themselves, so that any other backend can be compared with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.files import sha256

if TYPE_CHECKING:
    import torch

    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.sdic.model import SDIC
    from sdic_train.networks.stylegan2 import Generator

PURPOSE = "the PyTorch backend"


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why PyTorch cannot be used here; None when it can."""
    try:
        import torch  # noqa: F401 - whether it loads is the question
    except ImportError:
        return str(MissingExtraError("torch", "train", PURPOSE))
    return None


def load(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    compile: bool = False,
) -> TorchBackend:
    """The networks of the checkpoint that `bundle` was built from, or of `checkpoint`.

    `precision`: fp32, whatever the bundle's default: PyTorch is the reference. `threads`: CPU threads of the whole process.
    `device`: "cpu", "cuda" or "cuda:N". `compile=True` runs every stage through torch.compile. Raises SdicError.
    """
    reason = unavailable()
    if reason:
        raise MissingExtraError("torch", "train", PURPOSE)
    import torch

    from sdic_train.checkpoints.load import load_sdic

    if precision not in (None, "fp32"):
        raise SdicError(f'the PyTorch backend runs in fp32 and not in "{precision}"; leave the precision out')
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SdicError(f'PyTorch sees no GPU for the device "{device}"; use device="cpu"')
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_sdic(Path(checkpoint) if checkpoint is not None else recorded_checkpoint(bundle), bundle.manifest.domain)
    if model.config.sizes != bundle.sizes:
        raise SdicError(
            f"the checkpoint has sizes {model.config.sizes.as_dict()} and the bundle {bundle.sizes.as_dict()}; "
            "name the checkpoint that the bundle was built from"
        )
    return TorchBackend(model.to(device), device, compile)


def load_plain(bundle: Bundle, **options: Any) -> TorchBackend:
    """`load`, with the generator written plainly (`networks.reference`): the arithmetic that the released code starts from."""
    from sdic_train.networks.reference import PlainGenerator

    backend = load(bundle, **options)
    return TorchBackend(backend.model, backend.device, False, PlainGenerator(backend.model.generator))


def recorded_checkpoint(bundle: Bundle) -> Path:
    """The checkpoint that `bundle` records, there and unchanged. Raises SdicError."""
    record = bundle.manifest.checkpoint
    remedy = "name the checkpoint it was built from: checkpoint=PATH in Python, --checkpoint PATH on the command line"
    if "path" not in record:
        raise SdicError(f"the bundle {bundle.path} does not say which checkpoint it was built from; {remedy}")
    path = bundle.path / record["path"]  # an absolute path stays as it is
    if not path.is_file():
        raise SdicError(f"the checkpoint {path} that the bundle {bundle.path} was built from is not there; {remedy}")
    if sha256(path) != record.get("sha256"):
        raise SdicError(f"the checkpoint {path} has changed since the bundle {bundle.path} was built from it; build it again or {remedy}")
    return path


class TorchBackend:
    """Every stage is a method of the networks. A tensor is a torch tensor on the backend's device."""

    def __init__(self, model: SDIC, device: str, compiled: bool, plain: PlainGenerator | None = None) -> None:
        self.model, self.device, self._compiled, self._plain = model, device, compiled, plain
        self._stages = _stages(model, plain or model.generator)
        if compiled:
            import torch

            self._stages = {name: torch.compile(function) for name, function in self._stages.items()}

    @property
    def name(self) -> str:
        return "torch-plain" if self._plain else "torch"

    @property
    def description(self) -> str:
        import torch

        form = ", plain generator" if self._plain else ", torch.compile" if self._compiled else ""
        return f"PyTorch {torch.__version__}, {self.device}, fp32{form}"

    def upload(self, array: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def download(self, tensor: torch.Tensor) -> np.ndarray:
        array: np.ndarray = tensor.cpu().numpy()
        return array

    def run(self, stage: str, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        import torch

        try:
            with torch.inference_mode():
                computed = self._stages[stage](**inputs)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise SdicError(f'the stage "{stage}" ran out of memory on {self.device}; use a smaller batch') from error
        except RuntimeError as error:
            if "not enough memory" not in str(error):
                raise
            raise SdicError(f'the stage "{stage}" ran out of memory on {self.device}; use a smaller batch') from error
        return {name: computed[name] for name in outputs}


def _stages(model: SDIC, generator: Generator | PlainGenerator) -> dict[str, Callable[..., dict[str, Any]]]:
    """Stage name -> function from the stage's inputs to its outputs, both by name."""

    def head(latent: torch.Tensor) -> dict[str, Any]:
        return dict(zip(("feature", "rgb"), generator.head(latent), strict=True))

    def dicn(discrepancy: torch.Tensor, feature: torch.Tensor, latent: torch.Tensor) -> dict[str, Any]:
        return dict(zip(("latent_enhanced", "residual"), model.dicn(discrepancy, feature, latent), strict=True))

    return {
        "e4e": lambda image: {"latent": model.encode(image)},
        "generator_head": head,
        "generator_preview": lambda feature, rgb, latent: {"reconstruction": generator.preview(feature, rgb, latent)},
        "dipn": lambda image, reconstruction: {"discrepancy": model.dipn(image, reconstruction)},
        "dicn": dicn,
        "generator_tail": lambda feature, residual, rgb, latent: {"picture": generator.tail(feature, rgb, latent, residual)},
    }
