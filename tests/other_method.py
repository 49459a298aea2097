"""A method that exists in these tests alone: other stages and tensors, an unrolled loop, edits that read the input picture and run stages
again, two moved codes, another program for GANSpace.

    invert  code = start(image); three times: draft = draw(code), code = refine(image, draft, code); then
            sketch, draft = draw(code); offset, detail = compare(image, draft); picture = paint(sketch, detail, code, offset)
    edit    sketch, draft = draw(code); detail = compare(image, draft); picture = paint(sketch, detail, code, offset)
    turn    sketch = draw(code); picture = paint(sketch, zeros, code, offset)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from built_once import built_once
from exported_once import exporting_once
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdic_export.methods import EXPORTS, ExportCode
from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import CheckpointError
from sdic_runtime.program import Move, Stage
from sdic_train.methods import METHODS
from sdic_train.methods.base import MethodCode, Tables

NAME = "sketches"
SIDE, WORKING, ROWS, WIDTH, CHANNELS = 32, 16, 4, 8, 6
ROUNDS, SEED = 3, 1


@dataclass(frozen=True)
class Config:
    """What `MethodCode.tables` reads; a model of this method has one size."""

    domain: str = "sketches"
    visible_rows: tuple[int, int] = (0, SIDE)


def tables(config: Config) -> Tables:
    return Tables(
        sizes={"R": SIDE, "S": WORKING, "L": ROWS, "C": WIDTH, "Q": CHANNELS},
        tensors={
            "image": ("N", 3, "S", "S"),
            "code": ("N", "L", "C"),
            "refined": ("N", "L", "C"),
            "offset": ("N", "L", "C"),
            "draft": ("N", 3, "S", "S"),
            "sketch": ("N", "Q", "S", "S"),
            "detail": ("N", "Q", 8, 8),
            "picture": ("N", 3, "R", "R"),
        },
        stages={
            "start": Stage(("image",), ("code",)),
            "draw": Stage(("code",), ("sketch", "draft")),
            "refine": Stage(("image", "draft", "code"), ("refined",)),
            "compare": Stage(("image", "draft"), ("offset", "detail")),
            "paint": Stage(("sketch", "detail", "code", "offset"), ("picture",)),
        },
    )


def invert(backend: Any, image: Any) -> dict[str, Any]:
    code = backend.run("start", {"image": image}, ["code"])["code"]
    for _ in range(ROUNDS):
        draft = backend.run("draw", {"code": code}, ["draft"])["draft"]
        code = backend.run("refine", {"image": image, "draft": draft, "code": code}, ["refined"])["refined"]
    drawn = backend.run("draw", {"code": code}, ["sketch", "draft"])
    found = backend.run("compare", {"image": image, "draft": drawn["draft"]}, ["offset", "detail"])
    return {"code": code, "offset": found["offset"], **drawn, **paint(backend, drawn, found["detail"], code, found["offset"])}


def paint(backend: Any, drawn: dict[str, Any], detail: Any, code: Any, offset: Any) -> dict[str, Any]:
    inputs = {"sketch": drawn["sketch"], "detail": detail, "code": code, "offset": offset}
    return backend.run("paint", inputs, ["picture"])  # type: ignore[no-any-return]


def edit(backend: Any, image: Any, code: Any, offset: Any) -> dict[str, Any]:
    drawn = backend.run("draw", {"code": code}, ["sketch", "draft"])
    found = backend.run("compare", {"image": image, "draft": drawn["draft"]}, ["detail"])
    return paint(backend, drawn, found["detail"], code, offset)


def turn(backend: Any, code: Any, offset: Any, detail: Any) -> dict[str, Any]:
    return paint(backend, backend.run("draw", {"code": code}, ["sketch"]), detail, code, offset)


class Start(nn.Module):
    """image -> code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, CHANNELS, 4, 4), nn.Linear(CHANNELS * 16, ROWS * WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.conv(image)).flatten(1)).unflatten(1, (ROWS, WIDTH))


class Draw(nn.Module):
    """code -> sketch, draft."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(ROWS * WIDTH, CHANNELS * 16), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.colour = nn.Conv2d(CHANNELS, 3, 1)
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        x = self.linear(code.flatten(1)).unflatten(1, (CHANNELS, 4, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)
        x = torch.tanh(self.conv(x))
        return torch.tanh(self.last(x)), torch.tanh(self.colour(x))


class Refine(nn.Module):
    """image, draft, code -> refined."""

    def __init__(self) -> None:
        super().__init__()
        self.start = Start()

    def forward(self, image: Tensor, draft: Tensor, code: Tensor) -> Tensor:
        return code + 0.5 * self.start(image - draft)


class Compare(nn.Module):
    """image, draft -> offset, detail."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.conv = Start(), nn.Conv2d(3, CHANNELS, 2, 2)

    def forward(self, image: Tensor, draft: Tensor) -> tuple[Tensor, Tensor]:
        return self.start(image + draft), torch.tanh(self.conv(image - draft))


