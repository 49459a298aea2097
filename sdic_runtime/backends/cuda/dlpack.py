"""DLPack capsules: tensors in and out without a copy. The structures are those of the DLPack standard, version 0.8."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from sdic_runtime.errors import BackendError

CPU, CUDA, CUDA_MANAGED = 1, 2, 13
CODES = {"i": 0, "u": 1, "f": 2}  # numpy's kind -> DLPack's type code
KINDS = {code: kind for kind, code in CODES.items()}
NAME, USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int), ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    """Its deleter takes a pointer to it."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_api = ctypes.pythonapi
_api.PyCapsule_New.restype, _api.PyCapsule_New.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_IsValid.restype, _api.PyCapsule_IsValid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype, _api.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_SetName.restype, _api.PyCapsule_SetName.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_held: dict[int, tuple[Any, ...]] = {}  # address of a structure -> what must live as long as it


@_Deleter
def _delete(pointer: Any) -> None:
    _held.pop(ctypes.addressof(pointer.contents), None)


@_CapsuleDestructor
def _destroy(capsule: int) -> None:
    """The capsule goes; where nobody took the tensor, so does its structure."""
    if _raw_is_valid(capsule, NAME):
        _held.pop(_raw_pointer(capsule, NAME), None)


def to_capsule(owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int]) -> Any:
    """A capsule for the dense tensor at `address`; `owner` lives until the consumer lets go."""
    dimensions = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    managed = _Managed()
    managed.tensor = _Tensor(address, _Device(*device), len(shape), _Type(CODES[dtype.kind], 8 * dtype.itemsize, 1), dimensions, None, 0)
    managed.deleter = _delete
    pointer = ctypes.addressof(managed)
    _held[pointer] = (managed, dimensions, owner)
    return _api.PyCapsule_New(pointer, NAME, ctypes.cast(_destroy, ctypes.c_void_p))


class Borrowed:
    """A tensor of another library, taken over by DLPack; given back when this object goes."""

    def __init__(self, source: Any, stream: int | None = None) -> None:
        """`source` has `__dlpack__`; on a GPU its work is ordered before that of `stream`. Raises BackendError for what is not dense."""
        on_gpu = source.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
        capsule = source.__dlpack__(stream=stream) if on_gpu else source.__dlpack__()
        if not _api.PyCapsule_IsValid(capsule, NAME):
            raise BackendError("the tensor's DLPack capsule was used before; hand over a new one")
        self._managed = _Managed.from_address(_api.PyCapsule_GetPointer(capsule, NAME))
        _api.PyCapsule_SetName(capsule, USED)
        tensor = self._managed.tensor
        self.shape = tuple(tensor.shape[index] for index in range(tensor.ndim))
        self.address = int(tensor.data or 0) + tensor.byte_offset
        self.device = (tensor.device.device_type, tensor.device.device_id)
        kind = KINDS.get(tensor.dtype.code)
        if kind is None or tensor.dtype.lanes != 1:
            raise BackendError(f"the tensor has DLPack type code {tensor.dtype.code}; give float32")
        self.dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
        if tensor.strides and not self._dense([tensor.strides[index] for index in range(tensor.ndim)]):
            raise BackendError(f"the tensor of shape {list(self.shape)} is not contiguous; call .contiguous() on it first")

    def _dense(self, strides: list[int]) -> bool:
        expected = (prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return all(size == 1 or stride == want for size, stride, want in zip(self.shape, strides, expected, strict=True))

    def __del__(self) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and managed.deleter:
            managed.deleter(ctypes.byref(managed))
