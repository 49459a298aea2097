"""What stands for the classes and functions that a pickle names. Nothing is imported or run for a file: a name is answered with something
that keeps what it is given, or the file is refused.

Files of training hold more than weights: a NumPy number, a path, a class of the program that wrote them. Such things are read as plain
values or skipped. A name of Python's own library that is no plain type is what a file that wants to run code has, and is refused.
"""

from __future__ import annotations

import argparse
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

RUNS = 'is a pickle that asks to run code ("{}"), which is refused; give a file of weights alone'
MOST_PICKLES = 5  # of an old torch.save: magic number, protocol, system, content, keys
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "cPickle": "pickle"}  # as Python 2 and old protocols write them
OLD_BUILTINS = {"long": "int", "unicode": "str", "xrange": "range"}
TENSORFLOW = ("dnnlib.tflib.", "tfutil.")
# struct's code of what NumPy calls so; a number of any other type is skipped.
NUMBERS = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "b1": "?",
}


class Refused(Exception):
    """A name that a file asks for and that is no plain type."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Damaged(Exception):
    """What no program writes into a file of weights."""


class _Fixed(type):
    """Classes that a pickle cannot write into."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise Damaged(f"{cls.__name__} does not change")


class Skipped(metaclass=_Fixed):
    """Stands for a class: its objects become dictionaries, which take entries and attributes and do nothing."""

    def __new__(cls, *args: object, **options: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class Emptied(metaclass=_Fixed):
    """Stands for a class whose objects take a state of any form, and no entries."""

    __slots__ = ("values",)

    def __init__(self, *args: object) -> None:
        self.values = args

    def __setstate__(self, state: object) -> None:
        return None


class Held(OrderedDict[Any, Any], metaclass=_Fixed):
    """Stands for a class in plain pickles: its objects take entries, items and a state of any form."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__()

    def append(self, item: object) -> None:
        """Omit an item of what was a list."""

    def extend(self, items: object) -> None:
        """Omit the items of what was a list."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class Call:
    """Stands for a function. A pickle may call it and change nothing about it."""

    function: Callable[..., Any]
    __slots__ = ("function",)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: object) -> None:
        raise Damaged("a function does not change")


@dataclass(frozen=True)
class Persistent:
    """An object of NVIDIA's persistent classes, whose source stands in the file and is not looked at."""

    class_name: str
    state: Mapping[str, Any] = field(default_factory=dict)


def persistent(container: Any) -> bool:
    """Whether a file holds NVIDIA's objects: one, or a dictionary of some."""
    return isinstance(container, Persistent) or (
        isinstance(container, dict) and any(isinstance(value, Persistent) for value in container.values())
    )


def _persistent(meta: Any) -> Persistent:
    state = meta.get("state") if isinstance(meta, dict) else None
    return Persistent(str(meta.get("class_name", "")), state) if isinstance(state, dict) else Persistent("")


def _path(*parts: object) -> str:
    return "/".join(str(part) for part in parts)


def _number(kind: Any, content: object = b"") -> object:
    """A NumPy number: its type, and its bytes (as text in pickles of Python 2)."""
    code = NUMBERS.get(str(kind.values[0]).lstrip("<=|")) if isinstance(kind, Emptied) and kind.values else None
    content = content.encode("latin-1") if isinstance(content, str) else content
    if code is None or not isinstance(content, bytes) or len(content) != struct.calcsize(code):
        return None
    return struct.unpack(f"<{code}", content)[0]


def _text(*values: object) -> str:
    return ", ".join(str(value) for value in values if isinstance(value, (str, int, float)))


def _plain_dict(*_: object) -> dict[Any, Any]:
    return {}


def _plain_list(*_: object) -> list[Any]:
    return []


# What PyTorch's own reader does not know and plain types are, by the name in the file.
PLAIN: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "collections.defaultdict": _plain_dict,
    "collections.deque": _plain_list,
    "builtins.dict": Skipped,
    **{f"datetime.{kind}": Emptied for kind in ("datetime", "date", "timedelta", "timezone")},
    "decimal.Decimal": _text,
    "fractions.Fraction": _text,
    "functools.partial": Emptied,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": Emptied,
    **{f"pathlib{part}.{kind}": _path for part in ("", "._local") for kind in ("Path", "PosixPath", "PurePosixPath")},
    **{f"pathlib{part}.{kind}": _path for part in ("", "._local") for kind in ("WindowsPath", "PureWindowsPath", "PurePath")},
    "random.Random": Emptied,
    "types.SimpleNamespace": Emptied,
    "uuid.UUID": Emptied,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    **{f"builtins.{kind}": Emptied for kind in ("list", "tuple", "int", "float", "bool", "str", "bytes", "object", "frozenset")},
    **{f"builtins.{kind}": Emptied for kind in ("slice", "range", "type", "NoneType")},
}


# Of Python's own library, what PyTorch's reader has itself.
TORCH_READS = ("collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.bytearray", "builtins.set", "builtins.complex")


def stand_in(module: str, name: str, otherwise: type = Skipped) -> Any:
    """What a file gets for `module.name`; for a class of some program, `otherwise`. Raises Refused for what is of Python's own library and
    no plain type."""
    full = f"{module}.{name}"
    if full in PLAIN:
        return PLAIN[full]
    if module.startswith("numpy."):
        return Emptied  # an array or a generator of random numbers: its state is no dictionary
    if module.partition(".")[0] in sys.stdlib_module_names or full.startswith(TENSORFLOW):
        raise Refused(full)
    return otherwise


def current_name(module: str, name: str) -> tuple[str, str]:
    """What Python 3 calls `module.name` of Python 2."""
    now = OLD_MODULES.get(module, module)
    return now, OLD_BUILTINS.get(name, name) if now != module else name


def for_torch(names: Iterable[tuple[str, str]], otherwise: type) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What `torch.serialization.safe_globals` takes, for the `names` in a file; PyTorch's own reading of a name counts first."""
    return [(stand_in(module, name, otherwise), f"{module}.{name}") for module, name in names if f"{module}.{name}" not in TORCH_READS]


def names_in(path: Path) -> set[tuple[str, str]]:
    """The classes and functions that a file of torch.save names, as (module, name). Raises what a damaged file raises."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            with archive.open(entry) as stream:
                return set(_globals(stream))
    with path.open("rb") as stream:
        return {name for _ in range(MOST_PICKLES) for name in _globals(stream)}


def _globals(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield current_name(module, name)
