"""What an ONNX file asks of whoever loads it: which operators it runs and which other files it reads. Read off the protobuf wire format,
whose weights are skipped, so that no file is loaded that was not looked at before."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sdic_runtime.files import open_regular

STANDARD_DOMAINS = ("", "ai.onnx")
OPERATORS = Path(__file__).with_name("operators.json")
DEEPEST = 32  # messages in each other
MOST_FIELDS = 5_000_000
LARGEST_TEXT = 4096  # bytes of a name
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
LONGEST_VARINT = 10  # bytes

# Message -> field number -> the message that it holds, or what a text means to us. Other fields are skipped.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {4: "operator", 5: "AttributeProto", 7: "domain"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {1: "key", 2: "value"},
}


class OnnxFileError(ValueError):
    """Why a file is no ONNX file that can be used, in a few words. Callers make the sentence."""


@dataclass
class OnnxFile:
    """`operators`: "Conv", or "domain:Name" of those that are not ONNX's own. `locations`: files of external weights, as they are named."""

    operators: set[str] = field(default_factory=set)
    locations: set[str] = field(default_factory=set)

    @property
    def unknown(self) -> list[str]:
        """The operators that could do more than compute tensors from tensors: loops, branches, and those of other domains."""
        return sorted(self.operators - known_operators())


@cache
def known_operators() -> frozenset[str]:
    """Operators that compute tensors from tensors in a number of steps that their sizes decide."""
    return frozenset(json.loads(OPERATORS.read_text(encoding="utf-8")))


def read_onnx_file(path: Path) -> OnnxFile:
    """Raises OSError, or OnnxFileError for what is not a sequence of protobuf fields."""
    found = OnnxFile()
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise OnnxFileError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Reader(data, found).message("ModelProto", 0, len(data), 0)
    return found


class _Reader:
    """Walks messages; the fields that matter go to `found`."""

    def __init__(self, data: mmap.mmap, found: OnnxFile) -> None:
        self._data, self._found, self._fields = data, found, 0

    def message(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth > DEEPEST:
            raise OnnxFileError(f"its graphs are nested more than {DEEPEST} levels deep")
        table, texts = MESSAGES[kind], {}
        for number, first, last in self._parts(start, end):
            meaning = table.get(number)
            if meaning in MESSAGES:
                self.message(meaning, first, last, depth + 1)
            elif meaning is not None:
                texts[meaning] = self._text(first, last)
        if kind == "NodeProto":
            domain, operator = texts.get("domain", ""), texts.get("operator", "")
            self._found.operators.add(operator if domain in STANDARD_DOMAINS else f"{domain}:{operator}")
        elif texts.get("key") == "location":
            self._found.locations.add(texts.get("value", ""))

    def _text(self, first: int, last: int) -> str:
        if last - first > LARGEST_TEXT:
            raise OnnxFileError(f"it has a name of {last - first} bytes")
        return bytes(self._data[first:last]).decode("utf-8", "backslashreplace")

    def _parts(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, first and last byte of every field that has a length."""
        while position < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise OnnxFileError(f"it has more than {MOST_FIELDS} fields")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise OnnxFileError("it has a field without a number")
            size = 0
            if wire == LENGTH:
                size, position = self._varint(position, end)
            elif wire == VARINT:
                _, position = self._varint(position, end)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise OnnxFileError(f"it has a field of the wire type {wire}")
            if size > end - position:
                raise OnnxFileError("it ends in the middle of a field")
            if wire == LENGTH:
                yield number, position, position + size
            position += size

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for index in range(LONGEST_VARINT):
            if position >= end:
                break
            byte = self._data[position]
            position += 1
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value, position
        raise OnnxFileError("it ends in the middle of a number")
