"""What the runs of `train_table1.py` trained, as small files without what all share."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import demo_state
import wall_time

ROOT = wall_time.ROOT
BASE = ROOT / "sdic_train/demo/portraits.safetensors"
DIRECTIONS = ROOT / "examples/table1/directions"  # those that StyleFeatureEditor was trained with
PART = 14_500_000  # bytes of an archive
JUDGE, READER = "judge.safetensors", "reader.safetensors"  # of the evaluation, and of the losses
SHARED = "shared"  # what the metadata of a packed file call the tensors that are those of BASE


class Refused(Exception):
    """What was asked for cannot be done: one sentence that says why, and what to do."""


def made(folder: Path, option: str) -> Path:
    """The folder of an option, which is made where it is missing. Raises Refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{option} {folder} cannot be made a folder ({error.strerror}); name another one") from error
    return folder


def pack(results: Mapping[str, Path], others: Mapping[str, Path], out: Path, single: bool) -> None:
    """Write what every run trained, name -> its checkpoint; `others`: name -> further file to take along. `single`: as few archives."""
    made(out, "--out")
    files = [packed(path, out / f"{name}.safetensors") for name, path in results.items()]
    files += [Path(shutil.copy(path, out / name)) for name, path in others.items()]
    if single:
        print("\n".join(f"{path}: {path.stat().st_size / 1e6:.2f} MB" for path in archived(out, files)))


def packed(path: Path, small: Path) -> Path:
    """Write what a checkpoint has beside BASE as `small`, in float16 where that can hold it."""
    import torch

    from sdic_train.checkpoints.files import read_safetensors, write_safetensors

    base, _ = read_safetensors(BASE)
    tensors, metadata = read_safetensors(path)
    own = {name: tensor for name, tensor in tensors.items() if name not in base or not torch.equal(tensor.float(), base[name].float())}
    shared = json.dumps(sorted(tensors.keys() - own.keys()))
    write_safetensors(small, demo_state.half(own), {**metadata, SHARED: shared})
    print(f"{small}: {small.stat().st_size / 1e6:.2f} MB, {metadata['trained']}")
    return small


def archived(out: Path, files: Sequence[Path]) -> list[Path]:
    """The files as compressed archives of at most `PART` bytes each in `out`, where they are removed."""
    parts, sizes = list[list[Path]](), list[int]()
    for path in sorted(files, key=lambda path: -path.stat().st_size):
        size = path.stat().st_size + 2048  # with its header and padding
        place = next((index for index, taken in enumerate(sizes) if taken + size <= PART), None)
        if place is None:
            parts.append([])
            sizes.append(0)
            place = len(parts) - 1
        parts[place].append(path)
        sizes[place] += size
    archives = []
    for index, part in enumerate(parts):
        archives.append(out / f"table1_{index}.tar.gz")
        with tarfile.open(archives[-1], "w:gz", compresslevel=6) as archive:
            for path in part:
                archive.add(path, path.name)
                path.unlink()
    return archives


def unpack(packed: Path, out: Path) -> list[Path]:
    """Write the whole checkpoints of what `pack` wrote to `packed`, and that of e4e, which is named first. Raises Refused."""
    from sdic_train.checkpoints.files import read_safetensors, write_safetensors

    source, (base, about) = packed, read_safetensors(BASE)
    written = list[Path]()
    if archives := sorted(packed.glob("table1_*.tar*")):
        opened = out / "packed"
        if opened.resolve() != packed.resolve():
            shutil.rmtree(opened, ignore_errors=True)  # runs of before that are not in these archives
        for archive in archives:
            with tarfile.open(archive) as tar:
                tar.extractall(opened, filter="data")
        packed = opened
    for path in sorted(packed.glob("*.safetensors")):
        tensors, metadata = read_safetensors(path)
        if SHARED in metadata:
            whole = {**{name: base[name] for name in json.loads(metadata.pop(SHARED))}, **tensors}
            written.append(out / path.name)
            write_safetensors(written[-1], whole, metadata)
    if not written:
        raise Refused(f"--packed {source} holds no packed checkpoints; name the folder that `pack` wrote")
    e4e = {name: tensor for name, tensor in base.items() if not name.startswith(("dipn.", "dicn."))}
    write_safetensors(out / "e4e.safetensors", e4e, about)
    return [out / "e4e.safetensors", *written]
