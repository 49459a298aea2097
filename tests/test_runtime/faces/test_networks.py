"""The models that are carried: what they were made from, and what the original interpreter computed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from sdic_runtime.errors import FileError
from sdic_runtime.faces import networks

# Parts of `astronaut` (left, top, side) that the models of the .tflite files ran on; `originals.npz` has every n-th number of each output.
PARTS = {"short_range": (160, 60, 128), "full_range": (130, 20, 192), "mesh": (130, 20, 192), "person": (96, 0, 256)}
OUTPUTS = {"short_range": ("boxes", "scores"), "full_range": ("boxes", "scores"), "mesh": ("points", "score"), "person": ("mask",)}


@pytest.mark.parametrize("name", PARTS)
def test_a_model_computes_what_the_original_does(name: str) -> None:
    left, top, side = PARTS[name]
    picture = data.astronaut()[top : top + side, left : left + side]
    found = networks.run(name, picture[None], low=-1 if "range" in name else 0)
    with np.load(Path(__file__).parent / "originals.npz") as originals:
        for output, values in zip(OUTPUTS[name], found, strict=True):
            expected = originals[f"{name}.{output}"]
            step = max(1, values.size // 1500)
            error = np.abs(values.ravel()[::step] - expected).max() / np.abs(expected).max()
            assert error < (3e-4 if name == "person" else 5e-6)


def test_several_pictures_are_a_batch() -> None:
    picture = data.astronaut()[20:212, 130:322]
    together = networks.run("mesh", np.stack([picture, picture[:, ::-1]]))[0]
    alone = networks.run("mesh", picture[None, :, ::-1])[0]
    np.testing.assert_allclose(together[1], alone[0], atol=1e-3)


def test_the_record_has_the_hash_of_every_model() -> None:
    record = json.loads((networks.MODELS / "models.json").read_text())
    assert set(record) == {path.stem for path in networks.MODELS.glob("*.onnx")} == set(PARTS)
    for name, entry in record.items():
        assert sha256((networks.MODELS / f"{name}.onnx").read_bytes()).hexdigest() == entry["sha256"]
    assert "Apache License" in (networks.MODELS / "LICENSE").read_text()


def test_a_damaged_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    monkeypatch.setattr(networks, "MODELS", tmp_path)
    for name in ("broken", "absent"):
        with pytest.raises(FileError, match=f"{name}.onnx is missing or damaged; install sdic-toolkit again"):
            networks.run(name, np.zeros((1, 8, 8, 3), np.uint8))
