"""What an inversion and an edit give back, and the file an inversion is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.backends.registry import Backend, Tensor
from sdic_runtime.bundle.bundle import Manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.files import reason, save_tensors
from sdic_runtime.pictures import to_bytes
from sdic_runtime.stages import Sizes

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "sdic-inversion"
FORMAT_VERSION = 1
# Tensor of the stage table -> its name as an attribute and in the file.
NAMES = {
    "latent": "latent",
    "latent_enhanced": "latent_enhanced",
    "feature": "feature",
    "residual": "residual",
    "reconstruction": "reconstruction",
    "discrepancy": "discrepancy",
    "picture": "pixels",
}


@dataclass(frozen=True)
class Model:
    """Which model made an inversion: enough to refuse another one, and to cut the visible rows out of a picture."""

    identity: str
    name: str
    sizes: Sizes
    visible_rows: tuple[int, int]

    @classmethod
    def of(cls, manifest: Manifest) -> Model:
        return cls(manifest.identity, manifest.name, manifest.sizes, manifest.visible_rows)


class Held:
    """One tensor, on the host, on a backend's device, or on both; brought over when asked for, once."""

    def __init__(self, host: np.ndarray | None = None, device: Tensor = None, backend: Backend | None = None) -> None:
        self._host, self._device, self._backend = host, device, backend

    def host(self) -> np.ndarray:
        if self._host is None:
            assert self._backend is not None
            self._host = self._backend.download(self._device)
        return self._host

    def bytes(self, rows: tuple[int, int]) -> np.ndarray:
        """The visible `rows` of a picture as uint8 [N, H, W, 3]; made on the device where the backend can (`to_bytes`)."""
        on_device = getattr(self._backend, "to_bytes", None) if self._host is None else None
        return on_device(self._device) if on_device is not None else to_bytes(self.host(), rows)

    def on(self, backend: Backend) -> Tensor:
        if self._backend is not backend:
            self._device, self._backend = backend.upload(self.host()), backend
        return self._device


class Pictures:
    """N pictures of one model: `pixels`, and `images` made from them."""

    def __init__(self, model: Model, count: int, pixels: Held) -> None:
        self.model = model
        self._count = count
        self._pixels = pixels

    def __len__(self) -> int:
        return self._count

    @property
    def pixels(self) -> np.ndarray:
        """float32 [N, 3, R, R], nominally in [-1, 1], unclamped; all rows, also those that a user does not see."""
        return self._pixels.host()

    @property
    def images(self) -> list[Image]:
        """8-bit RGB pictures, clamped; only the visible rows."""
        from PIL import Image

        return [Image.fromarray(picture) for picture in self._pixels.bytes(self.model.visible_rows)]


class Edited(Pictures):
    """Pictures of edited codes. `latent` [N, L, C] is what the generator was given."""

    def __init__(self, model: Model, latent: np.ndarray, pixels: Held) -> None:
        super().__init__(model, len(latent), pixels)
        self.latent = latent


