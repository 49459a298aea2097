"""What an inversion and an edit give back, and the file an inversion is kept in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np

from sdic_runtime.backends.base import Backend, Tensor
from sdic_runtime.bundle.manifest import Manifest, first_schema
from sdic_runtime.errors import ArgumentError, BundleError, FileError, printable
from sdic_runtime.files import LARGEST_TENSORS, Shapes, read_tensors, reason, save_tensors
from sdic_runtime.parsing.json_text import JsonError, convert, parse_json
from sdic_runtime.pictures import to_bytes
from sdic_runtime.program import FIXED_AXES, PICTURE, Axes, check_axes, check_sizes, sized
from sdic_runtime.still import Common, Prepared, Still

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "sdic-inversion"
FORMAT_VERSION = 2
AGAIN = "invert the picture again"


@dataclass(frozen=True)
class Model:
    """Which model made an inversion: enough to refuse another one, to know its tensors, and to cut the visible rows out of a picture."""

    identity: str
    name: str
    sizes: Mapping[str, int]
    tensors: Mapping[str, Axes]  # what an inversion keeps, with axes
    visible_rows: tuple[int, int]

    @classmethod
    def of(cls, manifest: Manifest) -> Model:
        tensors = {name: manifest.tensors[name] for name in manifest.keeps}
        return cls(manifest.identity, manifest.name, dict(manifest.sizes), tensors, manifest.visible_rows)

    def shape(self, tensor: str, batch: int) -> tuple[int, ...]:
        """The shape of a kept tensor for `batch` pictures. Raises KeyError for a letter without a size."""
        return sized(self.tensors[tensor], self.sizes, batch)


class _Where(NamedTuple):
    """Where a tensor is: on the host, on a backend's device, or still a part (these pictures) of another tensor of that backend."""

    host: np.ndarray | None = None
    device: Tensor = None
    backend: Backend | None = None
    part_of: tuple[Held, slice] | None = None


class Held:
    """One tensor, on the host, on a backend's device, or on both; brought over when asked for, once. Pickled and copied as a host array.

    May be used from several threads: what it knows is replaced as one, so that at worst two of them bring it over. No lock, because a
    process may fork while another thread holds it.
    """

    def __init__(self, host: np.ndarray | None = None, device: Tensor = None, backend: Backend | None = None) -> None:
        """`device` is a tensor of `backend`."""
        self._at = _Where(host, device, backend)

    def __reduce__(self) -> tuple[type[Held], tuple[np.ndarray]]:
        return Held, (self.host(),)

    def host(self) -> np.ndarray:
        at = self._cut()
        if at.host is None:
            assert at.backend is not None
            at = self._at = at._replace(host=at.backend.download(at.device))
        return cast(np.ndarray, at.host)

    def bytes(self, rows: tuple[int, int]) -> np.ndarray:
        """The `rows` (first, end) of pictures as uint8 [N, H, W, 3]; made on the device where they are there."""
        at = self._cut()
        if at.host is None and at.backend is not None:
            return at.backend.to_bytes(at.device, rows)
        return to_bytes(self.host(), rows)

    def on(self, backend: Backend) -> Tensor:
        at = self._cut()
        if at.backend is not backend or at.device is None:
            host = self.host()
            at = self._at = _Where(host, backend.upload(host), backend)
        return at.device

    def part(self, pictures: slice) -> Held:
        """Some of its pictures; nothing moves before they are needed."""
        at = self._at
        if at.host is not None:
            return Held(at.host[pictures])
        part = Held()
        part._at = _Where(backend=at.backend, part_of=(self, pictures))
        return part

    def _cut(self) -> _Where:
        """Make a part a tensor of its own: on the device, or on the host where the whole is already or the device cannot slice."""
        at = self._at
        if at.part_of is not None and at.backend is not None:
            whole, pictures = at.part_of
            device = at.backend.slice(whole.on(at.backend), pictures) if whole._at.host is None else None
            at = self._at = _Where(whole.host()[pictures] if device is None else None, device, at.backend)
        return at


