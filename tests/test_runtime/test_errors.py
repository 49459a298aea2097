"""Errors are kinds that a service can answer by, and travel between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from sdic_runtime import errors
from sdic_runtime.errors import MissingExtraError, SdicError

KINDS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SdicError)]


def make(kind: type[SdicError]) -> SdicError:
    return kind("onnxruntime-gpu", "gpu", 'the device "cuda"') if kind is MissingExtraError else kind("what is wrong")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_every_kind_is_caught_as_one_and_travels(kind: type[SdicError]) -> None:
    error = make(kind)
    assert isinstance(error, SdicError) and isinstance(error, ValueError)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind and str(other) == str(error)


def test_a_missing_extra_names_the_package_and_what_to_type() -> None:
    sentence = 'the device "cuda" needs the package "onnxruntime-gpu"; install it with: pip install "sdic-toolkit[gpu]"'
    assert str(make(MissingExtraError)) == sentence


def test_there_are_nine_kinds() -> None:
    kinds = "Argument Backend Bundle Checkpoint File MissingExtra OutOfMemory Picture Sdic"
    assert sorted(kind.__name__ for kind in KINDS) == [f"{kind}Error" for kind in kinds.split()]