class Inversion(Pictures):
    """N inverted pictures. Index it to pick some: `inversion[0]`, `inversion[2:4]`; iterate to have them one by one.

    `names`: where each picture came from, "" when it was not a file. All tensors are numpy float32.
    """

    def __init__(self, model: Model, tensors: Mapping[str, Held], names: Sequence[str]) -> None:
        super().__init__(model, len(names), tensors["pixels"])
        self.names = tuple(names)
        self.tensors = dict(tensors)

    @property
    def latent(self) -> np.ndarray:
        """w, [N, L, C]: the code of e4e."""
        return self.tensors["latent"].host()

    @property
    def latent_enhanced(self) -> np.ndarray:
        """The compensated code, [N, L, C]."""
        return self.tensors["latent_enhanced"].host()

    @property
    def feature(self) -> np.ndarray:
        """F_R, [N, K, 64, 64]: layer 7 of the initial reconstruction."""
        return self.tensors["feature"].host()

    @property
    def residual(self) -> np.ndarray:
        """P of Eq. 5, [N, K, 64, 64]: what DICN adds to layer 7."""
        return self.tensors["residual"].host()

    @property
    def reconstruction(self) -> np.ndarray:
        """R_o, [N, 3, S, S] in [-1, 1]: the initial reconstruction at the working size."""
        return self.tensors["reconstruction"].host()

    @property
    def discrepancy(self) -> np.ndarray:
        """D, [N, 3, S, S]: the discrepancy map."""
        return self.tensors["discrepancy"].host()

    def __getitem__(self, index: int | slice) -> Inversion:
        if not isinstance(index, slice):
            if not -len(self) <= index < len(self):
                raise IndexError(f"picture {index} of an inversion of {len(self)}")
            index = slice(index, index + 1 or None)
        if len(self) == 1 and len(self.names[index]) == 1:
            return self
        return Inversion(self.model, {name: Held(held.host()[index]) for name, held in self.tensors.items()}, self.names[index])

    def __iter__(self) -> Iterator[Inversion]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def join(cls, parts: Sequence[Inversion]) -> Inversion:
        """Several inversions of one model as one. Raises SdicError when the models differ."""
        if not parts:
            raise SdicError("there is no inversion to join; give at least one")
        first = parts[0]
        if any(part.model.identity != first.model.identity for part in parts):
            raise SdicError("inversions of different models cannot be joined; invert the pictures with one bundle")
        if len(parts) == 1:
            return first
        tensors = {name: Held(np.concatenate([part.tensors[name].host() for part in parts])) for name in first.tensors}
        return cls(first.model, tensors, [name for part in parts for name in part.names])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, whole or not at all. Raises SdicError."""
        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "model": self.model.identity,
            "bundle": self.model.name,
            "sizes": json.dumps(self.model.sizes.as_dict()),
            "visible_rows": json.dumps(self.model.visible_rows),
            "names": json.dumps(self.names),
        }
        save_tensors(path, {name: held.host() for name, held in self.tensors.items()}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inversion:
        """Read an inversion that `save` wrote. Raises SdicError for anything else, also for a damaged file."""
        from safetensors import SafetensorError, safe_open

        try:
            with Path(path).open("rb"), safe_open(path, framework="numpy") as stream:
                metadata = dict(stream.metadata() or {})
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            raise SdicError(f"there is no inversion at {path}; make one with: sdic-run invert IMG --save") from None
        except OSError as error:
            raise SdicError(f"cannot read the inversion {path}: {reason(error)}") from error
        except SafetensorError as error:
            raise SdicError(f"{path} is not a saved inversion, or damaged ({error}); invert the picture again") from error
        model, names = _read_metadata(metadata, path)
        _check_arrays(arrays, model.sizes, len(names), path)
        return cls(model, {name: Held(array) for name, array in arrays.items()}, names)


def _read_metadata(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> tuple[Model, list[str]]:
    if metadata.get("format") != FORMAT:
        raise SdicError(f"{path} is not a saved inversion; make one with: sdic-run invert IMG --save")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise SdicError(
            f"{path} is an inversion of format version {metadata.get('version')}, and this program reads version "
            f"{FORMAT_VERSION}; invert the picture again"
        )
    try:
        first, end = json.loads(metadata["visible_rows"])
        names = [str(name) for name in json.loads(metadata["names"])]
        return Model(metadata["model"], metadata["bundle"], Sizes(**json.loads(metadata["sizes"])), (int(first), int(end))), names
    except (KeyError, TypeError, ValueError) as error:
        raise SdicError(f"{path} has damaged metadata ({error}); invert the picture again") from error


def _check_arrays(arrays: Mapping[str, np.ndarray], sizes: Sizes, count: int, path: str | os.PathLike[str]) -> None:
    for tensor, name in NAMES.items():
        expected = sizes.shape(tensor, count)
        if name not in arrays or arrays[name].shape != expected or arrays[name].dtype != np.float32:
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}" if name in arrays else "nothing"
            raise SdicError(f'{path} holds {found} as "{name}", expected float32 {list(expected)}; invert the picture again')
        if not np.isfinite(arrays[name]).all():
            raise SdicError(f'{path} holds NaN or infinite values in "{name}"; invert the picture again')
