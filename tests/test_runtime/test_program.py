from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import FileEntry, Input, Manifest, first_schema
from sdic_runtime.edits import GanSpaceEdit, Pca
from sdic_runtime.errors import ArgumentError, BundleError
from sdic_runtime.inversion import Inversion
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import Method, check, joined, run

SDIC = msgspec.convert({**first_schema(), "method": "sdic", "sizes": {"R": 128, "S": 64, "L": 12, "C": 8, "K": 4}}, Method)


class Naming(Backend):
    """A backend whose tensors are their own history: "stage(inputs).output". Shows which stage reads what from where."""

    name = description = "naming"  # type: ignore[assignment]

    def __init__(self, method: Method = SDIC) -> None:
        super().__init__(method)
        self.runs: list[tuple[str, tuple[str, ...]]] = []

    def upload(self, array: np.ndarray) -> str:
        raise AssertionError("a program moves nothing")

    download = upload  # type: ignore[assignment]

    def run(self, stage: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
        table = self.method.stages[stage]
        assert set(inputs) == set(table.inputs) and set(outputs) <= set(table.outputs)
        self.runs.append((stage, tuple(outputs)))
        arguments = ", ".join(inputs[name] for name in table.inputs)
        return {name: f"{stage}({arguments}).{name}" for name in outputs}


def test_steps_of_one_stage_that_need_nothing_of_each_other_are_joined() -> None:
    stages = {name: [tuple(step.stage for step in group) for group in joined(program)] for name, program in SDIC.programs.items()}
    assert stages["edit"] == [("generator_head", "generator_head"), ("generator_tail",)]
    assert all(len(group) == 1 for group in stages["invert"])  # its second code comes from the first

    asked: list[tuple[str, int, list[Sequence[str]]]] = []

    def join(stage: str, inputs: Sequence[Mapping[str, str]], outputs: Sequence[Sequence[str]]) -> list[dict[str, str]]:
        asked.append((stage, len(inputs), list(outputs)))
        return [plain.run(stage, each, wanted) for each, wanted in zip(inputs, outputs, strict=True)]

    plain, tensors = Naming(), {"latent": "a", "latent_enhanced": "b", "residual": "c"}
    assert run(SDIC.programs["edit"], plain, tensors, join) == Naming().run_program("edit", tensors)
    assert asked == [("generator_head", 2, [("feature",), ("rgb",)])]


def test_invert_runs_the_stages_as_the_paper_says() -> None:
    backend = Naming()
    tensors = backend.run_program("invert", {"image": "image"})
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
    values = {"latent": "w", "latent_enhanced": "w+", "residual": "residual"}
    picture = backend.run_program(SDIC.moves[eq6].program, values)["picture"]
    assert picture == f"generator_tail(generator_head({source}).feature, residual, generator_head(w+).rgb, w+).picture"
    assert len(backend.runs) == runs


def test_an_edit_by_nothing_is_the_inversion_by_the_same_steps() -> None:
    tensors = Naming().run_program("invert", {"image": "image"})
    assert Naming().run_program("edit", tensors) == {"picture": tensors["picture"]}


def test_baseline_is_the_initial_code_with_the_zero_residual() -> None:
    picture = Naming().run_program("baseline", {"latent": "w", "residual": "zero"})["picture"]
    assert picture == "generator_tail(generator_head(w).feature, zero, generator_head(w).rgb, w).picture"
    assert SDIC.programs["baseline"].zeros == ("residual",)


# A method that nobody knows: an edit reads the picture, runs two stages again, one of them in an unrolled loop, and moves two codes. ------

LOOP = [["refine", {"image": "image", "state": f"state {turn}"}, {"better": f"state {turn + 1}"}] for turn in range(3)]
LOOK = [["look", {"image": "image"}, {"base": "base found", "detail": "detail found", "state": "state 0"}], *LOOP]
UNKNOWN: dict[str, Any] = {
    "method": "unknown",
    "sizes": {"R": 32, "S": 32, "L": 4, "C": 2, "Q": 5},
    "tensors": {
        "image": ["N", 3, "S", "S"],
        "picture": ["N", 3, "R", "R"],
        **{name: ["N", "L", "C"] for name in ("base", "detail")},
        **{name: ["N", "Q"] for name in ("state", "better")},
    },
    "stages": {
        "look": {"inputs": ["image"], "outputs": ["base", "detail", "state"]},
        "refine": {"inputs": ["image", "state"], "outputs": ["better"]},
        "paint": {"inputs": ["base", "detail", "state"], "outputs": ["picture"]},
    },
    "programs": {
        "invert": {
            "takes": ["image"],
            "steps": [*LOOK, ["paint", {"base": "base found", "detail": "detail found", "state": "state 3"}, {"picture": "painted"}]],
            "gives": {"base": "base found", "detail": "detail found", "picture": "painted"},
        },
        "change": {
            "takes": ["image", "base", "detail"],
            "steps": [*LOOK, ["paint", {"base": "base", "detail": "detail", "state": "state 3"}, {"picture": "painted"}]],
            "gives": {"picture": "painted"},
        },
        "touch": {
            "takes": ["image", "base", "detail"],
            "steps": [LOOK[0], ["paint", {"base": "base", "detail": "detail", "state": "state 0"}, {"picture": "painted"}]],
            "gives": {"picture": "painted"},
        },
    },
    "keeps": ["image", "base", "detail", "picture"],
    "moves": {
        "both": {"program": "change", "codes": ["base", "detail"], "kinds": ["direction"]},
        "one": {"program": "touch", "codes": ["detail"], "kinds": ["ganspace"]},
    },
}


class Arithmetic(Backend):
    """The stages of the unknown method in numpy."""

    name = description = "arithmetic"  # type: ignore[assignment]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    download = upload  # type: ignore[assignment]

    def run(self, stage: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        results = getattr(self, stage)(**inputs)
        return {name: results[name] for name in outputs}

    def look(self, image: np.ndarray) -> dict[str, np.ndarray]:
        base = image[:, 0, :4, :2]
        return {"base": base, "detail": np.sin(base * 3), "state": image[:, 1, 0, :5]}

    def refine(self, image: np.ndarray, state: np.ndarray) -> dict[str, np.ndarray]:
        return {"better": np.tanh(state + image.mean((1, 2, 3))[:, None])}

    def paint(self, base: np.ndarray, detail: np.ndarray, state: np.ndarray) -> dict[str, np.ndarray]:
        amount = (base * np.cos(detail)).sum((1, 2)) + state.sum(1)
        return {"picture": np.tanh(amount)[:, None, None, None] * np.ones((1, 3, 32, 32), np.float32)}


@pytest.fixture
def unknown() -> Pipeline:
    files = {f"{stage}.onnx": FileEntry("0" * 64, 1) for stage in UNKNOWN["stages"]}
    method = msgspec.convert(UNKNOWN, Method)
    check(method)
    manifest = Manifest(
        **{name: getattr(method, name) for name in Method.__struct_fields__},
        name="made up",
        domain="test",
        input=Input((0, 32)),
        graphs={stage: {"fp32": (f"{stage}.onnx",)} for stage in UNKNOWN["stages"]},
        files=files,
        default_precision="fp32",
    )
    return Pipeline(Bundle(Path("nowhere"), manifest), Arithmetic(manifest))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, (count, 3, 32, 32)).astype(np.float32)


def test_a_method_that_nobody_knows_is_inverted_edited_saved_and_loaded(unknown: Pipeline, tmp_path: Path) -> None:
    image, plain = pictures(3), Arithmetic(unknown.bundle.manifest)
    looked = plain.look(image)
    state = looked["state"]
    for _ in range(3):
        state = plain.refine(image, state)["better"]
    inversion = unknown.invert(image, batch=2)
    np.testing.assert_array_equal(inversion.image, image)
    np.testing.assert_array_equal(inversion.pixels, plain.paint(looked["base"], looked["detail"], state)["picture"])
    inversion.save(tmp_path / "a")
    loaded = Inversion.load(tmp_path / "a")
    assert loaded.model == inversion.model and set(loaded.tensors) == {"image", "base", "detail", "picture"}

    direction = np.array([0.5, -1], np.float32)
    want = [plain.paint(looked["base"] + s * direction, looked["detail"] + s * direction, state)["picture"] for s in (0, 2)]
    for source in (inversion, loaded):
        edited = unknown.edit(source, direction, [0, 2])
        np.testing.assert_array_equal(edited.pixels, np.stack(want, 1).reshape(6, 3, 32, 32))
        np.testing.assert_array_equal(edited.pixels[::2], inversion.pixels)
        np.testing.assert_array_equal(edited.latent[1::2], looked["detail"] + 2 * direction)

    basis = Pca(np.zeros((1, 2)), np.array([[[1.0, 0.0]]]), np.ones(1))
    moved = looked["detail"].copy()
    moved[:, 1:3, 0] += 4
    edited = unknown.edit(inversion, GanSpaceEdit(basis, 0, 1, 3, 4.0, mode="add"))
    np.testing.assert_array_equal(edited.pixels, plain.paint(looked["base"], moved, looked["state"])["picture"])


def test_an_edit_has_the_move_of_its_kind_or_a_sentence(unknown: Pipeline) -> None:
    inversion = unknown.invert(pictures(1))
    ganspace = GanSpaceEdit(Pca(np.zeros((1, 2)), np.ones((1, 1, 2)), np.ones(1)), 0, 0, 1, 1.0)
    direction = np.ones(2, np.float32)
    both = [(ganspace, 1.0), (direction, 1.0)]
    for edit, options, message in (
        (ganspace, {"move": "both"}, 'move is "both", which is for edits of the kind direction; for this edit use: one'),
        (direction, {"eq6": "one"}, 'eq6 is "one", which is for edits of the kind ganspace; for this edit use: both'),
        (direction, {"move": "paper"}, 'move is "paper"; the bundle "made up" has: both, one'),
        (direction, {"eq6": "paper"}, 'eq6 is "paper"; the bundle "made up" has: both, one'),
        (direction, {"move": "both", "eq6": "one"}, 'move is "both" and eq6 is "one"; give one of them'),
        (both, {}, 'the bundle "made up" has no move for the kinds direction and ganspace in one edit'),
    ):
        with pytest.raises(ArgumentError) as caught:
            unknown.edit(inversion, edit, **options)  # type: ignore[arg-type]
        assert str(caught.value) == message
    with pytest.raises(ArgumentError, match='^the bundle "made up" has no baseline, because its method defines none$'):
        unknown.baseline(inversion)


def test_a_bundle_without_a_move_for_a_kind_says_so(unknown: Pipeline) -> None:
    inversion = unknown.invert(pictures(1))
    manifest = msgspec.structs.replace(unknown.bundle.manifest, moves={"one": unknown.moves["one"]})
    poor = Pipeline(Bundle(Path("nowhere"), manifest), unknown.backend)
    with pytest.raises(ArgumentError, match='^the bundle "made up" has no move for edits of the kind direction$'):
        poor.edit(inversion, np.ones(2, np.float32))


def test_an_inversion_that_lacks_what_a_program_takes_is_one_sentence(unknown: Pipeline) -> None:
    """One of an older export of the same model, which kept less: it has the same identity."""
    whole = unknown.invert(pictures(1))
    for axes in (None, ("N", 3, "Q", "S")):
        kept = {name: value for name, value in {**whole.model.tensors, "image": axes}.items() if value is not None}
        model = type(whole.model)(whole.model.identity, "older", whole.model.sizes, kept, whole.model.visible_rows)
        older = Inversion(model, {name: whole.tensors[name] for name in kept}, whole.names)
        with pytest.raises(
            ArgumentError, match='^the inversion keeps no "image" as this bundle needs it; invert the picture again with this'
        ):
            unknown.edit(older, np.ones(2, np.float32))


class Weighed:
    """A tensor that can be watched."""


def test_a_value_is_let_go_after_its_last_use() -> None:
    alive: dict[str, weakref.ref[Weighed]] = {}
    seen: list[set[str]] = []

    class Watching(Naming):
        def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            seen.append({name for name, there in alive.items() if there() is not None})
            made = {name: Weighed() for name in outputs}
            alive.update({f"{name} {len(seen)}": weakref.ref(tensor) for name, tensor in made.items()})
            return made

    result = Watching().run_program("edit_released", dict.fromkeys(("latent_enhanced", "residual"), Weighed()))
    assert seen == [set(), {"feature 1", "rgb 1"}] and list(result) == ["picture"]
    assert {name for name, there in alive.items() if there() is not None} == {"picture 2"}

    seen.clear()
    alive.clear()
    method = msgspec.convert(UNKNOWN, Method)
    run(method.programs["invert"], Watching(method), {"image": Weighed()})
    codes = {"base 1", "detail 1"}
    assert seen == [set(), *({*codes, state} for state in ("state 1", "better 2", "better 3", "better 4"))]


# What `check` refuses ---------------------------------------------------------------------------------------------------------------------


def changed(path: Sequence[str | int], value: Any) -> Method:
    """The method with the entry at `path` set to `value`, or deleted when it is None."""
    data = json.loads(json.dumps(UNKNOWN))  # programs share lists
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return msgspec.convert(data, Method)


STEPS = ("programs", "change", "steps")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["sizes", "R"], None, "sizes lacks R"),
        (["sizes"], {"Q": 5}, "sizes lacks R, S, L, C"),
        (["sizes", "N"], 3, 'sizes has "N", which is not a letter for a size'),
        (["sizes", "7"], 3, 'sizes has "7", which is not a letter for a size'),
        (["sizes", "Q"], 0, 'sizes["Q"] is 0, expected 1 to 65536'),
        (["sizes", "Q"], 65537, 'sizes["Q"] is 65537, expected 1 to 65536'),
        (["tensors", "state"], ["Q", "N"], """the axes of the tensor "state" are ['Q', 'N'], expected "N", then at most 7 sizes"""),
        (
            ["tensors", "state"],
            ["N", *[1] * 8],
            'the axes of the tensor "state" are [\'N\', 1, 1, 1, 1, 1, 1, 1, 1], expected "N", then at most 7 sizes',
        ),
        (["tensors", "state"], ["N", "Z"], """the axes of the tensor "state" are ['N', 'Z'], expected "N", then at most 7 sizes"""),
        (["tensors", "state"], ["N", 0], """the axes of the tensor "state" are ['N', 0], expected "N", then at most 7 sizes"""),
        (["tensors", "state"], ["N", "N"], """the axes of the tensor "state" are ['N', 'N'], expected "N", then at most 7 sizes"""),
        (["tensors", "state"], [], 'the axes of the tensor "state" are [], expected "N", then at most 7 sizes'),
        (["tensors", "image"], ["N", 3, "R", "R"], """the tensor "image" must have the axes ['N', 3, 'S', 'S']"""),
        (["tensors", "picture"], None, """the tensor "picture" must have the axes ['N', 3, 'R', 'R']"""),
        (["stages", "a:b"], {"inputs": ["image"], "outputs": ["state"]}, 'the stage "a:b" has a colon in its name'),
        (["stages", "look", "outputs"], ["mask"], 'the stage "look" has the tensor "mask", which the table of tensors lacks'),
        (["stages", "look", "outputs"], [], 'the stage "look" needs inputs and outputs, each named once'),
        (["stages", "look", "inputs"], [], 'the stage "look" needs inputs and outputs, each named once'),
        (["stages", "look", "outputs"], ["image"], 'the stage "look" needs inputs and outputs, each named once'),
        (["programs", "change", "takes"], ["mask"], 'the program "change" takes "mask", which the table of tensors lacks'),
        (["programs", "change", "zeros"], ["state"], 'the program "change" has zeros that it does not take'),
        ([*STEPS, 1, 0], "guess", 'step 2 of the program "change" runs "guess", which is no stage'),
        ([*STEPS, 1, 1], {"image": "image"}, 'step 2 of the program "change" binds image where "refine" takes image, state'),
        ([*STEPS, 1, 1, "extra"], "image", 'step 2 of the program "change" binds image, state, extra where "refine" takes image, state'),
        (
            [*STEPS, 1, 1, "state"],
            "state 2",
            'step 2 of the program "change" binds "state 2" to "state", which was not made before it or has other axes',
        ),
        (
            [*STEPS, 1, 1, "state"],
            "base",
            'step 2 of the program "change" binds "base" to "state", which was not made before it or has other axes',
        ),
        ([*STEPS, 1, 2], {"state": "state 1"}, 'step 2 of the program "change" asks for state where "refine" gives better'),
        ([*STEPS, 1, 2], {}, 'step 2 of the program "change" asks for nothing where "refine" gives better'),
        ([*STEPS, 2, 2, "better"], "state 1", 'step 3 of the program "change" makes "state 1", which is there already'),
        ([*STEPS, 0, 2, "base"], "base", 'step 1 of the program "change" makes "base", which is there already'),
        (
            ["programs", "change", "gives", "picture"],
            "canvas",
            'the program "change" gives "picture" from "canvas", which it does not make or has other axes',
        ),
        (
            ["programs", "change", "gives", "state"],
            "base",
            'the program "change" gives "state" from "base", which it does not make or has other axes',
        ),
        (
            ["programs", "change", "gives", "mask"],
            "base",
            'the program "change" gives "mask" from "base", which it does not make or has other axes',
        ),
        (["programs", "change", "gives"], {"base": "base"}, 'the program "change" gives no "picture"'),
        (["programs", "invert"], None, 'the program "invert" is missing, or does not take "image" alone'),
        (["programs", "invert", "takes"], ["image", "base"], 'the program "invert" is missing, or does not take "image" alone'),
        (["keeps"], ["picture", "state"], 'keeps has "state", which the program "invert" neither takes nor gives'),
        (["keeps"], ["image", "base", "detail"], 'keeps lacks "picture"'),
        (["keeps"], ["base", "picture"], 'the program "change" takes image, detail, which an inversion does not keep'),
        (["moves", "both", "program"], "warp", 'the move "both" runs "warp", which is no program'),
        (["moves", "both", "codes"], ["style"], 'the move "both" moves "style", which is no latent code that an inversion keeps'),
        (["moves", "both", "codes"], ["image"], 'the move "both" moves "image", which is no latent code that an inversion keeps'),
        (["moves", "both", "program"], "invert", 'the move "both" moves "base", which its program "invert" does not take'),
        (["moves", "both", "codes"], [], 'the move "both" moves nothing or is for no kind of edit'),
        (["moves", "both", "kinds"], [], 'the move "both" moves nothing or is for no kind of edit'),
        (["moves", "both", "kinds"], ["rotation"], 'the move "both" is for rotation; the kinds are direction, ganspace'),
    ],
)
def test_a_method_that_does_not_fit_together_is_one_sentence(path: list[str | int], value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        check(changed(path, value))
    assert str(caught.value) == message


def test_a_table_becomes_shapes() -> None:
    assert SDIC.shape("latent", 2) == (2, 12, 8) and SDIC.shape("feature", 3) == (3, 4, 64, 64)
    with pytest.raises(KeyError):
        SDIC.shape("mask", 1)
