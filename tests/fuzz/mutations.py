"""Mutations of files, the same for the same number: bytes, JSON values, and the parts of containers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
INTERESTING = (0, 1, 7, 127, 128, 255)
TOKENS = (b"\x00" * 8, b"\xff" * 8, b"[" * 300, b"..", b"/etc/passwd", b"\x1b[31m", b"\xed\xa0\x80", b"1e400", b"NaN", b"location")
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1 << 16,
    1 << 31,
    1 << 63,
    10**30,
    10**400,
    1.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x" * 5000,
    "\x1b[31m\n",
    "\ud800",
    "../../x",
    "/dev/zero",
    [],
    [[]],
    {},
    {"a": {}},
    [1, 2, 3],
    ["N", 3],
)


def mutated_bytes(rng: Rng, data: bytes) -> bytes:
    """One to four changes of bytes."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        position = int(rng.integers(0, len(content) + 1))
        length = int(rng.integers(1, 40))
        kind = int(rng.integers(0, 7))
        if kind == 0 and position < len(content):
            content[position] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and position < len(content):
            content[position] = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
        elif kind == 2:
            del content[position : position + length]
        elif kind == 3:
            content[position:position] = content[position : position + length]
        elif kind == 4:
            del content[position:]
        elif kind == 5:
            token = TOKENS[int(rng.integers(0, len(TOKENS)))]
            content[position : position + (len(token) if rng.integers(0, 2) else 0)] = token
        else:
            number = struct.pack("<Q", int(rng.choice(np.array([0, 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1], np.uint64))))
            content[position : position + 8] = number
    return bytes(content)


def mutated_json(rng: Rng, text: bytes | str) -> str:
    """A value somewhere in it replaced, removed, or moved to another place; sometimes its text damaged, or nested deeply."""
    data = json.loads(text)
    for _ in range(int(rng.integers(1, 3))):
        places = list(_places(data))
        holder, key = places[int(rng.integers(0, len(places)))]
        kind = int(rng.integers(0, 6))
        if kind == 0:
            del holder[key]
        elif kind == 1 and len(places) > 1:
            other, name = places[int(rng.integers(0, len(places)))]
            holder[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
        elif kind == 2 and isinstance(holder, dict):
            holder[str(VALUES[int(rng.integers(13, 19))])] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += int(rng.choice(np.array([-1, 1, -holder[key], 1000])))
        else:
            holder[key] = VALUES[int(rng.integers(0, len(VALUES)))]
        if not (data and isinstance(data, dict | list)):
            break
    result = json.dumps(data)
    if rng.integers(0, 12) == 0:
        result = result.replace(": ", ': [[["', 1) if rng.integers(0, 2) else '{"a":' * 2000 + result
    return result


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(data: Any) -> Any:
    if isinstance(data, dict | list):
        for key in list(_keys(data)):
            yield data, key
            yield from _places(data[key])


def mutated_safetensors(rng: Rng, data: bytes) -> bytes:
    """Its header's JSON, the JSON inside its metadata, or its bytes."""
    kind = int(rng.integers(0, 4))
    if kind == 0:
        return mutated_bytes(rng, data)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    inner = [key for key, value in header.get("__metadata__", {}).items() if value[:1] in ("{", "[")]
    if kind == 1 and inner:
        key = inner[int(rng.integers(0, len(inner)))]
        header["__metadata__"][key] = mutated_json(rng, header["__metadata__"][key])
        text = json.dumps(header).encode()
    else:
        text = mutated_json(rng, data[8:end]).encode(errors="replace")
    return struct.pack("<Q", len(text)) + text + data[end:]


def mutated_archive(rng: Rng, data: bytes, change: Callable[[Rng, bytes], bytes] = mutated_bytes) -> bytes:
    """One part of a zip archive changed, renamed, dropped or packed; or the archive's own bytes."""
    if rng.integers(0, 4) == 0:
        return mutated_bytes(rng, data)
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        names = source.namelist()
        pickles = [name for name in names if name.endswith(".pkl")] or names
        chosen = (pickles if rng.integers(0, 3) else names)[0 if len(pickles) == 1 else int(rng.integers(0, len(pickles)))]
        kind = int(rng.integers(0, 6))
        for name in names:
            content = source.read(name)
            if name != chosen or kind > 2:
                target.writestr(name, change(rng, content) if name == chosen else content)
            elif kind == 1:
                target.writestr("other/" + name, content)
            elif kind == 2:
                target.writestr(name, content, zipfile.ZIP_DEFLATED)
    return result.getvalue()