class Pictures:
    """N pictures of one model: `pixels`, and `images` made from them."""

    def __init__(self, model: Model, count: int, pixels: Held) -> None:
        self.model, self._count, self._pixels = model, count, pixels

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        height, width = self.model.visible_rows[1] - self.model.visible_rows[0], self.model.sizes["R"]
        return f'<{type(self).__name__} of {len(self)} picture{"s"[: len(self) != 1]}, {width} x {height}, by "{self.model.name}">'

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

    `tensors`: what the method keeps, by name; each is also an attribute as a numpy float32 array, such as `inversion.latent` [N, L, C].
    `names`: where each picture came from, "" when it was not a file.
    """

    def __init__(self, model: Model, tensors: Mapping[str, Held], names: Sequence[str]) -> None:
        super().__init__(model, len(names), tensors[PICTURE])
        self.names, self.tensors = tuple(names), dict(tensors)
        self.still = Still()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "still": Still()}

    def __getattr__(self, name: str) -> np.ndarray:
        tensors = self.__dict__.get("tensors", {})
        if name not in tensors:
            raise AttributeError(f"an inversion of this model keeps {', '.join(tensors)}, and no {name!r}")
        return cast(np.ndarray, tensors[name].host())

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self.tensors])

    def __getitem__(self, index: int | slice) -> Inversion:
        """Some of the pictures; their tensors stay where they are."""
        if not isinstance(index, slice):
            if isinstance(index, bool) or not isinstance(index, int | np.integer):
                raise ArgumentError(f"{index!r:.60} is no index of a picture; give a whole number or a slice (tensors by name: .tensors)")
            index = int(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"picture {index} of an inversion of {len(self)}")
            index = slice(index, index + 1 or None)
        if len(self) == 1 and len(self.names[index]) == 1:
            return self
        some = Inversion(self.model, {name: held.part(index) for name, held in self.tensors.items()}, self.names[index])
        common, prepared = self.still.common, self.still.prepared
        parts = Common({key: held.part(index) for key, held in common.values.items()}, common.bytes)
        own = Prepared(prepared.maker, {name: held.part(index) for name, held in prepared.values.items()})
        some.still = Still(parts, self.still.asked, own)
        return some

    def __iter__(self) -> Iterator[Inversion]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def join(cls, parts: Iterable[Inversion]) -> Inversion:
        """Several inversions of one model as one. Raises ArgumentError when the models differ."""
        parts = list(parts)
        if not parts:
            raise ArgumentError("there is no inversion to join; give at least one")
        first = parts[0]
        if any(part.model.identity != first.model.identity for part in parts):
            raise ArgumentError("inversions of different models cannot be joined; invert the pictures with one bundle")
        if len(parts) == 1:
            return first
        tensors = {name: Held(np.concatenate([part.tensors[name].host() for part in parts])) for name in first.model.tensors}
        return cls(first.model, tensors, [name for part in parts for name in part.names])

    def named(self, names: Sequence[str]) -> Inversion:
        """The same inversion, which says that its pictures came from `names`."""
        return Inversion(self.model, self.tensors, names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, whole or not at all. Raises FileError, or ArgumentError for no pictures, or for more
        than LARGEST_TENSORS bytes."""
        if not len(self):
            raise ArgumentError("the inversion has no pictures to save")
        model = self.model
        if (size := 4 * sum(math.prod(model.shape(name, len(self))) for name in model.tensors)) > LARGEST_TENSORS:
            raise ArgumentError(f"the inversion has {size} bytes, and a file holds {LARGEST_TENSORS}; save it in parts: inversion[:100]")
        described = {"sizes": model.sizes, "tensors": model.tensors, "visible_rows": model.visible_rows}
        described["names"] = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in self.names]  # not all are UTF-8
        metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "model": model.identity, "bundle": model.name}
        metadata |= {name: json.dumps(value) for name, value in described.items()}
        save_tensors(path, {name: self.tensors[name].host() for name in model.tensors}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inversion:
        """Read an inversion that `save` wrote. Raises FileError for anything else, also for a damaged file."""
        from safetensors import SafetensorError

        def check(shapes: Shapes, metadata: Mapping[str, str]) -> list[str]:
            """The tensors to read, by their names in the file."""
            model, names = read.setdefault("model", _read_metadata(metadata, path))
            read["stored"] = stored = _stored_names(model, metadata["version"])
            _check_shapes(shapes, stored, model, len(names), path)
            return list(stored.values())

        read: dict[str, Any] = {}
        try:
            arrays, _ = read_tensors(path, choose=check)
        except FileError:
            raise
        except FileNotFoundError:
            raise FileError(f"there is no inversion at {path}; make one with: sdic-run invert IMG --save") from None
        except (SafetensorError, TypeError, AttributeError) as error:  # of a type that numpy lacks, such as bfloat16
            raise FileError(f"{path} is not a saved inversion, or damaged ({error}); {AGAIN}") from error
        except OSError as error:
            raise FileError(f"cannot read the inversion {path}: {reason(error)}") from error
        except ValueError as error:
            raise FileError(f"cannot read the inversion {str(path)!r}: {error}") from error
        model, names = read["model"]
        for name, stored in read["stored"].items():
            if not np.isfinite(arrays[stored]).all():
                raise FileError(f'{path} holds NaN or infinite values in "{name}"; {AGAIN}')
        return cls(model, {name: Held(arrays[stored]) for name, stored in read["stored"].items()}, names)


class _Described(msgspec.Struct):
    """The metadata of an inversion file that is JSON."""

    sizes: dict[str, int]
    tensors: dict[str, Axes]
    visible_rows: tuple[int, int]
    names: tuple[str, ...]


def _read_metadata(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> tuple[Model, tuple[str, ...]]:
    if metadata.get("format") != FORMAT:
        raise FileError(f"{path} is not a saved inversion; make one with: sdic-run invert IMG --save")
    if metadata.get("version") not in ("1", str(FORMAT_VERSION)):
        found = metadata.get("version")
        raise FileError(f"{path} is an inversion of format version {found!r:.20}, and this program reads version {FORMAT_VERSION}; {AGAIN}")
    try:
        data: dict[str, Any] = {name: parse_json(metadata[name]) for name in ("sizes", "visible_rows", "names")}
        if metadata["version"] == "1":
            first = first_schema()
            data["sizes"] = {first["sizes"][name]: size for name, size in data["sizes"].items()}
            data["tensors"] = {name: first["tensors"][name] for name in first["keeps"]}
        else:
            data["tensors"] = parse_json(metadata["tensors"])
        described = convert(data, _Described)
        (first_row, end), picture = described.visible_rows, described.tensors.get(PICTURE)
        check_sizes(described.sizes)
        for name, axes in described.tensors.items():
            check_axes(name, axes, described.sizes)
        if not 0 <= first_row < end <= described.sizes["R"] or not described.names or picture != FIXED_AXES[PICTURE]:
            raise JsonError(f"visible rows {[first_row, end]}, {len(described.names)} names, {PICTURE} {picture}")
        model = Model(metadata["model"], metadata["bundle"], described.sizes, described.tensors, described.visible_rows)
        return model, described.names
    except (KeyError, TypeError, AttributeError, JsonError, BundleError) as error:
        raise FileError(f"{path} has damaged metadata ({printable(str(error), 200)}); {AGAIN}") from error


def _stored_names(model: Model, version: str) -> dict[str, str]:
    """Kept tensor -> its name in a file of this version."""
    ours = first_schema()["kept_names"] if version == "1" else {}
    return {name: next((old for old, new in ours.items() if new == name), name) for name in model.tensors}


def _check_shapes(shapes: Shapes, stored: Mapping[str, str], model: Model, count: int, path: str | os.PathLike[str]) -> None:
    for name, key in stored.items():
        expected = model.shape(name, count)
        if shapes.get(key) != ("F32", expected):
            found = f"{shapes[key][0]} {list(shapes[key][1])}" if key in shapes else "nothing"
            raise FileError(f'{path} holds {found} as "{name}", expected F32 {list(expected)}; {AGAIN}')
