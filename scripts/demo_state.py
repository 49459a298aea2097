"""What a stage of `train_demo.py` leaves, as files small enough to be carried to another machine: weights in half precision, one archive
cut into parts, and a JSON file that says what they hold and what they were made from."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HALF_FROM = 256  # elements from which a tensor is worth rounding
PART = 15_000_000  # bytes of a part
MOST_PARTS = 7  # and a JSON file
GROWN = ("average", "discriminator")  # of a generator's saved state: what the next size starts from


@dataclass(frozen=True)
class Part:
    """One file of an archive."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Left:
    """What a stage has left so far. `made_from`: stage before it -> the digest of what that had left then."""

    stage: str
    finished: list[str]
    complete: bool
    made_from: dict[str, str]
    digest: str = ""
    parts: list[Part] = field(default_factory=list)

    @staticmethod
    def read(stage: str, folders: Iterable[Path]) -> tuple[Left, Path] | None:
        """What is known of a stage in the last of the folders that has it, and that folder."""
        for folder in reversed(list(folders)):
            path = folder / f"{stage}.json"
            if path.is_file():
                values = json.loads(path.read_text(encoding="utf-8"))
                return Left(**{**values, "parts": [Part(**part) for part in values["parts"]]}), folder
        return None


def half(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Large tensors of floating-point numbers in half precision, where that can hold them."""
    found = {}
    for name, tensor in tensors.items():
        small = tensor.half() if tensor.is_floating_point() and tensor.numel() >= HALF_FROM else tensor
        found[name] = (small if bool(small.isfinite().all()) else tensor).contiguous()
    return found


def small_weights(path: Path) -> bytes:
    """A safetensors file with its large tensors in half precision."""
    from safetensors.torch import save

    from sdic_train.checkpoints.files import read_safetensors

    tensors, metadata = read_safetensors(path)
    return bytes(save(half(tensors), metadata))


def small_state(path: Path) -> bytes:
    """A generator's saved state without what only the same run needs."""
    import torch

    from sdic_train.trainers.loops.run import read_state

    state, stream = read_state(path), io.BytesIO()
    torch.save({name: half(state[name]) for name in GROWN}, stream)
    return stream.getvalue()


def pack(out: Path, left: Left, contents: Mapping[str, bytes]) -> Left:
    """Write `contents`, name -> bytes, into `out` as what a stage has left. What is there stays whole until the new is there too."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = stream.getvalue()
    pieces = [whole[start : start + PART] for start in range(0, len(whole), PART)]
    if len(pieces) > MOST_PARTS:
        raise SystemExit(f'the stage "{left.stage}" leaves {len(whole)} bytes, and {MOST_PARTS} files of {PART} can be carried')
    digest = hashlib.sha256(whole).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, piece in enumerate(pieces):
        parts.append(Part(f"{left.stage}.{digest[:8]}.{number}.part", len(piece), hashlib.sha256(piece).hexdigest()))
        replace(out / parts[-1].name, piece)
    told = Left(left.stage, left.finished, left.complete, left.made_from, digest, parts)
    replace(out / f"{left.stage}.json", json.dumps(asdict(told), indent=1).encode())
    names = {part.name for part in parts}
    for path in out.glob(f"{left.stage}.*.part"):
        if path.name not in names:
            path.unlink()
    return told


def replace(path: Path, content: bytes) -> None:
    """Write a file whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def unpack(left: Left, places: Sequence[Path], runs: Path) -> None:
    """Write the runs of a stage below `runs`; its parts lie in any of `places`."""
    whole = bytearray()
    for part in left.parts:
        content = next((path.read_bytes() for path in (place / part.name for place in places) if path.is_file()), b"")
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise SystemExit(
                f'{part.name} of the stage "{left.stage}" is missing or damaged; copy it again to where {left.stage}.json lies'
            )
        whole += content
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as archive:
        archive.extractall(runs, filter="data")
