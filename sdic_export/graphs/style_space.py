"""The stages of a method with style space as modules that export well: those of the generator take offsets to their styles as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sdic_export.graphs.folded import constant
from sdic_train.methods.style_space import CODE, NO_STYLES, is_styled, with_style_space
from sdic_train.networks.style_space import StyledCode, layer_widths

if TYPE_CHECKING:
    from sdic_export.methods import Arrange, ExportCode


class StyledGraph(nn.Module):
    """What `inner` takes, then styles [N, M] -> what it gives. `place`: of the code among its inputs."""

    def __init__(self, inner: nn.Module, place: int) -> None:
        super().__init__()
        self.inner, self.place = inner, place

    def forward(self, *tensors: Tensor) -> Any:
        inputs: list[Any] = list(tensors[:-1])
        inputs[self.place] = StyledCode(inputs[self.place], tensors[-1])
        return self.inner(*inputs)


class NoStylesGraph(nn.Module):
    """image -> styles: zeros for as many pictures."""

    zeros: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        import torch

        constant(self, "zeros", torch.zeros(1, sum(layer_widths(config))))

    def forward(self, image: Tensor) -> Tensor:
        return self.zeros.expand(image.shape[0], -1)


def styled_export(export: ExportCode) -> ExportCode:
    """`export` with style space. Its graphs of the generator are optimized for CPUs as before."""
    return replace(
        export,
        code=with_style_space(export.code),
        modules=partial(_modules, export),
        cpu={name: _arranged(arrange) if is_styled(name) else arrange for name, arrange in export.cpu.items()},
        openvino={name: _arranged(arrange) if arrange and is_styled(name) else arrange for name, arrange in export.openvino.items()},
    )


def _modules(export: ExportCode, model: Any) -> Mapping[str, nn.Module]:
    tables = export.code.for_model(model.config).tables(model.config)
    stages = {**tables.stages, **{name: stage for cut in tables.cuts.values() for name, stage in cut.stages.items()}}

    def styled(name: str, module: nn.Module) -> nn.Module:
        return StyledGraph(module, stages[name].inputs.index(CODE)).eval() if is_styled(name) else module

    modules = {name: styled(name, module) for name, module in export.modules(model).items()}
    return {NO_STYLES: NoStylesGraph(model.config).eval(), **modules}


def _arranged(arrange: Arrange) -> Callable[..., list[nn.Module] | None]:
    def arranged(graph: Any, *example: Tensor) -> list[nn.Module] | None:
        parts = arrange(graph.inner, *example[:-1])
        return None if parts is None else [StyledGraph(part, graph.place) for part in parts]

    return arranged
