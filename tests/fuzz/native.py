"""Mutated files for libsdic through its C interface: `python -m fuzz.native LIBSDIC --cases 500`, best on a library with sanitizers.

Every answer must be a status that a caller can act on, with a sentence. An inversion that Python reads is read here, and no other.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from fuzz.targets import make_bundle, make_inversion, read_inversion, sound_bundle, verdict

OK, INTERNAL = 0, 9
SECONDS = 10.0
LONGEST = 400


def prepared(path: Path | str) -> ctypes.CDLL:
    """The library with what is called here."""
    library = ctypes.CDLL(str(path))
    library.sdic_last_error.restype = ctypes.c_char_p
    for name in ("sdic_close", "sdic_result_free"):
        getattr(library, name).restype = None
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def answer(library: ctypes.CDLL, status: int) -> tuple[str, str]:
    """("right" or "refused", the sentence), or ("fault", why)."""
    sentence = library.sdic_last_error()
    try:
        text = sentence.decode()
    except UnicodeDecodeError:
        return "fault", repr(sentence)
    if status == OK:
        return ("fault" if text else "right"), text
    sound = 0 < status < INTERNAL and 0 < len(sentence) <= LONGEST and text.isprintable()
    return ("refused" if sound else "fault"), f"{status}: {text}"


def inversion(library: ctypes.CDLL, path: Path) -> tuple[str, str]:
    handle = ctypes.c_void_p()
    kind, said = answer(library, library.sdic_inversion_load(str(path).encode(), ctypes.byref(handle)))
    library.sdic_result_free(handle)
    python, words = verdict(read_inversion, path)
    return (kind, said) if kind == python else ("fault", f"{kind} ({said}), and Python: {python} ({words})")


def bundle(library: ctypes.CDLL, path: Path) -> tuple[str, str]:
    """Open it; where that works, ask for every direction of the sound bundle."""
    handle = ctypes.c_void_p()
    kind, said = answer(library, library.sdic_open(str(path).encode(), None, ctypes.byref(handle)))
    if kind == "right":
        info = (ctypes.c_size_t * 8)()
        for name in sorted(json.loads((sound_bundle() / "bundle.json").read_text())["directions"]):
            library.sdic_direction_info_default(info)
            kind, said = answer(library, library.sdic_pipeline_direction(handle, name.encode(), info))
            if kind != "right":
                break
    library.sdic_close(handle)
    return kind, said


def run(library: ctypes.CDLL, cases: int, folder: Path) -> tuple[Counter[str], list[tuple[int, str]]]:
    """How many answers of each kind, and the faults by the number of their case."""
    kinds: Counter[str] = Counter()
    faults = []
    for case in range(cases):
        place = folder / str(case)
        place.mkdir()
        rng = np.random.default_rng([11, case])
        begun = time.perf_counter()
        kind, said = bundle(library, make_bundle(rng, place)) if case % 4 == 0 else inversion(library, make_inversion(rng, place))
        kinds[kind] += 1
        if kind == "fault" or time.perf_counter() - begun > SECONDS:
            faults.append((case, said))
    return kinds, faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fuzz.native", description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--cases", type=int, default=500)
    wanted = parser.parse_args()
    sound_bundle()
    with tempfile.TemporaryDirectory() as temporary:
        found, wrong = run(prepared(wanted.library), wanted.cases, Path(temporary))
    print(f"C interface: {wanted.cases} cases, {dict(found)}")
    for number, sentence in wrong[:20]:
        print(f"  case {number}: {sentence!r}")
    raise SystemExit(1 if wrong else 0)
