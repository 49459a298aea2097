"""The Python face: load a bundle, invert pictures, edit them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from sdic_runtime.backends.base import Backend, Tensor
from sdic_runtime.backends.registry import AUTO, find_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.decoding.shapes import SQUASH
from sdic_runtime.directions import Directions
from sdic_runtime.edits import EditLike, as_edit, check_number, edited, kinds_of, style_offset
from sdic_runtime.errors import ArgumentError, OutOfMemoryError, SdicError
from sdic_runtime.inversion import Edited, Held, Inversion, Model
from sdic_runtime.moves import extras_of, masks_of, move_of
from sdic_runtime.pictures import PictureLike, prepare, stream_of
from sdic_runtime.program import IMAGE, INVERT, PICTURE, PREPARE, STYLES, Move, Program, run
from sdic_runtime.still import Common, Prepared, Stills
from sdic_runtime.unmoved import first_row, pays, split

BATCH_PIXELS = 1024 * 1024  # generated pixels that run at once when no batch is given: below 1 GB of activations
LARGEST_DEFAULT_BATCH = 16
KEPT_BYTES = 256 << 20  # of the inversions edited last, for what edits of each have in common
BASELINE = "baseline"  # the program of an inversion without what the method adds to it


@dataclass(frozen=True)
class PictureResult:
    """One picture of `Pipeline.invert_many`: its inversion, or why there is none. `name` is its path, "" where it had none."""

    name: str
    inversion: Inversion | None
    error: SdicError | None = None


@dataclass(frozen=True)
class Begun:
    """A program whose first part was run: the `rest` of it, and what that takes of the first part, by value."""

    rest: Program
    held: Mapping[str, Held]


class Pipeline:
    """A bundle on a backend. May be used from several threads; `close` it, or use it in a `with` block, to give its memory back."""

    def __init__(self, bundle: Bundle, backend: Backend, reason: str = "", profiles: bool = True, exact: str = "") -> None:
        self.bundle, self.backend = bundle, backend
        self.profiles = profiles  # whether pictures' colour profiles are converted to sRGB
        self.reason = reason  # why `auto` took this backend; "" when it was named
        self.exact = exact  # why the precision "auto" reduced nothing; "" where it did, or was not asked for
        self.model = Model.of(bundle.manifest)
        self.directions = Directions(bundle)
        self.stills = Stills(KEPT_BYTES)
        self._own = object()  # marks what inversions hold of this pipeline: another one rounds in another way

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        *,
        precision: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        trust: bool = False,
        profiles: bool = True,
        **options: Any,
    ) -> Pipeline:
        """Load the bundle in the folder `path` (the embedded demo bundle when None) on a backend.

        `backend`: onnxruntime, openvino, tensorrt, tensorrt-rtx, torch, any other installed one, or "auto"; see `Pipeline.reason`.
        `precision`: the bundle's default when None; "auto" allows bf16 where that is faster; `backend.description` says what it costs.
        `threads`: CPU threads, all cores when None. `verify=False` skips the comparison of hashes, which is also
        omitted for files that have not changed since it was made. `trust=True` is for bundles of someone
        known, see docs/trust.md. `profiles=False` ignores pictures' colour profiles, as the release does. `options` go to the backend, such
        as `device="cuda"`. Raises SdicError.
        """
        bundle = Bundle.open(path, verify, trust, remember=True)
        wishes = {"threads": threads} if backend == AUTO else {}  # one on a GPU, which `auto` may take, has none
        choice = find_backend(backend, bundle, wishes, precision=precision, threads=None if wishes else threads, **options)
        return cls(bundle, choice.load(bundle), choice.reason, profiles, choice.exact)

    def __repr__(self) -> str:
        return f'<Pipeline of "{self.bundle.manifest.name}" ({self.bundle.manifest.method}) on {self.backend.description}>'

    def __enter__(self) -> Pipeline:
        return self

    def __reduce__(self) -> NoReturn:
        raise ArgumentError("a pipeline stays in its process: load it in every process anew; what it returns can be sent to others")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told of the backend: which `auto` took, one of reduced precision, and why the precision "auto" reduced
        nothing."""
        what = f"backend: {self.backend.description}" + "; why: sdic-run doctor" * bool(self.reason)
        return (what,) * bool(self.reason or self.backend.precision != STANDARD) + self.unreduced

    @property
    def unreduced(self) -> tuple[str, ...]:
        """A sentence that says why the precision "auto" reduced nothing; none where it did, or was not asked for."""
        return (f"the precision auto stays {STANDARD}: {self.exact}",) * bool(self.exact and self.backend.precision == STANDARD)

    def close(self) -> None:
        """Give the backend's memory back. Inversions that were brought to the host stay usable."""
        self.backend.close()

    @property
    def sizes(self) -> Mapping[str, int]:
        """The model's sizes by letter: R, S, L, C and those of its method."""
        return self.bundle.manifest.sizes

    @property
    def moves(self) -> Mapping[str, Move]:
        """The forms of editing that the bundle has; see `edit`."""
        return self.bundle.manifest.moves

    @property
    def default_batch(self) -> int:
        """How many pictures run at once when no batch is given."""
        largest = self.backend.largest_batch or LARGEST_DEFAULT_BATCH
        return max(1, min(LARGEST_DEFAULT_BATCH, largest, BATCH_PIXELS // self.sizes["R"] ** 2))

    def prepare(self, picture: PictureLike, shape: str | None = None) -> np.ndarray:
        """The network's input for one picture, float32 [1, 3, S, S]; see `pictures.prepare`, and `invert` for `shape`."""
        manifest, rows = self.bundle.manifest, self.model.visible_rows
        return prepare(picture, self.sizes, rows, manifest.input.resampling, self.profiles, shape, manifest.faces is not None)

    def invert(self, picture: PictureLike | Sequence[PictureLike], batch: int | None = None, *, shape: str | None = None) -> Inversion:
        """Invert a picture or a list of pictures, `batch` at a time: each a path, a PIL image, a uint8 array [H, W, 3], or a float32
        array [N, 3, S, S] in [-1, 1].

        A picture is taken whole: no face is looked for, `sdic_runtime.faces.find` does that. `shape` says what becomes of one that is
        wider or higher than the model's pictures: "crop" takes its middle, "squash" all of it. When None, a model of aligned faces refuses
        it (PictureError), others squash it with a PictureWarning. Raises SdicError."""
        pictures: list[PictureLike] = list(picture) if isinstance(picture, list | tuple) else [picture]  # type: ignore[list-item]
        if not pictures:
            raise ArgumentError("the list of pictures is empty; give at least one")
        arrays = [self.prepare(item, shape) for item in pictures]
        names = [_name(item) for item, array in zip(pictures, arrays, strict=True) for _ in range(len(array))]
        return self._invert(np.concatenate(arrays) if len(arrays) > 1 else arrays[0], names, self._batch(batch))

    def invert_many(
        self, pictures: Iterable[PictureLike], batch: int | None = None, keep_going: bool = False, *, shape: str | None = None
    ) -> Iterator[PictureResult]:
        """Invert any stream of pictures, `batch` at a time, one result per picture in their order; memory does not grow with their number.
        An array is a stream too: uint8 [N, H, W, 3], or float32 [N, 3, S, S] in [-1, 1]. `shape`: see `invert`. A bad picture raises its
        SdicError, or with `keep_going=True` gives a result with that error."""
        size, remaining = self._batch(batch), stream_of(pictures)
        while group := list(islice(remaining, size)):
            prepared = [self._prepared(picture, keep_going, shape) for picture in group]
            arrays = [array for array in prepared if isinstance(array, np.ndarray)]
            names = [_name(item) for item, array in zip(group, prepared, strict=True) if isinstance(array, np.ndarray) for _ in array]
            joined, start = self._invert(np.concatenate(arrays), names, size) if arrays else None, 0
            for picture, array in zip(group, prepared, strict=True):
                if isinstance(array, SdicError):
                    yield PictureResult(_name(picture), None, array)
                elif joined is not None:
                    yield PictureResult(_name(picture), joined[start : start + len(array)])
                    start += len(array)

    def edit(
        self,
        inversion: Inversion,
        edit: EditLike,
        strength: float | Sequence[float] | np.ndarray = 1.0,
        eq6: str | None = None,
        batch: int | None = None,
        *,
        move: str | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> Edited:
        """Edit an inversion of N pictures: latent codes become code + strength * edit.

        `edit`: a Direction (or its name in this bundle), an array [C], [1, C], [L, C] or [1, L, C], a GanSpaceEdit, a StyleDirection, a
        CombinedEdit, or a list of (edit, strength). `strength`: a number, or M of them for N * M pictures, all strengths of the first
        picture first.
        `move`: one of `Pipeline.moves`; the first that is meant for this kind of edit when None. `eq6` is SDIC's name for the same: "paper"
        (strength 0 is the inversion) or "released". `extras`: further inputs of the move by name, zeros where they are omitted; each a
        float32 array for one picture or for all N, such as StyleFeatureEditor's "mask" [N, 1, S, S]: 1 where nothing may change; `masks`
        makes them of a picture. Raises SdicError.
        """
        values: Any = [strength] if np.ndim(strength) == 0 else strength
        strengths = [check_number(value, "the strength") for value in values]
        if not strengths:
            raise ArgumentError("the list of strengths is empty; give at least one")
        change = as_edit(edit, self.directions)
        change.check(self.sizes)
        form = move_of(self.bundle.manifest, move, eq6, kinds_of(change))
        self._check_model(inversion, form.program)
        further = extras_of(self.bundle.manifest, extras or {}, form.program, len(inversion))
        inversion = self._with_prepared(inversion, form.program, self._batch(batch))
        codes = {}
        for name in form.codes:
            moved = np.stack([edited(inversion.tensors[name].host(), change, value) for value in strengths], axis=1)
            codes[name] = moved.reshape(-1, *moved.shape[2:])
        if (offset := style_offset(change)) is not None:
            styles = np.stack([inversion.tensors[STYLES].host() + np.float32(value) * offset for value in strengths], axis=1)
            codes[STYLES] = styles.reshape(-1, styles.shape[-1])
        sources = np.repeat(np.arange(len(inversion)), len(strengths))
        given = codes | {name: array[sources] for name, array in further.items()}
        begun = self._begin(form, inversion, codes, further, self._batch(batch))
        return self._render(form.program, inversion, given, sources, self._batch(batch), begun)

    def baseline(self, inversion: Inversion, batch: int | None = None) -> Edited:
        """The pictures of the initial codes alone, without what the method adds to them. Raises SdicError."""
        program = self.bundle.manifest.programs.get(BASELINE)
        if program is None:
            raise ArgumentError(f'the bundle "{self.model.name}" has no baseline, because its method defines none')
        self._check_model(inversion, BASELINE)
        movable = {code for move in self.moves.values() for code in move.codes}
        codes = {name: inversion.tensors[name].host() for name in program.takes if name in movable}
        return self._render(BASELINE, inversion, codes, np.arange(len(inversion)), self._batch(batch))

    def masks(self, picture: PictureLike) -> dict[str, np.ndarray]:
        """`extras` of `edit` that keep a region unedited: the masks that this bundle's edits take, float32 [1, 1, S, S] in [0, 1], from a
        picture of any size, framed as the inverted one, white where nothing may change. Raises PictureError, or ArgumentError where edits
        take no mask."""
        names = masks_of(self.bundle.manifest)
        mask = (self.prepare(picture, SQUASH).mean(1, keepdims=True) + 1) / 2
        return dict.fromkeys(names, np.clip(mask, 0, 1))

    def _with_prepared(self, inversion: Inversion, program: str, batch: int) -> Inversion:
        """The inversion, where `program` takes it with what the program "prepare" gives, made once by this pipeline. That is not put among
        the tensors of the inversion itself, which another pipeline may edit in another thread."""
        method, prepared = self.bundle.manifest, inversion.still.prepared
        if set(method.prepared).isdisjoint(method.programs[program].takes):
            return inversion
        if prepared.maker is not self._own:
            made = self._run(PREPARE, inversion, {}, np.arange(len(inversion)), batch)
            prepared = inversion.still.prepared = Prepared(self._own, made)
        whole = Inversion(inversion.model, {**inversion.tensors, **prepared.values}, inversion.names)
        whole.still = inversion.still
        return whole

    def _begin(
        self, form: Move, inversion: Inversion, codes: Mapping[str, np.ndarray], extras: Mapping[str, np.ndarray], batch: int
    ) -> Begun | None:
        """The program of an edit without its first part, where the moved `codes` keep their first rows; None where all of it must run.

        Chains in place of whole stages have to be loaded, so the first edit of a kind goes without, unless it has several strengths.
        """
        method, program, still = self.bundle.manifest, form.program, inversion.still
        times = len(next(iter(codes.values()))) // len(inversion)
        row = min(first_row(inversion.tensors[name].host().repeat(times, 0), codes[name]) for name in form.codes)
        if not (self.backend.skips and 0 < row < method.sizes["L"]):
            return None
        again = times > 1 or (self._own, program, row) in still.asked
        still.asked |= {(self._own, program, row)}
        cuts = [stage for stage, cut in method.cuts.items() if again and all(map(self.backend.runs, cut.stages))]
        moved = (*codes, *extras)
        for cut in (cuts, ()) if cuts else ((),):
            parts = split(method, program, moved, form.codes, row, cut)
            if parts is None:
                return None
            if cut and not any(pays(method.cuts[stage], parts.still, self.backend.least_away) for stage in cut):
                continue
            if (held := self._hold(inversion, program, parts.still, batch)) is not None:
                return Begun(parts.rest, held)
        return None

    def _render(
        self,
        program: str,
        inversion: Inversion,
        given: Mapping[str, np.ndarray],
        sources: np.ndarray,
        batch: int,
        begun: Begun | None = None,
    ) -> Edited:
        """Pictures by a program that also reads the inversion's tensors, of what is `given`: codes and extras, whose entry i goes with
        picture sources[i]. `begun`: the rest of the program, when its first part was run."""
        made = self._run(program, inversion, given, sources, batch, (PICTURE,), begun)
        known = {code for move in self.moves.values() for code in move.codes}
        codes = [given[name] for name in self.bundle.manifest.programs[program].takes if name in given and name in known]
        return Edited(self.model, (codes or list(given.values()))[-1], made[PICTURE])

    def _hold(self, inversion: Inversion, program: str, first: Program, batch: int) -> Mapping[str, Held] | None:
        """What `first`, the first part of `program`, gives, by value, which the inversion holds from now on; None where that is more than
        edits may keep."""
        method, still = self.bundle.manifest, inversion.still
        there = still.common.values
        if all((self._own, program, value) in there for value in first.gives):
            self.stills.bound(still)
            return {value: there[self._own, program, value] for value in first.gives}
        tensors = {value: tensor for step in first.steps for tensor, value in step.outputs.items()}
        needed = sum(4 * prod(method.shape(tensors[value], len(inversion))) for value in first.gives)
        if needed > self.stills.limit:
            return None
        made = self._run(program, inversion, {}, np.arange(len(inversion)), batch, begun=Begun(first, {}))
        values, size = still.common if still.common.bytes + needed <= self.stills.limit else Common()
        still.common = Common({**values, **{(self._own, program, value): held for value, held in made.items()}}, size + needed)
        self.stills.bound(still)
        return made

    def _run(
        self,
        program: str,
        inversion: Inversion,
        given: Mapping[str, np.ndarray],
        sources: np.ndarray,
        batch: int,
        wanted: Sequence[str] | None = None,
        begun: Begun | None = None,
    ) -> dict[str, Held]:
        """What the program, or the part of it that is left when it has `begun`, gives, or of that what is `wanted`, for the pictures
        `sources` of an inversion, `batch` at a time."""
        manifest, backend = self.bundle.manifest, self.backend
        part, held = (manifest.programs[program], {}) if begun is None else (begun.rest, begun.held)
        names = tuple(part.gives) if wanted is None else wanted
        held_already = {**inversion.tensors, **held}

        def taken(name: str, some: slice) -> Tensor:
            """The tensor `name` on the backend, for the pictures of `some`."""
            if name in given:
                return backend.upload(given[name][some])
            if name in part.zeros:
                return backend.upload(np.zeros(manifest.shape(name, len(sources[some])), np.float32))
            if np.array_equal(sources[some], np.arange(len(inversion))):  # the whole inversion is brought to the backend once
                return held_already[name].on(backend)
            return backend.upload(held_already[name].host()[sources[some]])

        made: list[dict[str, Held]] = []
        for start in range(0, len(sources), batch):
            tensors = {name: taken(name, slice(start, start + batch)) for name in part.takes}
            results = backend.run_program(program, tensors) if begun is None else run(part, backend, tensors)
            new = {name: Held(device=results[name], backend=backend) for name in names}
            made.append(new if len(sources) <= batch else {name: Held(tensor.host()) for name, tensor in new.items()})
        return made[0] if len(made) == 1 else {name: Held(np.concatenate([each[name].host() for each in made])) for name in names}

    def _invert(self, image: np.ndarray, names: Sequence[str], batch: int) -> Inversion:
        parts = []
        for start in range(0, len(image), batch):
            taken = {IMAGE: self.backend.upload(image[start : start + batch])}
            tensors = {**taken, **self.backend.run_program(INVERT, taken)}
            held = {name: Held(device=tensors[name], backend=self.backend) for name in self.model.tensors}
            if len(image) > batch:  # leave the device free for the next part
                held = {name: Held(tensor.host()) for name, tensor in held.items()}
            parts.append(Inversion(self.model, held, names[start : start + batch]))
        return Inversion.join(parts)

    def _prepared(self, picture: PictureLike, keep_going: bool, shape: str | None) -> np.ndarray | SdicError:
        try:
            return self.prepare(picture, shape)
        except MemoryError:
            error: SdicError = OutOfMemoryError(f"not enough memory to prepare {_name(picture) or 'the picture'}; make it smaller")
        except SdicError as failure:
            error = failure
        if keep_going:
            return error
        raise error

    def _batch(self, batch: int | None) -> int:
        if batch is None:
            return self.default_batch
        if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
            raise ArgumentError(f"batch is {batch!r}; give a whole number of at least 1")
        return int(batch)

    def _check_model(self, inversion: Inversion, program: str) -> None:
        """The inversion is one, of this model, and has what the program takes."""
        if not isinstance(inversion, Inversion):
            found = type(inversion).__name__
            raise ArgumentError(f"the inversion is of the type {found}; give what Pipeline.invert or Inversion.load returned")
        if not len(inversion):
            raise ArgumentError("the inversion has no pictures; give one of at least one picture")
        if inversion.model.identity != self.model.identity:
            maker, here = (f'"{model.name}" ({model.identity[:12]})' for model in (inversion.model, self.model))
            why = f"the inversion was made by the model {maker}, and this is {here}"
            raise ArgumentError(f"{why}; invert the picture again with this bundle")
        takes = self.bundle.manifest.programs[program]
        for name in (name for name in takes.takes if name not in (*takes.zeros, *self.bundle.manifest.prepared)):
            if name not in inversion.model.tensors or inversion.model.shape(name, 1) != self.model.shape(name, 1):
                raise ArgumentError(f'the inversion keeps no "{name}" as this bundle needs it; invert the picture again with this bundle')


def _name(picture: PictureLike) -> str:
    return str(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else ""
