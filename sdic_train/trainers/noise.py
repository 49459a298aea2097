"""New noise maps for the pictures of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sdic_train.networks.stylegan2 import Generator


def new_noises(generator: Generator, random: torch.Generator, batch: int = 1, size: int | None = None) -> list[Tensor]:
    """Random noise maps [batch, 1, H, W] for every layer of `generator`, or for those up to `size`, on its device."""
    maps = [noise for noise in generator.noises.maps() if size is None or noise.shape[-1] <= size]
    return [torch.randn(batch, *noise.shape[1:], generator=random).to(noise.device, non_blocking=True) for noise in maps]


@contextmanager
def noise(generator: Generator, maps: Sequence[Tensor]) -> Iterator[None]:
    """Lets the layers of `generator` take the noise `maps` [N, 1, H, W] of N pictures, again from the first where there are more pictures,
    such as those that it made of them; its own afterwards, and without `maps`."""

    def taking(given: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        def hook(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            x, style, _own = inputs
            rows = torch.arange(len(x), device=given.device) % len(given)
            return x, style, given[rows]

        return hook

    hooks = [generator.styled(layer).register_forward_pre_hook(taking(given)) for layer, given in enumerate(maps)]
    generator.noises.lent = maps  # to what does not call its layers
    try:
        yield
    finally:
        generator.noises.lent = ()
        for each in hooks:
            each.remove()