class Paint(nn.Module):
    """sketch, detail, code, offset -> picture."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.conv = nn.Linear(ROWS * WIDTH, CHANNELS), nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, sketch: Tensor, detail: Tensor, code: Tensor, offset: Tensor) -> Tensor:
        style = self.style((code + offset).flatten(1))[:, :, None, None]
        x = sketch * style + detail.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), self.conv.weight, self.conv.bias, padding=1)


class Sketches(nn.Module):
    """The networks of all stages."""

    generator = None  # what PyTorch's backend hands to `functions`

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.start, self.draw, self.refine, self.compare, self.paint = Start(), Draw(), Refine(), Compare(), Paint()


def plain_inversion(model: Sketches, image: Tensor) -> dict[str, Tensor]:
    """What the method keeps of `image`, without programs."""
    code = model.start(image)
    for _ in range(ROUNDS):
        code = model.refine(image, model.draw(code)[1], code)
    sketch, draft = model.draw(code)
    offset, detail = model.compare(image, draft)
    return {"image": image, "code": code, "offset": offset, "picture": model.paint(sketch, detail, code, offset)}


def plain_edit(model: Sketches, image: Tensor, code: Tensor, offset: Tensor) -> Tensor:
    """The picture of moved codes, without programs."""
    sketch, draft = model.draw(code)
    return model.paint(sketch, model.compare(image, draft)[1], code, offset)


def plain_turn(model: Sketches, code: Tensor, offset: Tensor) -> Tensor:
    """The picture of a code moved by GANSpace, without programs."""
    return model.paint(model.draw(code)[0], torch.zeros(len(code), CHANNELS, 8, 8), code, offset)


def stages(model: Sketches) -> dict[str, nn.Module]:
    return {name: getattr(model, name) for name in tables(model.config).stages}


def functions(model: Sketches, generator: Any) -> dict[str, Callable[..., dict[str, Any]]]:
    def named(name: str, module: nn.Module) -> Callable[..., dict[str, Any]]:
        table = tables(model.config).stages[name]

        def run(**inputs: Any) -> dict[str, Any]:
            results = module(*(inputs[tensor] for tensor in table.inputs))
            return dict(zip(table.outputs, results if isinstance(results, tuple) else (results,), strict=True))

        return run

    return {name: named(name, module) for name, module in stages(model).items()}


def model(seed: int = 0) -> Sketches:
    """Networks with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Sketches().eval().requires_grad_(False)


def save(path: Path, networks: Sketches) -> Path:
    save_file(networks.state_dict(), path)
    return path


def load(path: Path, domain: str | None) -> Sketches:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    networks = model()
    networks.load_state_dict(load_file(path))
    return networks


class Rows(nn.Module):
    """Some rows of a picture."""

    def __init__(self, whole: nn.Module, first: int, end: int) -> None:
        super().__init__()
        self.whole, self.rows = whole, slice(first, end)

    def forward(self, sketch: Tensor, detail: Tensor, code: Tensor, offset: Tensor) -> Tensor:
        picture: Tensor = self.whole(sketch, detail, code, offset)[:, :, self.rows]
        return picture


class Halved(nn.Module):
    """The same numbers by other operations."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        sketch, draft = self.whole(code)
        return (sketch + sketch) * 0.5, (draft + draft) * 0.5


def halved(module: nn.Module, *example: Tensor) -> list[nn.Module]:
    return [Halved(module)]


def banded(module: nn.Module, *example: Tensor) -> list[nn.Module]:
    return [Rows(module, 0, 20), Rows(module, 20, SIDE)]


def nothing_gained(module: nn.Module, *example: Tensor) -> None:
    return None


METHOD = MethodCode(
    name=NAME,
    tables=tables,
    chains={"invert": invert, "edit": edit, "turn": turn},
    keeps=("image", "code", "offset", "picture"),
    moves={"plain": Move("edit", ("code", "offset"), ("direction",)), "turned": Move("turn", ("code",), ("ganspace",))},
    zeros={"turn": ("detail",)},
    load=load,
    functions=functions,
)


def register() -> None:
    """Make the method known to training and export, as a package of it would."""
    METHODS[NAME] = METHOD
    EXPORTS[NAME] = ExportCode(METHOD, stages, {"draw": halved, "paint": banded, "start": nothing_gained})


def build(folder: Path, **options: Any) -> Path:
    """The bundle `folder`/bundle of `model(SEED)`, with a direction "along" and a PCA basis "basis"; the checkpoint lies beside it."""
    from sdic_export.build import BuildOptions
    from sdic_export.build import build as build_bundle

    register()
    checkpoint = save(folder / "sketches.safetensors", model(SEED))
    save_direction(folder / "along.safetensors", direction())
    save_direction(folder / "basis.safetensors", basis())
    places = [folder / f"{name}.safetensors" for name in ("along", "basis")]
    build_bundle(BuildOptions(checkpoint, folder / "bundle", method=NAME, directions=places, **options))
    return folder / "bundle"


def built(factory: pytest.TempPathFactory) -> Path:
    """The same, once for all processes of a test run. No test may change it."""
    register()
    with exporting_once(factory):
        return built_once(factory, NAME, build) / "bundle"


def direction() -> Direction:
    return Direction(np.random.default_rng(5).standard_normal((ROWS, WIDTH)).astype(np.float32) * np.float32(0.3), "along")


def basis() -> Pca:
    rng = np.random.default_rng(6)
    return Pca(rng.standard_normal((1, WIDTH)), np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][:, None], np.ones(WIDTH), "basis")


def images(count: int) -> np.ndarray:
    """Input pictures float32 [count, 3, S, S]."""
    return np.random.default_rng(count).uniform(-1, 1, (count, 3, WORKING, WORKING)).astype(np.float32)
