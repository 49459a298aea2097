"""Chains as programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest

from sdic_export.build import whole_stages
from sdic_runtime.bundle.manifest import FIRST_SCHEMA
from sdic_runtime.errors import BundleError
from sdic_runtime.program import Method, Program, Step
from sdic_train.config import FACES
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of, trace


def test_sdic_is_the_tables_that_schema_1_stands_for() -> None:
    first, method = json.loads(FIRST_SCHEMA.read_text()), method_of(METHODS["sdic"], FACES)
    tables = {name: first[name] for name in ("tensors", "stages", "programs", "keeps", "moves")}
    assert method.sizes == {"R": 1024, "S": 256, "L": 18, "C": 512, "K": 512}
    whole = whole_stages(method)
    known = {name: whole.tensors[name] for name in first["tensors"]}  # further ones are of the parts of stages, which came later
    expected = msgspec.structs.replace(whole, tensors=known, rows={})
    assert msgspec.convert({"method": "sdic", "sizes": method.sizes, **tables}, Method) == expected


def test_a_value_whose_name_is_taken_gets_a_number() -> None:
    def chain(backend: Any, x: Any) -> dict[str, Any]:
        for _ in range(3):
            x = backend.run("again", {"x": x}, ["x", "y"])["x"]
        return {"x": x}

    names = [("x_2", "y"), ("x_3", "y_2"), ("x_4", "y_3")]
    read = ["x", "x_2", "x_3"]
    steps = tuple(Step("again", {"x": value}, dict(zip("xy", made, strict=True))) for value, made in zip(read, names, strict=True))
    assert trace(chain, ["x"], ["x"]) == Program(("x",), steps, {"x": "x_4"}, ("x",))


def test_a_chain_that_does_not_fit_the_tables_is_refused() -> None:
    def edit(backend: Any, latent: Any) -> dict[str, Any]:
        return backend.run("generator_tail", {"latent": latent}, ["picture"])  # type: ignore[no-any-return]

    wrong = dataclasses.replace(METHODS["sdic"], chains={**METHODS["sdic"].chains, "edit": edit})
    with pytest.raises(BundleError, match='step 1 of the program "edit" binds latent where "generator_tail" takes feature, residual'):
        method_of(wrong, FACES)
