"""PyTorch as a backend of the runtime: the same programs on the networks themselves, so that any other backend can be compared with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.options import check_threads, device_of
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.errors import ArgumentError, BackendError, CheckpointError, MissingExtraError, OutOfMemoryError
from sdic_runtime.files import sha256
from sdic_runtime.program import Method

if TYPE_CHECKING:
    import torch
    from torch import nn

PURPOSE = "the PyTorch backend"
_SETTINGS = threading.RLock()  # of the process, see _tf32
TF32 = "tf32"
PRECISIONS = {STANDARD: None, TF32: None, "fp16": "float16", "bf16": "bfloat16"}  # -> what autocast multiplies in, by torch's name


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why PyTorch cannot be used here; None when it can."""
    try:
        import torch  # noqa: F401 - whether it loads is the question
    except ImportError:
        return str(MissingExtraError("torch", "train", PURPOSE))
    return None


def precisions(bundle: Bundle, options: Mapping[str, Any]) -> list[str]:
    """Those that it runs any bundle in, beginning with the one that runs when none is named."""
    return list(PRECISIONS)


def load(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    compile: bool = False,
    plain: bool = False,
    channels_last: bool | None = None,
) -> TorchBackend:
    """The networks of the checkpoint that `bundle` was built from, or of `checkpoint`.

    `precision`: one of PRECISIONS, fp32 when None whatever the bundle's default: PyTorch is the reference. tf32 lets a GPU round what it
    multiplies to TF32, as PyTorch's own default does in convolutions; fp16 and bf16 are autocast. `channels_last`: the layout of feature
    maps and weights; when None, with fp16 and bf16. `threads`: CPU threads of the whole process. `device`: "cpu", "cuda" or "cuda:N".
    `compile=True` runs every stage through torch.compile. `plain=True`: see `load_plain`. Raises ArgumentError, BackendError, BundleError
    for a method that is not known here, CheckpointError.
    """
    if unavailable():
        raise MissingExtraError("torch", "train", PURPOSE)
    import torch

    from sdic_train.methods import code_of
    from sdic_train.threads import use_threads

    kind, index = device_of(device, ("cpu", "cuda"))
    check_threads(threads)
    arithmetic = Arithmetic.of(precision or STANDARD, device, channels_last)
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendError(f'PyTorch sees no GPU for the device "{device}"; use device="cpu"')
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise BackendError(f'PyTorch sees no GPU for the device "{device}"; the last one is cuda:{torch.cuda.device_count() - 1}')
    code, manifest = code_of(bundle.manifest), bundle.manifest
    use_threads(threads)
    path = Path(checkpoint) if checkpoint is not None else recorded_checkpoint(bundle)
    model: Any = code.read(path, manifest.domain, recorded_others(bundle))
    sizes = code.tables(model.config).sizes
    if sizes != manifest.sizes:
        raise CheckpointError(
            f"the checkpoint has the sizes {sizes} and the bundle {manifest.sizes}; name the checkpoint that the bundle was built from"
        )
    return TorchBackend(manifest, model.to(device), device, compile, plain, arithmetic)


def load_plain(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    compile: bool = False,
    channels_last: bool | None = None,
) -> TorchBackend:
    """`load`, with the generator written plainly (`networks.reference`): the arithmetic that the released code starts from."""
    return load(
        bundle,
        precision=precision,
        threads=threads,
        device=device,
        checkpoint=checkpoint,
        compile=compile,
        plain=True,
        channels_last=channels_last,
    )


def recorded_others(bundle: Bundle) -> list[Path]:
    """The further files of the model that `bundle` records, there and unchanged. Raises CheckpointError."""
    record = bundle.manifest.checkpoint
    names, hashes = record.get("others", "").splitlines(), record.get("others_sha256", "").splitlines()
    if len(hashes) != len(names):
        raise CheckpointError(f"the bundle {bundle.path} does not say which files its {len(names)} further ones are; build it again")
    return [_unchanged(bundle, name, digest, "build it again") for name, digest in zip(names, hashes, strict=True)]


def recorded_checkpoint(bundle: Bundle) -> Path:
    """The checkpoint that `bundle` records, there and unchanged. Raises CheckpointError."""
    record = bundle.manifest.checkpoint
    remedy = "name the checkpoint it was built from: checkpoint=PATH in Python, --checkpoint PATH on the command line"
    if "path" not in record:
        raise CheckpointError(f"the bundle {bundle.path} does not say which checkpoint it was built from; {remedy}")
    return _unchanged(bundle, record["path"], record.get("sha256", ""), remedy)


