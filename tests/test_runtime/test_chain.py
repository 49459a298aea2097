from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from sdic_runtime import chain
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES


class Naming:
    """A backend whose tensors are their own history: "stage(inputs).output". Shows which stage reads what from where."""

    name = description = "naming"

    def __init__(self) -> None:
        self.runs: list[tuple[str, tuple[str, ...]]] = []

    def upload(self, array: np.ndarray) -> str:
        raise AssertionError("the chain moves nothing")

    def download(self, tensor: str) -> np.ndarray:
        raise AssertionError("the chain moves nothing")

    def run(self, stage: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
        assert set(inputs) == set(STAGES[stage].inputs) and set(outputs) <= set(STAGES[stage].outputs)
        self.runs.append((stage, tuple(outputs)))
        arguments = ", ".join(inputs[name] for name in STAGES[stage].inputs)
        return {name: f"{stage}({arguments}).{name}" for name in outputs}


def test_invert_runs_the_stages_as_the_design_says() -> None:
    backend = Naming()
    tensors = chain.invert(backend, "image")
    w = "e4e(image).latent"
    feature, rgb = f"generator_head({w}).feature", f"generator_head({w}).rgb"
    reconstruction = f"generator_preview({feature}, {rgb}, {w}).reconstruction"
    discrepancy = f"dipn(image, {reconstruction}).discrepancy"
    enhanced, residual = (f"dicn({discrepancy}, {feature}, {w}).{name}" for name in ("latent_enhanced", "residual"))
    assert tensors == {
        "latent": w,
        "feature": feature,
        "reconstruction": reconstruction,
        "discrepancy": discrepancy,
        "latent_enhanced": enhanced,
        "residual": residual,
        "picture": f"generator_tail({feature}, {residual}, generator_head({enhanced}).rgb, {enhanced}).picture",
    }
    assert backend.runs.count(("generator_head", ("rgb",))) == 1, "the dead convolution of the second head is not asked for"
    assert len(backend.runs) == 7


@pytest.mark.parametrize(("eq6", "source", "runs"), [("paper", "w", 3), ("released", "w+", 2)])
def test_edit_takes_the_feature_from_where_the_form_of_eq6_says(eq6: str, source: str, runs: int) -> None:
    backend = Naming()
    picture = chain.edit(backend, "w", "w+", "residual", eq6)
    assert picture == f"generator_tail(generator_head({source}).feature, residual, generator_head(w+).rgb, w+).picture"
    assert len(backend.runs) == runs


def test_an_edit_by_nothing_is_the_inversion_by_the_same_steps() -> None:
    tensors = chain.invert(Naming(), "image")
    assert chain.edit(Naming(), tensors["latent"], tensors["latent_enhanced"], tensors["residual"]) == tensors["picture"]


def test_baseline_is_the_initial_code_with_the_zero_residual() -> None:
    assert chain.baseline(Naming(), "w", "zero") == "generator_tail(generator_head(w).feature, zero, generator_head(w).rgb, w).picture"


def test_an_unknown_form_of_eq6_is_refused() -> None:
    with pytest.raises(SdicError, match='^eq6 is "Paper"; use "paper" or "released"$'):
        chain.check_eq6("Paper")
