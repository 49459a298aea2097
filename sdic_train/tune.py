"""Pivotal tuning from picture files to a checkpoint, of which `sdic-export build` makes a bundle for one person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_runtime.inversion import Inversion
from sdic_runtime.pictures import fit, load_picture
from sdic_train.checkpoints.load import ITERATIONS, load_generator, read_checkpoint, save_checkpoint
from sdic_train.config import ModelConfig
from sdic_train.methods import METHODS, method_named, method_of_file
from sdic_train.trainers.tuning import Tuning, TuningRecipe, TuningStep, pivots_of


@dataclass(frozen=True)
class TuneOptions:
    """What to tune to what. `others`, `method`: see `MethodCode.load`. `pivot`: a saved inversion, one of the pictures in their order; the
    encoder's codes where None. `domain`: of a file that does not say."""

    pictures: Sequence[Path]
    model: Path
    out: Path
    others: Sequence[Path] = ()
    method: str | None = None
    pivot: Path | None = None
    domain: str | None = None
    steps: int = 350  # per picture
    recipe: TuningRecipe = field(default_factory=TuningRecipe)


def tune(options: TuneOptions, perceptual: nn.Module | None, device: torch.device) -> Iterator[TuningStep]:
    """Tune the model's generator, step by step, and write the checkpoint behind the last one: the generator with the encoder, if the model
    has one. Raises SdicError."""
    if options.out.suffix != ".safetensors":
        raise ArgumentError(f'the checkpoint is "{options.out}"; give a name that ends in .safetensors')
    if not options.pictures:
        raise ArgumentError("there is no picture to tune to; give at least one")
    model = _model(options)
    config: ModelConfig = model.config
    pivots = _given_pivots(options, config) if options.pivot else pivots_of(model, pictures_of(options.pictures, config, config.working))
    targets, judge = pictures_of(options.pictures, config, config.resolution), None
    if perceptual is not None:
        judge = perceptual.to(device).eval().requires_grad_(False)
    generator, average = model.generator.to(device), getattr(model, "latent_avg", None)
    tuning = Tuning(
        generator, pivots.to(device), targets.to(device), options.recipe, judge, None if average is None else average.to(device)
    )
    yield from tuning.steps(options.steps)
    encoder = getattr(model, "encoder", None)
    parts = {"generator": generator} | ({} if encoder is None else {"encoder": encoder})
    trained = read_checkpoint(options.model, sure=False).iterations
    said = {"tuned": f"to {len(pivots)} pictures", **({} if trained is None else {ITERATIONS: str(trained)})}
    save_checkpoint(options.out, config, average, said, **parts)


def pictures_of(paths: Sequence[Path], config: ModelConfig, side: int) -> Tensor:
    """The pictures, resized to [N, 3, side, side] in [-1, 1], letterboxed where the generator's are. Raises PictureError."""
    scale = side / config.resolution
    rows = (round(config.visible_rows[0] * scale), round(config.visible_rows[1] * scale))
    return torch.from_numpy(np.concatenate([fit(load_picture(path), {"R": side, "S": side}, rows) for path in paths]))


def _model(options: TuneOptions) -> Any:
    """The networks of the checkpoint; of a generator alone, which needs a pivot, that."""
    if options.method is None and read_checkpoint(options.model, sure=False).kind == "StyleGAN2":
        if options.pivot is None:
            raise ArgumentError(f'"{options.model}" is a generator without an encoder; give a saved inversion with --pivot')
        return _Alone(load_generator(options.model, options.domain))
    code = method_named(options.method) if options.method else method_of_file(options.model)
    model = METHODS[code.name].read(options.model, options.domain, options.others)
    if not hasattr(model, "encoder") and options.pivot is None:
        raise ArgumentError(f'a model of the method "{code.name}" has no encoder to tune with; give a saved inversion with --pivot')
    return model


class _Alone(nn.Module):
    """A generator in place of a model."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator, self.config = generator, generator.config


def _given_pivots(options: TuneOptions, config: ModelConfig) -> Tensor:
    assert options.pivot is not None
    inversion = Inversion.load(options.pivot)
    latent, shape = inversion.latent, (len(options.pictures), config.rows, config.style_width)
    if latent.shape != shape:
        raise ArgumentError(f"{options.pivot} holds codes of shape {list(latent.shape)}; expected {list(shape)}, one for each picture")
    return torch.from_numpy(np.array(latent))
