from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sdic_runtime import Inversion, Pipeline

ROOT = Path(__file__).parents[2]


def test_the_program_writes_an_inversion_and_edits_of_it(tiny_bundle: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).save(photo)
    done = subprocess.run(
        [sys.executable, ROOT / "examples/invert_and_edit.py", photo, tiny_bundle, "smile", "age"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    pipeline = Pipeline.load(tiny_bundle, "onnxruntime")
    inversion = pipeline.invert(photo)
    expected = {
        "inverted": inversion.images[0],
        **{
            f"{word}-{name}": pipeline.edit(inversion, name, strength).images[0]
            for name in ("smile", "age")
            for word, strength in (("less", -2), ("more", 2))
        },
    }
    for name, image in expected.items():
        got = np.asarray(Image.open(tmp_path / f"photo-{name}.png"), int)
        assert np.abs(got - np.asarray(image)).max() <= 1, name
    np.testing.assert_array_equal(Inversion.load(tmp_path / "photo.safetensors").latent, inversion.latent)
