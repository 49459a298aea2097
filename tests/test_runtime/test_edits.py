from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdic_runtime.edits import GANSPACE_PRESETS, CombinedEdit, Direction, GanSpaceEdit, Pca, as_edit, edited, kinds_of
from sdic_runtime.errors import ArgumentError

SIZES = {"L": 12, "C": 8}


@pytest.fixture
def latent() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 12, 8)).astype(np.float32)


@pytest.fixture
def pca() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    comp = random.standard_normal((60, 1, 8)).astype(np.float32)
    comp /= np.linalg.norm(comp, axis=2, keepdims=True)
    return {"mean": random.standard_normal((1, 8)).astype(np.float32), "comp": comp, "std": random.uniform(0.5, 3, 60).astype(np.float32)}


@pytest.mark.parametrize("shape", [(8,), (1, 8), (12, 8), (1, 12, 8)])
def test_every_form_of_a_direction_moves_the_code_exactly(latent: np.ndarray, shape: tuple[int, ...]) -> None:
    vector = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    edit = as_edit(vector)
    edit.check(SIZES)
    np.testing.assert_array_equal(edited(latent, edit, 1.3), latent + np.float32(1.3) * vector)


def test_arrays_of_other_types_become_float32(latent: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    want = latent + np.arange(8, dtype=np.float32)
    for vector in (list(range(8)), np.arange(8), np.arange(8, dtype=np.float64), torch.arange(8.0), np.arange(8, dtype=np.float16)):
        np.testing.assert_array_equal(edited(latent, as_edit(vector), 1.0), want)


@pytest.mark.parametrize("count", [1, 12])
def test_rows_restrict_a_direction(latent: np.ndarray, count: int) -> None:
    vector = np.random.default_rng(2).standard_normal((count, 8)).astype(np.float32)
    moved = edited(latent, Direction(vector, rows=(3, 5)), 2.0) - latent
    assert (moved[:, :3] == 0).all() and (moved[:, 5:] == 0).all()
    want = np.broadcast_to(2 * (vector[3:5] if count == 12 else vector), (2, 2, 8))
    np.testing.assert_allclose(moved[:, 3:5], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 12, 8)), r"^the direction has shape \[2, 12, 8\]; expected \[C\], \[1, C\], \[L, C\] or \[1, L, C\]$"),
        (np.zeros((1, 1, 1, 8)), r"has shape \[1, 1, 1, 8\]"),
        (np.zeros((0, 8)), r"has shape \[0, 8\]"),
        (np.float32(3), r"has shape \[\]"),
        ([1.0, float("nan")], "^the direction holds NaN or infinite values; make it again$"),
        ([1e300], "holds NaN or infinite"),
        (["a", "b"], r"^an edit cannot be made from \['a', 'b'\]; give a name"),
        (object(), "^the direction is not an array of numbers"),
        (None, "^an edit cannot be made from None; give a name"),
        ([[1, 2], [3]], "^the direction is not an array of numbers"),
        (np.zeros(8, complex), "^the direction is not an array of numbers"),
        ("smile", '^the edit "smile" is a name, and no directions were given'),
    ],
)
def test_what_is_no_direction_is_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        as_edit(value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Direction(np.zeros(512), "smile"), r'^the direction "smile" has shape \[1, 512\], and this model\'s latent codes are \[12, 8\]'),
        (Direction(np.zeros((11, 8))), r"has shape \[11, 8\]"),
        (Direction(np.zeros(8), rows=(3, 13)), "is for the style rows 3 to 13 .end not included., and this model has 12 rows"),
        (Direction(np.zeros(8), rows=(3, 3)), "is for the style rows 3 to 3"),
    ],
)
def test_a_direction_for_another_model_is_one_sentence(edit: Direction, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        edit.check(SIZES)


def ganspace_by_hand(latent: np.ndarray, pca: dict[str, np.ndarray], index: int, start: int, end: int, sigma: float) -> np.ndarray:
    """The definition, in float64: read the coordinate off row 0, set it to sigma on the rows start..end-1."""
    result = latent.astype(np.float64)
    component, deviation = pca["comp"][index, 0].astype(np.float64), float(pca["std"][index])
    for code, new in zip(latent.astype(np.float64), result, strict=True):
        coordinate = sum((code[0] - pca["mean"][0]) * component) / deviation
        for row in range(start, end):
            new[row] += (sigma - coordinate) * deviation * component
    return result


def test_ganspace_set_follows_the_definition(latent: np.ndarray, pca: dict[str, np.ndarray]) -> None:
    for arguments in ((54, 7, 8, 20.0), (0, 0, 5, -2.0), (7, 0, 12, 0.0)):
        got = edited(latent, GanSpaceEdit(pca, *arguments), 1.0)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, ganspace_by_hand(latent, pca, *arguments), rtol=1e-5, atol=1e-4)


