"""Directions of a finished bundle: added and removed, and never half."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bundle import write_bundle
from typer.testing import CliRunner

from sdic_export import changes
from sdic_export.changes import LOCK
from sdic_export.cli.app import main
from sdic_export.directions import bundle as bundle_directions
from sdic_export.directions.bundle import add_directions, remove_directions
from sdic_export.directions.files import check_name
from sdic_runtime import Bundle, Pipeline
from sdic_runtime.directions import Directions, load_direction
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError, BundleError, FileError, SdicError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    def call(*words: object) -> tuple[int, list[str], str]:
        capsys.readouterr()
        code = main(["directions", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != Path(LOCK).name
    }


def direction(value: float, name: str = "") -> Direction:
    return Direction(np.full(8, value), name, "made")


def test_files_of_the_field_become_directions_of_the_bundle(bundle: Path, tmp_path: Path, run: Any) -> None:
    identity = Bundle.open(bundle).manifest.identity
    torch.save(torch.arange(8.0)[None], tmp_path / "beard.pt")
    torch.save(torch.arange(8.0), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "boundary.npy", np.arange(96.0)[None])
    code, lines, errors = run("add", bundle, tmp_path / "beard.pt", tmp_path / "old.pt", tmp_path / "boundary.npy")
    assert code == 0, errors
    assert lines == [str(bundle / f"directions/{name}.safetensors") for name in ("beard", "old", "boundary")]
    code, lines, errors = run("add", bundle, tmp_path / "beard.pt", "--name", "b2", "--range", -1, 2.5, "--licence", "mine alone")
    assert code == 0, errors
    opened = Bundle.open(bundle)
    opened.check()
    assert opened.manifest.identity == identity and set(opened.manifest.directions) == {
        "age",
        "b2",
        "basis",
        "beard",
        "boundary",
        "old",
        "smile",
    }
    found = Directions(opened)["b2"]
    assert isinstance(found, Direction)
    assert (found.name, found.strength_range, found.licence, found.method) == ("b2", (-1.0, 2.5), "mine alone", "converted from beard.pt")
    boundary, old = Directions(opened)["boundary"], Directions(opened)["old"]
    assert isinstance(boundary, Direction) and isinstance(old, Direction)
    np.testing.assert_array_equal(boundary.vector, np.arange(96).reshape(12, 8))
    np.testing.assert_array_equal(old.vector, np.arange(8)[None])
    code, lines, _ = run("list", bundle)
    assert code == 0 and next(line for line in lines if line.startswith("b2")).split()[1:5] == ["direction", "-1", "to", "2.5"]
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        pipeline.edit(pipeline.invert(np.zeros((1, 3, 64, 64), np.float32)), "b2")


def test_a_direction_is_replaced_and_removed_with_its_file(bundle: Path, run: Any) -> None:
    (file,) = add_directions(bundle, lambda manifest: {"smile": direction(1)}, replacing=True)
    assert file.startswith("directions/smile.") and not (bundle / "directions/smile.safetensors").exists()
    before = contents(bundle)
    assert add_directions(bundle, lambda manifest: {"smile": direction(1)}, replacing=True) == [file]
    assert contents(bundle) == before  # given again, as after an interruption, it changes nothing
    Bundle.open(bundle).check()
    found = Directions(Bundle.open(bundle))["smile"]
    assert isinstance(found, Direction) and found.vector[0, 0] == 1
    assert run("remove", bundle, "smile", "age") == (0, [], "")
    assert set(Bundle.open(bundle).manifest.directions) == {"basis"}
    assert sorted(path.name for path in (bundle / "directions").iterdir() if path.name != Path(LOCK).name) == ["basis.safetensors"]
    Bundle.open(bundle).check()


@pytest.mark.parametrize("replaces", [True, False])
def test_what_a_process_that_died_left_goes_when_its_command_is_given_again(replaces: bool, bundle: Path) -> None:
    make = {"smile" if replaces else "new": direction(1)}
    whole = Path(shutil.copytree(bundle, bundle.with_name("whole")))
    add_directions(whole, lambda manifest: make, replacing=True)

    def die(*given: object) -> None:
        raise SystemExit

    for where in ("write_manifest", "delete"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(changes, where, die)
            patch.setattr(changes, "delete", die)
            add_directions(bundle, lambda manifest: make, replacing=True)
        Bundle.open(bundle).check()
    add_directions(bundle, lambda manifest: make, replacing=True)
    assert contents(bundle) == contents(whole)


@pytest.mark.parametrize("where", ["write_manifest", "save_direction", "file_entries"])
def test_a_failure_leaves_the_bundle_as_it_was(bundle: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle)

    def fail(*given: object, **named: object) -> None:
        raise KeyboardInterrupt if where == "write_manifest" else OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_directions if where == "save_direction" else changes, where, fail)
    with pytest.raises((KeyboardInterrupt, FileError)):
        add_directions(bundle, lambda manifest: {"new": direction(1), "smile": direction(2)}, replacing=True)
    assert contents(bundle) == before
    if where != "save_direction":
        with pytest.raises((KeyboardInterrupt, FileError)):
            remove_directions(bundle, ["smile"])
        assert contents(bundle) == before


def test_what_a_reader_opened_stays_readable_until_it_opens_anew(bundle: Path) -> None:
    """The manifest is replaced before old files go, so that whoever opens the bundle at any moment finds all that it lists."""
    seen: list[bool] = []
    inner = changes.delete

    def watched(folder: Path, names: set[str]) -> None:
        Bundle.open(folder).check()
        seen.append(bool(names))
        inner(folder, names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "delete", watched)
        add_directions(bundle, lambda manifest: {"smile": direction(3)}, replacing=True)
        remove_directions(bundle, ["age"])
    assert seen == [True, True]


def test_what_cannot_be_is_one_sentence_and_changes_nothing(bundle: Path, tmp_path: Path, run: Any) -> None:
    np.save(tmp_path / "wide.npy", np.ones(9))
    np.save(tmp_path / "beard.npy", np.ones(8))
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    np.savez(tmp_path / "pca.npz", mean=np.zeros(8), comp=np.eye(8), std=np.ones(8))
    before = contents(bundle)
    for words, sentence in (
        (("add", bundle, tmp_path / "wide.npy"), "wide.npy does not fit this model: the direction"),
        (("add", bundle, tmp_path / "page.pt"), "is a web page, not a direction: the download failed; download it again"),
        (
            ("add", bundle, tmp_path / "beard.npy", "--name", "smile"),
            'has a direction "smile" already; take another name, or give --replace',
        ),
        (("add", bundle, tmp_path / "beard.npy", "--name", "a/b"), '"a/b" is no name for a direction; use letters, digits'),
        (("add", bundle, tmp_path / "beard.npy", tmp_path / "wide.npy", "--name", "a"), "does not fit this model"),
        (("add", bundle, tmp_path / "beard.npy", tmp_path / "pca.npz", "--name", "a"), "--name names one direction, and there are 2"),
        (("add", bundle, tmp_path / "pca.npz", "--range", -1, 1), "--range is for directions; the components of a PCA basis"),
        (("add", bundle, tmp_path / "beard.npy", "--range", 2, 1), "--range is 2 1; give the lower end first"),
        (("add", bundle, tmp_path / "beard.npy", "--range", 0, "nan"), "--range is nan; give a finite number"),
        (("add", tmp_path / "none", tmp_path / "beard.npy"), "there is no bundle at"),
        (("remove", bundle, "smil"), 'there is no direction "smil"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?'),
        (("channels", bundle, "grey", "1/2"), "this bundle has no style space; build it again with: sdic-export build --style-space"),
        (("sefa", bundle), "does not say which checkpoint it was built from"),
        (("styleclip", bundle, "bob", "--arrays", tmp_path), "give either --clip, the folder of CLIP's text encoder, or --embeddings"),
    ):
        code, lines, errors = run(*words)
        assert (code, lines) == (2, []) and sentence in errors and errors.count("\n") == 1, (words, errors)
    assert contents(bundle) == before


def test_names_are_safe_for_files_and_for_edits() -> None:
    for name in ("smile", "Smiling_boundary", "v1.2", "50+", "lächeln", "笑"):
        assert check_name(name) == name
    for name in ("", "a/b", "../a", ".hidden", "a:b", "a,b", "a b", "a\\b", "x" * 101, "-a"):
        with pytest.raises(ArgumentError, match="is no name for a direction"):
            check_name(name)


def test_two_processes_take_turns(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    class Busy:
        def __init__(self, *given: object, **named: object) -> None:
            pass

        def __enter__(self) -> None:
            raise filelock.Timeout("lock")

        def __exit__(self, *given: object) -> None:
            pass

    monkeypatch.setattr(filelock, "FileLock", Busy)
    with pytest.raises(FileError, match=f"^another process is changing {bundle}; wait for it and try again$"):
        remove_directions(bundle, ["smile"])


def test_a_damaged_bundle_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(BundleError, match="is not a valid bundle manifest"):
        add_directions(tmp_path, lambda manifest: {})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.json"]


def test_useful_ranges_of_public_files_are_known(tmp_path: Path) -> None:
    from sdic_export.directions.files import read_direction

    sizes = {"L": 18, "C": 512}
    np.save(tmp_path / "Smiling_boundary.npy", np.ones((1, 18 * 512), np.float32))
    torch.save(torch.ones(1, 512), tmp_path / "age.pt")
    torch.save(torch.ones(1, 512), tmp_path / "mine.pt")
    found = {path.stem: read_direction(path, sizes) for path in tmp_path.iterdir()}
    assert {name: getattr(each, "strength_range", 0) for name, each in found.items()} == {
        "Smiling_boundary": (-10, 10),
        "age": (-5, 5),
        "mine": None,
    }
    assert "research alone" in found["Smiling_boundary"].licence and found["age"].licence == ""


def test_sefa_is_added_from_the_weights_that_the_bundle_records(tmp_path: Path, run: Any) -> None:
    demo = tmp_path / "demo"
    shutil.copytree(Bundle.open().path / "directions", demo / "directions")
    shutil.copy(Bundle.open().path / "bundle.json", demo)
    code, _, errors = run("sefa", demo)
    assert code == 2 and "the checkpoint" in errors and "is not there" in errors
    weights = Bundle.open().path / Bundle.open().manifest.checkpoint["path"]
    code, lines, errors = run("sefa", demo, "--checkpoint", weights, "--rows", 2, 5, "--count", 2, "--range", -4, 4)
    assert code == 0 and len(lines) == 2, errors
    found = load_direction(demo / "directions/sefa_2_5_1.safetensors")
    assert isinstance(found, Direction) and found.rows == (2, 5) and found.strength_range == (-4.0, 4.0)
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)


def test_the_commands_are_listed() -> None:
    from sdic_export.cli.app import app

    listed = CliRunner().invoke(app, ["directions", "--help"]).output
    for name in ("add", "list", "remove", "sefa", "channels", "styleclip"):
        assert f"  {name} " in listed
    assert issubclass(FileError, SdicError)
