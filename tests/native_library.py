"""The C functions of libsdic in Python's hands through ctypes."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OK, ARGUMENT, BUNDLE, PICTURE, FILE, PROVIDER, RUN, MEMORY, CANCELLED, INTERNAL = range(10)

LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)


class OpenParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("precision", ctypes.c_char_p),
        ("provider", ctypes.c_char_p),
        ("device", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("tf32", ctypes.c_int32),
        ("verify", ctypes.c_int32),
        ("onnxruntime_library", ctypes.c_char_p),
        ("log", LOG),
        ("progress", PROGRESS),
        ("user_data", ctypes.c_void_p),
    ]


class Info(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_char_p) for name in ("name", "method", "domain", "licence", "identity", "description")),
        *((name, ctypes.c_int32) for name in ("resolution", "working", "picture_width", "picture_height")),
    ]


class DirectionInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("component_count", ctypes.c_int32),
        ("has_range", ctypes.c_int32),
        ("minimum", ctypes.c_float),
        ("maximum", ctypes.c_float),
    ]


class Image(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("stride", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
    ]


class EditPart(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("direction", ctypes.c_char_p),
        ("vector", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weight", ctypes.c_float),
        ("component", ctypes.c_int32),
        ("first_row", ctypes.c_int32),
        ("end_row", ctypes.c_int32),
        ("sigma", ctypes.c_float),
    ]


class Extra(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("count", ctypes.c_size_t)]


class EditParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("parts", ctypes.POINTER(EditPart)),
        ("part_count", ctypes.c_size_t),
        ("strengths", ctypes.POINTER(ctypes.c_float)),
        ("strength_count", ctypes.c_size_t),
        ("move", ctypes.c_char_p),
        ("batch", ctypes.c_size_t),
        ("extras", ctypes.POINTER(Extra)),
        ("extra_count", ctypes.c_size_t),
    ]


class View(ctypes.Structure):
    _fields_ = [("data", ctypes.POINTER(ctypes.c_float)), ("shape", ctypes.c_int64 * 8), ("rank", ctypes.c_int32)]


class NativeError(Exception):
    """A status other than SDIC_OK, and the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Library:
    """The functions of libsdic; a failed status raises NativeError."""

    def __init__(self, path: Path) -> None:
        self.raw = ctypes.CDLL(str(path))
        for name in ("sdic_version", "sdic_last_error", "sdic_result_name", "sdic_pipeline_name"):
            getattr(self.raw, name).restype = ctypes.c_char_p
        self.raw.sdic_result_count.restype = ctypes.c_size_t
        for name in ("sdic_close", "sdic_result_free"):
            getattr(self.raw, name).restype = None

    def last_error(self) -> str:
        return str(self.raw.sdic_last_error().decode())

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.raw, name)(*arguments)
        sentence = self.last_error()
        if status != OK:
            assert sentence and "\n" not in sentence
            raise NativeError(status, sentence)
        assert sentence == ""

    def open(self, bundle: Path | str, **options: Any) -> NativePipeline:
        params = OpenParams()
        self.raw.sdic_open_params_default(ctypes.byref(params))
        params.threads = 1
        for name, value in options.items():
            setattr(params, name, value.encode() if isinstance(value, str) else value)
        handle = ctypes.c_void_p()
        self.call("sdic_open", os.fsencode(bundle), ctypes.byref(params), ctypes.byref(handle))
        return NativePipeline(self, handle, params)

    def load(self, path: Path | str) -> NativeResult:
        handle = ctypes.c_void_p()
        self.call("sdic_inversion_load", os.fsencode(path), ctypes.byref(handle))
        return NativeResult(self, handle)


