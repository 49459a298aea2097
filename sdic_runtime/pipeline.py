"""The Python face: load a bundle, invert pictures, edit them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime import chain
from sdic_runtime.backends.registry import Backend, choose_backend, load_backend, run_whole
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import Direction, EditLike, Pca, as_edit, check_number, edited, load_direction
from sdic_runtime.errors import SdicError
from sdic_runtime.inversion import NAMES, Edited, Held, Inversion, Model
from sdic_runtime.pictures import PictureLike, prepare
from sdic_runtime.stages import Sizes

BATCH_PIXELS = 1024 * 1024  # generated pixels that run at once when no batch is given: below 1 GB of activations
LARGEST_DEFAULT_BATCH = 16


@dataclass(frozen=True)
class FileResult:
    """One picture of `Pipeline.invert_files`: its inversion, or why there is none."""

    path: str
    inversion: Inversion | None
    error: SdicError | None = None


class Directions(Mapping[str, "Direction | Pca"]):
    """The directions of a bundle by name, read (and proven against their hashes) on first use."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, Direction | Pca] = {}

    def __getitem__(self, name: str) -> Direction | Pca:
        """Raises SdicError for an unknown name, with the known ones."""
        files = self._bundle.manifest.directions
        if name not in files:
            close = get_close_matches(str(name), files, 1)
            guess = f'; did you mean "{close[0]}"?' if close else ""
            known = ", ".join(sorted(files)) or "none"
            raise SdicError(f'there is no direction "{name}"; the bundle "{self._bundle.manifest.name}" has: {known}{guess}')
        if name not in self._loaded:
            self._loaded[name] = load_direction(self._bundle.file(files[name]))
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._bundle.manifest.directions

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - this is `get`

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._bundle.manifest.directions))

    def __len__(self) -> int:
        return len(self._bundle.manifest.directions)