def _unchanged(bundle: Bundle, name: str, digest: str, remedy: str) -> Path:
    """The file `name`, which may lie outside `bundle`: it is read only where its hash is the recorded one. Raises CheckpointError."""
    path = bundle.path / name  # an absolute path stays as it is
    try:
        found = sha256(path)
    except (OSError, ValueError):
        raise CheckpointError(f"the checkpoint {path} that the bundle {bundle.path} was built from is not there; {remedy}") from None
    if found != digest:
        raise CheckpointError(f"the checkpoint {path} has changed since the bundle {bundle.path} was built from it; {remedy}")
    return path


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether GPUs may round what they multiply in float32, within the block. The setting is the process's, so one thread at a time has it:
    two that overlap would each put back what the other had set."""
    import torch

    products: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    with _SETTINGS:
        before = [product.fp32_precision for product in products]
        for product in products:
            product.fp32_precision = "tf32" if allowed else "ieee"
        try:
            yield
        finally:
            for product, setting in zip(products, before, strict=True):
                product.fp32_precision = setting


@dataclass(frozen=True)
class Arithmetic:
    """In what numbers and in which layout the networks compute; `precision` is one of PRECISIONS."""

    precision: str = STANDARD
    channels_last: bool = False

    @classmethod
    def of(cls, precision: str, device: str, channels_last: bool | None = None) -> Arithmetic:
        """What can be had on `device`; `channels_last=None`: where it pays. Raises ArgumentError."""
        if precision not in PRECISIONS:
            raise ArgumentError(f'the PyTorch backend runs in {", ".join(PRECISIONS)} and not in "{precision}"; name one of them')
        if precision == TF32 and not device.startswith("cuda"):
            raise ArgumentError(f'tf32 is for NVIDIA GPUs, and the device is "{device}"; use device="cuda", or the precision fp32')
        if channels_last is not None and not isinstance(channels_last, bool):
            raise ArgumentError(f"channels_last is {channels_last!r}; use true or false")
        return cls(precision, PRECISIONS[precision] is not None if channels_last is None else channels_last)

    @contextmanager
    def applied(self, device: str) -> Iterator[None]:
        """Compute so within the block: without gradients, in the numbers that were asked for."""
        import torch

        kind = PRECISIONS[self.precision]
        half = torch.autocast(device.partition(":")[0], getattr(torch, kind or "float16"), enabled=kind is not None)
        settings = _tf32(self.precision == TF32) if device.startswith("cuda") else nullcontext()
        with settings, torch.inference_mode(), half:
            yield

    def arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """A feature map or a weight in the layout."""
        import torch

        maps = self.channels_last and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if maps else tensor


EXACT = Arithmetic()


class TorchBackend(Backend):
    """Every stage is a function of the networks. A tensor is a float32 torch tensor on the backend's device.

    `model`: what `MethodCode.load` gives. `compiled`: through torch.compile. `plain`: with the generator written plainly. Raises
    BundleError for a method that is not known here.
    """

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        device: str = "cpu",
        compiled: bool = False,
        plain: bool = False,
        arithmetic: Arithmetic = EXACT,
    ) -> None:
        import torch

        from sdic_train.methods import code_of
        from sdic_train.networks.reference import PlainGenerator

        super().__init__(method)
        networks: Any = model
        self.precision, self._arithmetic = arithmetic.precision, arithmetic
        for weight in (*model.parameters(), *model.buffers()):
            weight.data = arithmetic.arranged(weight.data)
        generator = PlainGenerator(networks.generator) if plain else networks.generator
        functions = code_of(method).functions(networks, generator)
        self.name, self.device, self.skips = "torch-plain" if plain else "torch", device, not plain
        half = PRECISIONS[arithmetic.precision] is not None
        self._form = " autocast" * half + ", channels last" * arithmetic.channels_last
        self._form += ", torch.compile" * compiled + ", plain generator" * plain
        self._stages = {name: torch.compile(function) if compiled else function for name, function in functions.items()}

    @property
    def description(self) -> str:
        import torch

        return f"PyTorch {torch.__version__}, {self.device}, {self.precision}{self._form}"

    @property
    def gpu_memory(self) -> int | None:
        """What PyTorch has reserved in this process."""
        import torch

        return torch.cuda.max_memory_reserved(self.device) if self.device.startswith("cuda") else None

    def upload(self, array: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def download(self, tensor: torch.Tensor) -> np.ndarray:
        array: np.ndarray = tensor.cpu().numpy()
        return array

    def runs(self, stage: str) -> bool:
        return stage in self._stages

    def slice(self, tensor: torch.Tensor, pictures: slice) -> torch.Tensor:
        return tensor[pictures]

    def synchronize(self) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def run(self, stage: str, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        import torch

        try:
            with self._arithmetic.applied(self.device):
                computed = self._stages[stage](**{name: self._arithmetic.arranged(tensor) for name, tensor in inputs.items()})
                results = {name: computed[name].float() for name in outputs}
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
            if not full:
                raise BackendError(f'the stage "{stage}" failed on {self.device}: {error}') from error
            raise OutOfMemoryError(f'the stage "{stage}" ran out of memory on {self.device}; use a smaller batch') from error
        return results