class NativeResult:
    """An inversion or edited pictures; freed with the object."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.raw.sdic_result_free(self.handle)

    def __len__(self) -> int:
        return int(self.library.raw.sdic_result_count(self.handle))

    def tensor(self, name: str) -> np.ndarray:
        view = View()
        self.library.call("sdic_result_tensor", self.handle, name.encode(), ctypes.byref(view))
        return np.ctypeslib.as_array(view.data, tuple(view.shape[: view.rank])).copy()

    def pictures(self) -> np.ndarray:
        """uint8 [N, H, W, 3]."""
        width, height = ctypes.c_int32(), ctypes.c_int32()
        self.library.call("sdic_result_size", self.handle, ctypes.byref(width), ctypes.byref(height))
        out = np.empty((len(self), height.value, width.value, 3), np.uint8)
        for index, picture in enumerate(out):
            self.library.call(
                "sdic_result_picture",
                self.handle,
                ctypes.c_size_t(index),
                picture.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_size_t(picture.nbytes),
            )
        return out

    def name(self, index: int) -> str | None:
        text = self.library.raw.sdic_result_name(self.handle, ctypes.c_size_t(index))
        return None if text is None else text.decode()

    def save(self, path: Path | str) -> None:
        self.library.call("sdic_inversion_save", self.handle, os.fsencode(path))


class NativePipeline:
    """A pipeline; closed with the object."""

    def __init__(self, library: Library, handle: ctypes.c_void_p, params: OpenParams) -> None:
        self.library, self.handle = library, handle
        self.params = params  # keeps the callbacks alive

    def __del__(self) -> None:
        self.library.raw.sdic_close(self.handle)

    def info(self) -> Info:
        info = Info()
        self.library.raw.sdic_info_default(ctypes.byref(info))
        self.library.call("sdic_pipeline_info", self.handle, ctypes.byref(info))
        return info

    def names(self, which: int) -> list[str]:
        """Of one list of `sdic_names`: directions, moves, programs, tensors, sizes."""
        names = (self.library.raw.sdic_pipeline_name(self.handle, which, ctypes.c_size_t(index)) for index in itertools.count())
        return [name.decode() for name in itertools.takewhile(lambda name: name is not None, names)]

    def size(self, letter: str) -> int:
        value = ctypes.c_int32()
        self.library.call("sdic_pipeline_size", self.handle, letter.encode(), ctypes.byref(value))
        return value.value

    def direction(self, name: str) -> DirectionInfo:
        info = DirectionInfo()
        self.library.raw.sdic_direction_info_default(ctypes.byref(info))
        self.library.call("sdic_pipeline_direction", self.handle, name.encode(), ctypes.byref(info))
        return info

    @staticmethod
    def image(picture: np.ndarray, name: bytes | None) -> Image:
        height, width, channels = (*picture.shape, 1)[:3]
        return Image(picture.ctypes.data, width, height, channels, picture.strides[0], name)

    def invert(self, *pictures: np.ndarray, batch: int = 0, names: Sequence[str] = ()) -> NativeResult:
        """uint8 [H, W], [H, W, 3] or [H, W, 4]; rows may lie apart, pixels may not."""
        described = [self.image(picture, names[index].encode() if names else None) for index, picture in enumerate(pictures)]
        images = (Image * max(1, len(pictures)))(*described)
        return self._inversion("sdic_invert", images, len(pictures), batch)

    def invert_tensor(self, images: np.ndarray, batch: int = 0) -> NativeResult:
        return self._inversion("sdic_invert_tensor", images.ctypes.data_as(ctypes.c_void_p), len(images), batch)

    def _inversion(self, function: str, images: Any, count: int, batch: int) -> NativeResult:
        handle = ctypes.c_void_p()
        self.library.call(function, self.handle, images, ctypes.c_size_t(count), ctypes.c_size_t(batch), ctypes.byref(handle))
        return self.result(handle)

    def result(self, handle: ctypes.c_void_p) -> NativeResult:
        return NativeResult(self.library, handle)

    def part(self, edit: str | np.ndarray | None = None, **fields: Any) -> EditPart:
        part = EditPart()
        self.library.raw.sdic_edit_part_default(ctypes.byref(part))
        if isinstance(edit, str):
            part.direction = edit.encode()
        elif edit is not None:
            part.vector, (part.rows, part.width) = edit.ctypes.data, edit.shape
        for name, value in fields.items():
            setattr(part, name, value)
        return part

    def shape(self, tensor: str) -> list[int]:
        shape, rank = (ctypes.c_int64 * 8)(), ctypes.c_int32()
        self.library.call("sdic_pipeline_shape", self.handle, tensor.encode(), shape, ctypes.byref(rank))
        return shape[: rank.value]

    def extra(self, name: str, array: np.ndarray) -> Extra:
        extra = Extra()
        self.library.raw.sdic_extra_default(ctypes.byref(extra))
        extra.name, extra.data, extra.count = name.encode(), array.ctypes.data, array.size
        return extra

    def edit(
        self,
        inversion: NativeResult,
        parts: Any,
        strengths: Sequence[float] | None = None,
        move: str | None = None,
        batch: int = 0,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> NativeResult:
        """`parts`: a name, an array [rows, C], an EditPart, or a list of EditParts."""
        if not isinstance(parts, list):
            parts = [parts if isinstance(parts, EditPart) else self.part(parts)]
        params = EditParams()
        self.library.raw.sdic_edit_params_default(ctypes.byref(params))
        params.parts, params.part_count = (EditPart * max(1, len(parts)))(*parts), len(parts)
        if strengths is not None:
            params.strengths, params.strength_count = (ctypes.c_float * max(1, len(strengths)))(*strengths), len(strengths)
        params.move, params.batch = move.encode() if move is not None else None, batch
        further = [self.extra(name, array) for name, array in (extras or {}).items()]
        params.extras, params.extra_count = (Extra * max(1, len(further)))(*further), len(further)
        handle = ctypes.c_void_p()
        self.library.call("sdic_edit", self.handle, inversion.handle, ctypes.byref(params), ctypes.byref(handle))
        return self.result(handle)

    def baseline(self, inversion: NativeResult, batch: int = 0) -> NativeResult:
        handle = ctypes.c_void_p()
        self.library.call("sdic_baseline", self.handle, inversion.handle, ctypes.c_size_t(batch), ctypes.byref(handle))
        return self.result(handle)
