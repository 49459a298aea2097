"""The drawn portraits: what a picture shows follows from the seed and the named parameters."""

import pickle

import numpy as np
import pytest

from sdic_runtime.errors import SdicError
from sdic_train.portraits.portraits import ATTRIBUTES, PARAMETERS, Details, Portrait, label, labels, render, sample

SIZE = 64
GOLDEN = (0.5643540247857453, 0.2697867137638703, 0.0)


def changed(before, after, least=12):
    """Mask of the pixels that differ visibly, (height, width)."""
    return np.abs(before.astype(int) - after.astype(int)).max(axis=2) >= least


@pytest.fixture
def person():
    return Portrait.middle()


def test_same_seed_and_index_give_the_same_picture():
    first, person = sample(3, 5, SIZE)
    again, same_person = sample(3, 5, SIZE)
    assert np.array_equal(first, again)
    assert person == same_person


def test_numbers_are_the_same_on_every_machine():
    _, person = sample(0, 0, 32)
    assert person.values[:3] == pytest.approx(GOLDEN, abs=1e-12)


def test_other_index_or_seed_gives_another_person():
    people = {sample(seed, index, 32)[1] for seed in range(3) for index in range(3)}
    assert len(people) == 9


@pytest.mark.parametrize("size", [32, 65, 256])
def test_picture_has_the_asked_size_and_kind(size):
    picture, _ = sample(0, 0, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 20


def test_large_picture_shows_the_same_as_a_small_one():
    person = Portrait.random(np.random.default_rng(4))
    large = render(person, 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(large - render(person, 64)).mean() < 2


def test_random_values_stay_in_range_and_are_balanced():
    rng = np.random.default_rng(0)
    people = [Portrait.random(rng) for _ in range(600)]
    for name in ("smile", "age", "glasses", "mouth_open", "hair_length", "yaw"):
        assert 0.42 < np.mean([label(person, name) for person in people]) < 0.58, name
    assert 0.1 < np.mean([label(person, "baldness") for person in people]) < 0.25


def test_attributes_are_nearly_independent():
    rng = np.random.default_rng(1)
    values = np.array([Portrait.random(rng).values for _ in range(2000)])
    correlation = np.corrcoef(values.T) - np.eye(len(PARAMETERS))
    assert np.abs(correlation).max() < 0.12


# Rows and columns, as shares of the picture, in which the parameter must show.
REGIONS = {
    "smile": (slice(36, 48), slice(22, 42)),
    "glasses": (slice(22, 38), slice(14, 50)),
    "mouth_open": (slice(36, 50), slice(22, 42)),
    "eye_colour": (slice(26, 36), slice(18, 46)),
    "eye_size": (slice(24, 38), slice(16, 48)),
    "brow_height": (slice(18, 30), slice(16, 48)),
    "brow_tilt": (slice(18, 30), slice(16, 48)),
    "shirt_colour": (slice(54, 64), slice(0, 64)),
    "fringe": (slice(8, 46), slice(8, 56)),
}


@pytest.mark.parametrize("name", REGIONS)
def test_parameter_changes_its_own_region_only(person, name):
    low, high = next((entry.low, entry.high) for entry in PARAMETERS if entry.name == name)
    difference = changed(render(person.replace(**{name: low}), SIZE), render(person.replace(**{name: high}), SIZE))
    inside = difference[REGIONS[name]].sum()
    assert inside >= 12
    assert difference.sum() == inside


@pytest.mark.parametrize("name", [entry.name for entry in PARAMETERS])
def test_every_parameter_is_visible(person, name):
    entry = next(entry for entry in PARAMETERS if entry.name == name)
    # A pair of glasses must be worn to show its shape, and hair must be there to be parted.
    person = person.replace(glasses=1, hair_length=0.6)
    low, high = render(person.replace(**{name: entry.low}), SIZE), render(person.replace(**{name: entry.high}), SIZE)
    assert changed(low, high).sum() >= 8


def test_age_shows_only_in_the_second_half(person):
    young, middle, old = (render(person.replace(age=age), SIZE) for age in (0, 0.4, 0.9))
    assert np.array_equal(young, middle)
    assert changed(middle, old, 25).sum() > 200


def test_glasses_appear_gradually(person):
    pictures = [render(person.replace(glasses=strength), SIZE).astype(float) for strength in (0, 0.5, 1)]
    half, full = (np.abs(picture - pictures[0]).mean() for picture in pictures[1:])
    assert 0.2 * full < half < 0.8 * full


@pytest.mark.parametrize("photo", [False, True])
def test_mirror_flips_the_picture(photo):
    straight, _ = sample(2, 7, SIZE, photo=photo)
    flipped, _ = sample(2, 7, SIZE, photo=photo, mirror=True)
    assert np.array_equal(flipped, straight[:, ::-1])


def test_mirrored_person_renders_to_the_flipped_picture():
    straight, _ = sample(2, 7, SIZE)
    _, person = sample(2, 7, SIZE, mirror=True)
    assert changed(render(person, SIZE), straight[:, ::-1], 4).sum() == 0


def test_photo_shows_the_same_person_with_details():
    plain, person = sample(5, 1, SIZE)
    photo, same_person = sample(5, 1, SIZE, photo=True)
    assert person == same_person
    assert 0 < changed(plain, photo).mean() < 0.7


def test_random_details_are_one_to_three_and_all_visible(person):
    for seed in range(20):
        details = Details.random(np.random.default_rng(seed))
        present = {name: value for name, value in vars(details).items() if value is not None}
        assert 1 <= len(present) <= 3
        for name, value in present.items():
            shown = changed(render(person, SIZE), render(person, SIZE, Details(**{name: value})))
            assert shown.sum() >= 3, name


def test_labels_name_every_parameter(person):
    assert list(labels(person)) == [entry.name for entry in PARAMETERS]
    assert labels(person.replace(smile=0.5))["smile"] == 0.5
    assert ATTRIBUTES[:3] == ("smile", "age", "glasses")
    assert label(person.replace(smile=0.5), "smile") == 1
    assert label(person.replace(smile=-0.5), "smile") == 0


def test_portraits_travel_between_processes(person):
    assert pickle.loads(pickle.dumps(person)) == person


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Portrait.middle().replace(smlie=1), 'unknown portrait parameter "smlie": use one of smile, '),
        (lambda: Portrait.middle().replace(smile=2), "smile is 2.0: give a number from -1 to 1"),
        (lambda: Portrait.middle().replace(age=float("nan")), "age is nan: give a number from 0 to 1"),
        (lambda: Portrait((0.5,)), "values, not 1: give one per parameter"),
        (lambda: render(Portrait.middle(), 16), "picture size 16 is out of range: use 32 to 1024 pixels"),
        (lambda: label(Portrait.middle(), "jaw"), '"jaw" is no attribute with two sides: use one of smile, age, '),
        (lambda: sample(0, -1, 64), "seed 0 and index -1 must not be negative"),
    ],
)
def test_bad_input_is_named_with_the_way_out(call, message):
    with pytest.raises(SdicError) as caught:
        call()
    assert message in str(caught.value)