def test_ganspace_set_on_all_rows_puts_the_coordinate_there(latent: np.ndarray, pca: dict[str, np.ndarray]) -> None:
    basis = Pca(**pca)
    moved = edited(latent, GanSpaceEdit(basis, 4, 0, 12, 1.5), 1.0)
    np.testing.assert_allclose((moved[:, 0] - basis.mean) @ basis.comp[4, 0] / basis.std[4], 1.5, atol=1e-4)
    np.testing.assert_allclose(edited(moved, GanSpaceEdit(basis, 4, 0, 12, 1.5), 1.0), moved, atol=1e-4)


def test_ganspace_strength_is_the_part_of_the_way(latent: np.ndarray, pca: dict[str, np.ndarray]) -> None:
    edit = GanSpaceEdit(pca, 3, 1, 4, 2.0)
    whole, half = edited(latent, edit, 1.0), edited(latent, edit, 0.5)
    np.testing.assert_allclose(half, (latent + whole) / 2, atol=1e-5)
    np.testing.assert_array_equal(edited(latent, edit, 0.0), latent)


def test_ganspace_add_moves_every_code_alike(latent: np.ndarray, pca: dict[str, np.ndarray]) -> None:
    moved = edited(latent, GanSpaceEdit(pca, 3, 1, 4, 2.0, mode="add"), 1.0) - latent
    want = np.zeros((12, 8))
    want[1:4] = 2.0 * pca["std"][3] * pca["comp"][3, 0]
    np.testing.assert_allclose(moved, np.stack([want, want]), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": 60}, "the GANSpace component 60 does not exist; the basis has components 0 to 59"),
        ({"index": -1}, "component -1 does not exist"),
        ({"index": 1.5}, "component 1.5 does not exist"),
        ({"sigma": float("nan")}, "the GANSpace sigma is nan; give a finite number"),
        ({"mode": "put"}, 'the GANSpace mode is "put"; use "set" or "add"'),
        ({"pca": np.zeros(8)}, "needs a PCA basis: a Pca, or a mapping with mean, comp and std"),
        (
            {"pca": {"mean": np.zeros((1, 8)), "comp": np.zeros((3, 1, 9)), "std": np.ones(3)}},
            r"has mean \[1, 8\], comp \[3, 1, 9\] and std \[3\]; expected \[1, C\], \[k, 1, C\] and \[k\]",
        ),
        ({"pca": {"mean": np.zeros((1, 8)), "comp": np.zeros((3, 1, 8)), "std": np.zeros(3)}}, "standard deviation of zero or less"),
        ({"pca": {"mean": np.zeros((1, 8)), "comp": np.full((3, 1, 8), np.nan), "std": np.ones(3)}}, "the PCA basis' comp holds NaN"),
    ],
)
def test_a_wrong_ganspace_edit_is_one_sentence(pca: dict[str, np.ndarray], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GanSpaceEdit(**{"pca": pca, "index": 3, "start": 0, "end": 2, "sigma": 1.0, **arguments})


def test_ganspace_rows_and_width_are_checked_against_the_model(pca: dict[str, np.ndarray]) -> None:
    for start, end in ((0, 13), (4, 4), (-1, 3)):
        with pytest.raises(ArgumentError, match=f"the GANSpace edit is for the style rows {start} to {end}"):
            GanSpaceEdit(pca, 0, start, end, 1.0).check(SIZES)
    wide = Pca(np.zeros((1, 512)), np.ones((2, 1, 512)), np.ones(2))
    with pytest.raises(ArgumentError, match="the PCA basis has width 512, and this model's style width is 8"):
        GanSpaceEdit(wide, 0, 0, 5, 1.0).check(SIZES)


def test_rows_that_are_no_numbers_are_one_sentence(pca: dict[str, np.ndarray]) -> None:
    wrong: Any
    for wrong in ("0", 0.5, None):
        with pytest.raises(ArgumentError, match=r"^the GANSpace edit is for the style rows \(.*, 5\); give the first and the end as whole"):
            GanSpaceEdit(pca, 0, wrong, 5, 1.0).check(SIZES)


def test_presets_are_the_published_ones(pca: dict[str, np.ndarray]) -> None:
    edit = GanSpaceEdit.preset(pca, "faces", "eyes")
    assert (edit.index, edit.start, edit.end, edit.sigma, edit.mode) == (54, 7, 8, 20, "set")
    assert {domain: sorted(edits) for domain, edits in GANSPACE_PRESETS.items()} == {
        "faces": ["beard", "displeased", "eyebrow_thickness", "eyes", "face_roundness", "head_angle_up", "lip", "nose_length"],
        "cars": ["color", "cube", "grass", "left", "right"],
    }
    with pytest.raises(ArgumentError, match="there is no GANSpace preset faces/left; the presets are: faces/eyes"):
        GanSpaceEdit.preset(pca, "faces", "left")


def test_combined_edits_all_read_the_unedited_code(latent: np.ndarray, pca: dict[str, np.ndarray]) -> None:
    first, second = GanSpaceEdit(pca, 3, 0, 4, 2.0), GanSpaceEdit(pca, 5, 0, 6, -1.0)
    direction = Direction(np.arange(8))
    combined = edited(latent, CombinedEdit([(first, 1.0), (second, 0.5), (direction, -2.0)]), 1.0)
    want = latent + first.offset(latent) + 0.5 * second.offset(latent) - 2 * direction.vector
    np.testing.assert_allclose(combined, want, atol=1e-5)
    backwards = edited(latent, as_edit([(direction, -2.0), (second, 0.5), (first, 1.0)]), 1.0)
    np.testing.assert_allclose(backwards, combined, atol=1e-5)
    nested = CombinedEdit([(CombinedEdit([(direction, 2.0)]), 3.0)])
    np.testing.assert_allclose(edited(latent, nested, 1.0), latent + 6 * direction.vector, rtol=1e-5)


def test_combined_edits_are_checked_part_by_part() -> None:
    with pytest.raises(ArgumentError, match="the combined edit is empty"):
        CombinedEdit([])
    wrong: Any
    for wrong in (3, [3], [("smile", 1, 2)], {"smile": 1}):
        with pytest.raises(ArgumentError, match=r"^the combined edit is .*; give a list of \(edit, strength\)$"):
            CombinedEdit(wrong)
    with pytest.raises(ArgumentError, match="the strength is nan"):
        CombinedEdit([(Direction(np.zeros(8)), float("nan"))])
    with pytest.raises(ArgumentError, match=r"shape \[1, 9\]"):
        as_edit([(np.zeros(8), 1.0), (np.zeros(9), 1.0)]).check(SIZES)


def test_an_edit_tells_its_kinds(pca: dict[str, np.ndarray]) -> None:
    class Own:
        def offset(self, latent: np.ndarray) -> np.ndarray:
            return np.ones_like(latent)

        def check(self, sizes: Any) -> None:
            pass

    direction, component = Direction(np.zeros(8)), GanSpaceEdit(pca, 3, 0, 4, 2.0)
    assert kinds_of(direction) == kinds_of(Own()) == kinds_of(CombinedEdit([(direction, 1.0)])) == {"direction"}
    assert kinds_of(component) == {"ganspace"}
    assert kinds_of(CombinedEdit([(direction, 1.0), (CombinedEdit([(component, 1.0)]), 2.0)])) == {"direction", "ganspace"}


def test_a_list_as_json_writes_it_is_a_combination() -> None:
    smile = Direction(np.ones(8, np.float32))
    combined = as_edit([["smile", 2]], {"smile": smile})
    assert isinstance(combined, CombinedEdit) and combined.parts == ((smile, 2.0),)


@pytest.mark.parametrize("value", [["smile", "age"], {"smile": 1}, None, ("smile", 1)])
def test_what_is_no_edit_is_answered_with_the_forms_there_are(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^an edit cannot be made from .*; give a name, a direction, an array, or a list of"):
        as_edit(value, {})
