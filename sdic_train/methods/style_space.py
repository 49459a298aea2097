"""A method whose edits reach style space: its generator's stages take the offsets `styles` [N, M] beside the code, which are zeros in an
inversion. See `networks.style_space`. M: all styles of the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sdic_runtime.program import IMAGE, INVERT, STYLE_AXES, STYLES, STYLES_LETTER, Cut, Method, Stage, Step
from sdic_train.methods.base import Chain, MethodCode, StageFunction, Tables, Tensor

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend

GENERATOR = "generator"  # what the names of stages begin with that are parts of the generator
CODE = "latent"  # what such a stage calls its code
NO_STYLES = "no_styles"  # the stage that makes zeros for as many pictures


def is_styled(stage: str) -> bool:
    """Whether a stage makes styles of its code."""
    return stage.startswith(GENERATOR)


def has_style_space(method: Method) -> bool:
    """Whether a bundle of this method was built with style space."""
    return STYLES in method.tensors


@dataclass(frozen=True)
class WithStyles:
    """A backend whose stages of the generator read `styles`."""

    backend: Any
    styles: Tensor

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        further = {STYLES: self.styles} if is_styled(stage) else {}
        results: dict[str, Tensor] = self.backend.run(stage, {**inputs, **further}, outputs)
        return results


def with_style_space(code: MethodCode) -> MethodCode:
    """`code`, with edits in style space by every move. Everything else is as it was; an inversion also keeps its `styles`."""
    return replace(
        code,
        tables=partial(_tables, code.tables),
        chains={name: partial(_invert if name == INVERT else _edit, chain) for name, chain in code.chains.items()},
        further={name: (*code.takes(name), STYLES) for name in code.chains if name != INVERT},
        keeps=(*code.keeps, STYLES),
        functions=partial(_functions, code.functions),
        unrolled=None if code.unrolled is None else _also(code.unrolled),
        fitted=None if code.fitted is None else _also(code.fitted),
    )


def _also(make: Callable[[Any], MethodCode]) -> Callable[[Any], MethodCode]:
    return lambda value: with_style_space(make(value))


def _tables(tables: Callable[[Any], Tables], config: Any) -> Tables:
    from sdic_train.networks.style_space import layer_widths

    made = tables(config)
    cuts = {
        name: Cut(_styled(cut.stages), tuple(_with_styles(step) if is_styled(step.stage) else step for step in cut.steps))
        for name, cut in made.cuts.items()
    }
    return Tables(
        {**made.sizes, STYLES_LETTER: sum(layer_widths(config))},
        {**made.tensors, STYLES: STYLE_AXES},
        {NO_STYLES: Stage((IMAGE,), (STYLES,)), **_styled(made.stages)},
        made.rows,
        cuts,
    )


def _styled(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages, those of the generator with the styles as their last input."""
    return {name: Stage((*stage.inputs, STYLES), stage.outputs) if is_styled(name) else stage for name, stage in stages.items()}


def _with_styles(step: Step) -> Step:
    return Step(step.stage, {**step.inputs, STYLES: STYLES}, step.outputs)


def _invert(chain: Chain, backend: Backend, image: Tensor) -> dict[str, Tensor]:
    styles = backend.run(NO_STYLES, {IMAGE: image}, [STYLES])
    return {**chain(WithStyles(backend, styles[STYLES]), image=image), **styles}


def _edit(chain: Chain, backend: Backend, /, **tensors: Tensor) -> dict[str, Tensor]:
    return chain(WithStyles(backend, tensors.pop(STYLES)), **tensors)


def _functions(functions: Callable[[Any, Any], dict[str, StageFunction]], model: Any, generator: Any) -> dict[str, StageFunction]:
    from sdic_train.networks.style_space import StyledCode, layer_widths

    def styled(function: StageFunction) -> StageFunction:
        def run(styles: Any, **inputs: Any) -> dict[str, Any]:
            return function(**{**inputs, CODE: StyledCode(inputs[CODE], styles)})

        return run

    count = sum(layer_widths(model.config))
    made = {name: styled(function) if is_styled(name) else function for name, function in functions(model, generator).items()}
    return {NO_STYLES: lambda image: {STYLES: image.new_zeros(image.shape[0], count)}, **made}
