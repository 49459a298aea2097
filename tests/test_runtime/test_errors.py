"""Errors are kinds that a service can answer by, and travel between processes."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest

from sdic_runtime import errors
from sdic_runtime.errors import LONGEST, MissingExtraError, SdicError, printable

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


FOLDER = "/" + "/".join(["a folder with a long name"] * 20)
MODEL = "/" + "/".join(["models"] * 20)  # 140 characters


@pytest.mark.parametrize("end", ["build it again with: sdic-export build", f"see: sdic-export verify {MODEL} --backend onnxruntime"])
def test_of_a_long_sentence_what_to_do_stays_whole(end: str) -> None:
    said = str(SdicError(f"the file {FOLDER} is damaged, {FOLDER} too; {end}"))
    assert said.startswith(f"the file {FOLDER[:60]}") and said.endswith(f"; {end}") and " ... " in said
    assert len(said) <= LONGEST and said.isprintable()


@pytest.mark.parametrize("what", ["no face in it", f"no face in {FOLDER}"])
def test_what_to_do_that_is_too_long_itself_keeps_its_words_around_a_path(what: str) -> None:
    said = str(SdicError(f"{what}; see: sdic-export verify {FOLDER}{FOLDER} --backend onnxruntime"))
    assert said.startswith("no face in ") and "; see: sdic-export verify /a folder" in said and said.endswith(" --backend onnxruntime")
    assert 300 < len(said) <= LONGEST


@pytest.mark.parametrize("letter", ["a", "; ", ";", "\x1b", "\U000e0001", "é\n"])
@pytest.mark.parametrize("longest", [60, 200, LONGEST])
def test_any_text_is_a_bounded_line(letter: str, longest: int) -> None:
    for before, middle, after in itertools.product((0, 1, 20, 150, 5000), repeat=3):
        text = "b" * before + letter * middle + "; " * (middle > 1) + letter * after
        said = printable(text, longest)
        assert len(said) <= longest and said.isprintable() and bool(said) == bool(text)
        assert said == text or len(text) > longest or not text.isprintable()
        assert printable(said, longest) == said
