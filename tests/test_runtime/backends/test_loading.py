"""Loading on ONNX Runtime: sessions and the hashes of weights side by side, and what is wrong found in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime.backends import onnxruntime as module
from sdic_runtime.backends.onnxruntime import load
from sdic_runtime.bundle import bundle as bundles
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import BackendError, BundleError

GRAPH, WEIGHTS = "onnx/fp32/e4e.onnx", "onnx/fp32/e4e.onnx.data"
LONGEST = 20  # seconds that one waits for the other, which never comes where they are not side by side
DAMAGED = r"e4e\.onnx\.data is damaged: its SHA-256 is not the one in bundle\.json"


@pytest.fixture
def folder(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> Path:
    """A bundle whose encoder has its weights in a file of their own."""
    import onnx

    made = make_bundle()
    onnx.save(onnx.load(made / GRAPH), made / GRAPH, save_as_external_data=True, location=Path(WEIGHTS).name, size_threshold=1000)
    return change(made, [GRAPH, WEIGHTS], weights={GRAPH: (WEIGHTS,)}).parent


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[bool]]:
    """Have the "session" of the encoder or the "hash" of its weights wait for the end of the other; whether it came, once it was waited."""
    ends = {"session": threading.Event(), "hash": threading.Event()}

    def arrange(later: str) -> list[bool]:
        came: list[bool] = []

        def wrap(what: str, call: Callable[..., Any], concerns: Callable[..., bool]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> Any:
                if not concerns(*arguments):
                    return call(*arguments)
                if what == later:
                    came.append(ends["hash" if later == "session" else "session"].wait(LONGEST))
                result = call(*arguments)
                ends[what].set()
                return result

            return wrapped

        hashing = wrap("hash", bundles.sha256, lambda path: path.name == Path(WEIGHTS).name)
        monkeypatch.setattr(bundles, "sha256", hashing)
        monkeypatch.setattr(module, "session_of", wrap("session", module.session_of, lambda bundle, name, *_: name == "e4e"))
        monkeypatch.setattr(module, "available_cpus", lambda: 2)
        return came

    return arrange


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("later", ["session", "hash"])
def test_weights_are_hashed_beside_the_session_that_reads_them(folder: Path, order: Callable[[str], list[bool]], later: str) -> None:
    came = order(later)
    image = np.ones((1, 3, 64, 64), np.float32)
    backend: Any = load(Bundle.open(folder), threads=1)
    made = backend.run("e4e", {"image": image}, ["latent"])["latent"]
    assert came == [True] and made.shape == (1, 12, 8)


@pytest.mark.parametrize("later", ["session", "hash"])
def test_damaged_weights_are_found_whatever_comes_first(folder: Path, order: Callable[[str], list[bool]], later: str) -> None:
    damage(folder / WEIGHTS)
    came = order(later)
    with pytest.raises(BundleError, match=DAMAGED):
        load(Bundle.open(folder), threads=1)
    assert all(came)


def test_a_damaged_graph_never_becomes_a_session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(folder / GRAPH)
    made: list[str] = []
    plain = module.session_of

    def noted(bundle: Bundle, name: str, *rest: Any) -> Any:
        made.append(name)
        return plain(bundle, name, *rest)

    monkeypatch.setattr(module, "session_of", noted)
    with pytest.raises(BundleError, match=r"e4e\.onnx is damaged: its SHA-256"):
        load(Bundle.open(folder), threads=1)
    assert "e4e" not in made


def test_weights_of_a_stage_that_is_loaded_later_are_compared_then(folder: Path) -> None:
    damage(folder / WEIGHTS)
    backend: Any = load(Bundle.open(folder), threads=1, lazy=True)
    with pytest.raises(BundleError, match=DAMAGED):
        backend.run("e4e", {"image": np.ones((1, 3, 64, 64), np.float32)}, ["latent"])


def test_weights_outside_are_compared_before_anything_reads_them(folder: Path, tmp_path: Path) -> None:
    elsewhere = (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    damage(elsewhere)
    (folder / WEIGHTS).symlink_to(elsewhere)
    for verify in (True, False):
        with pytest.raises(BundleError, match=DAMAGED):
            Bundle.open(folder, verify=verify).graph("e4e", ["latent"], ["fp32"], hashed=False)


def test_the_first_session_that_fails_ends_the_load_with_its_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(bundle: Bundle, name: str, *_: Any) -> Any:
        tried.append(name)
        raise BackendError(f'the stage "{name}" could not be loaded')

    monkeypatch.setattr(module, "session_of", fail)
    monkeypatch.setattr(module, "available_cpus", lambda: 1)
    with pytest.raises(BackendError, match=r'^the stage "\w+" could not be loaded$'):
        load(Bundle.open(folder), threads=1)
    assert len(tried) == 1