class Pipeline:
    """A bundle on a backend. May be used from several threads."""

    def __init__(self, bundle: Bundle, backend: Backend, reason: str = "") -> None:
        self.bundle = bundle
        self.backend = backend
        self.reason = reason  # why `auto` took this backend; "" when it was named
        self.model = Model.of(bundle.manifest)
        self.directions = Directions(bundle)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        *,
        precision: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        **options: Any,
    ) -> Pipeline:
        """Load the bundle in the folder `path` (the embedded demo bundle when None) on a backend.

        `backend`: onnxruntime, tensorrt, tensorrt-rtx, torch, any other installed one, or "auto"; see `Pipeline.reason`. `precision`: the
        bundle's default when None. `threads`: CPU threads, all cores when None. `verify=False` skips the comparison of hashes.
        `options` go to the backend, such as `device="cuda"`. Raises SdicError.
        """
        bundle = Bundle.open(path, verify)
        name, reason = choose_backend(bundle) if backend == "auto" else (backend, "")
        return cls(bundle, load_backend(name, bundle, precision=precision, threads=threads, **options), reason)

    @property
    def sizes(self) -> Sizes:
        return self.bundle.sizes

    @property
    def default_batch(self) -> int:
        """How many pictures run at once when no batch is given."""
        largest = getattr(self.backend, "largest_batch", LARGEST_DEFAULT_BATCH)  # engines are built for batches up to some size
        return max(1, min(LARGEST_DEFAULT_BATCH, largest, BATCH_PIXELS // self.sizes.resolution**2))

    def prepare(self, picture: PictureLike) -> np.ndarray:
        """The network's input for one picture, float32 [1, 3, S, S]; see `pictures.prepare`."""
        return prepare(picture, self.sizes, self.model.visible_rows)

    def invert(self, picture: PictureLike | Sequence[PictureLike], batch: int | None = None) -> Inversion:
        """Invert a picture or a list of pictures, `batch` at a time: each a path, a PIL image, a uint8 array [H, W, 3], or a float32
        array [N, 3, S, S] in [-1, 1]. Raises SdicError."""
        pictures = list(picture) if isinstance(picture, list | tuple) else [picture]
        if not pictures:
            raise SdicError("the list of pictures is empty; give at least one")
        arrays = [self.prepare(item) for item in pictures]
        names = [os.fspath(item) if isinstance(item, str | os.PathLike) else "" for item in pictures]
        names = [str(name) for name, array in zip(names, arrays, strict=True) for _ in range(len(array))]
        return self._invert(np.concatenate(arrays) if len(arrays) > 1 else arrays[0], names, self._batch(batch))

    def invert_files(
        self, paths: Iterable[str | os.PathLike[str]], batch: int | None = None, keep_going: bool = False
    ) -> Iterator[FileResult]:
        """Invert any number of files, `batch` at a time, one result per file in their order; memory does not grow with their number.

        A bad picture raises its SdicError, or with `keep_going=True` gives a result with that error.
        """
        size, remaining = self._batch(batch), iter(paths)
        while group := [os.fspath(path) for path in islice(remaining, size)]:
            prepared: dict[int, np.ndarray] = {}
            errors: dict[int, SdicError] = {}
            for index, path in enumerate(group):
                try:
                    prepared[index] = self.prepare(Path(path))
                except SdicError as error:
                    if not keep_going:
                        raise
                    errors[index] = error
            found: dict[int, Inversion] = {}
            if prepared:
                joined = self._invert(np.concatenate(list(prepared.values())), [group[index] for index in prepared], size)
                found = dict(zip(prepared, joined, strict=True))
            for index, path in enumerate(group):
                yield FileResult(path, found.get(index), errors.get(index))

    def edit(
        self, inversion: Inversion, edit: EditLike, strength: float | Sequence[float] = 1.0, eq6: str = "paper", batch: int | None = None
    ) -> Edited:
        """Edit an inversion of N pictures: latent codes become code + strength * edit.

        `edit`: a Direction (or its name in this bundle), an array [C], [1, C], [L, C] or [1, L, C], a GanSpaceEdit, a CombinedEdit, or
        a list of (edit, strength). `strength`: a number, or M of them for N * M pictures, all strengths of the first picture first.
        `eq6`: "paper" (strength 0 is the inversion) or "released"; see `chain.edit`. Raises SdicError.
        """
        chain.check_eq6(eq6)
        self._check_model(inversion)
        values: Any = [strength] if np.ndim(strength) == 0 else strength
        strengths = [check_number(value, "the strength") for value in values]
        if not strengths:
            raise SdicError("the list of strengths is empty; give at least one")
        change = as_edit(edit, self.directions)
        change.check(self.sizes)
        codes, enhanced = (
            np.stack([edited(code, change, value) for value in strengths], axis=1).reshape(-1, *code.shape[1:])
            for code in (inversion.latent, inversion.latent_enhanced)
        )
        sources = np.repeat(np.arange(len(inversion)), len(strengths))

        def run(part: slice) -> Any:
            residual = self._residual(inversion, sources[part])
            moved = {"latent": self.backend.upload(codes[part]), "latent_enhanced": self.backend.upload(enhanced[part])}
            return run_whole(self.backend, chain.edit, {**moved, "residual": residual}, eq6=eq6)

        return Edited(self.model, enhanced, self._in_batches(run, len(sources), self._batch(batch)))

    def baseline(self, inversion: Inversion, batch: int | None = None) -> Edited:
        """What e4e alone gives: the pictures of `inversion.latent` without compensation. Raises SdicError."""
        self._check_model(inversion)
        latent = inversion.latent

        def run(part: slice) -> Any:
            zero = self.backend.upload(np.zeros(self.sizes.shape("residual", len(latent[part])), np.float32))
            return run_whole(self.backend, chain.baseline, {"latent": self.backend.upload(latent[part]), "zero": zero})

        return Edited(self.model, latent, self._in_batches(run, len(latent), self._batch(batch)))

    def _invert(self, image: np.ndarray, names: Sequence[str], batch: int) -> Inversion:
        parts = []
        for start in range(0, len(image), batch):
            tensors = run_whole(self.backend, chain.invert, {"image": self.backend.upload(image[start : start + batch])})
            held = {NAMES[name]: Held(device=tensor, backend=self.backend) for name, tensor in tensors.items()}
            if len(image) > batch:  # leave the device free for the next part
                held = {name: Held(tensor.host()) for name, tensor in held.items()}
            parts.append(Inversion(self.model, held, names[start : start + batch]))
        return Inversion.join(parts)

    def _residual(self, inversion: Inversion, sources: np.ndarray) -> Any:
        """The residuals of the pictures `sources` on the backend; those of the whole inversion are brought there once."""
        if np.array_equal(sources, np.arange(len(inversion))):
            return inversion.tensors["residual"].on(self.backend)
        return self.backend.upload(inversion.residual[sources])

    def _in_batches(self, run: Any, count: int, batch: int) -> Held:
        """The pictures of `run(slice)` over `count` codes."""
        parts = [run(slice(start, min(start + batch, count))) for start in range(0, count, batch)]
        if len(parts) == 1:
            return Held(device=parts[0], backend=self.backend)
        return Held(np.concatenate([self.backend.download(part) for part in parts]))

    def _batch(self, batch: int | None) -> int:
        if batch is None:
            return self.default_batch
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise SdicError(f"batch is {batch!r}; give a whole number of at least 1")
        return batch

    def _check_model(self, inversion: Inversion) -> None:
        if inversion.model.identity != self.model.identity:
            raise SdicError(
                f'the inversion was made by the model "{inversion.model.name}" ({inversion.model.identity[:12]}), and this is '
                f'"{self.model.name}" ({self.model.identity[:12]}); invert the picture again with this bundle'
            )
