"""docs/methods.md says of every array that the official code computed where it is read, and can be followed word by word."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import small_methods as small
import small_parts
from official_checkpoint import DATA
from PIL import Image
from small_bundles import small_bundle

from sdic_runtime.cli.app import main as run
from sdic_runtime.pipeline import Pipeline
from sdic_train.methods import METHODS as CODES
from sdic_train.methods.trace import method_of

DOCUMENT = Path(__file__).parents[2] / "docs/methods.md"
SECTIONS = {"psp": "e4e and pSp", "sfe": "StyleFeatureEditor", "fs": "FS", "hfgi": "HFGI"} | {
    name: name for name in ("ReStyle", "HyperStyle", "CLCAE", "PTI")
}
DOCUMENTED = {  # method -> its section, and a configuration of its model
    "psp": ("e4e and pSp", small.PSP),
    "restyle-psp": ("ReStyle", small.RESTYLE["psp"]),
    "hfgi": ("HFGI", small.LARGER),
    "sfe": ("StyleFeatureEditor", small.LARGER),
    "hyperstyle": ("HyperStyle", small_parts.HYPER),
    "clcae": ("CLCAE", small_parts.ATTENTIVE),
    "fs": ("FS", small_parts.STYLED),
}
PLACEHOLDERS = {"<j>": r"\d+", "<t>": r"\d+", "*": r".+"}


def section(name: str) -> str:
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.split(r"^## ", text[text.index(f"\n## {name}") + 4 :], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_official_array_is_in_a_table(name: str) -> None:
    rows = [line for line in section(SECTIONS[name]).splitlines() if line.startswith("|")]
    patterns = [re.escape(word) for row in rows for word in re.findall(r"`([^`]+)`", row)]
    for mark, pattern in PLACEHOLDERS.items():
        patterns = [word.replace(re.escape(mark), pattern) for word in patterns]
    with np.load(DATA / "methods" / f"{name.lower()}.expected.npz") as file:
        arrays = [re.sub(r"^(psp|e4e)\.", "", array) for array in file]
    missing = [array for array in arrays if not any(re.fullmatch(rf"{pattern}(\.slice|\.crop|\.stats)?", array) for pattern in patterns)]
    assert not sorted(missing)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_kept_tensor_is_in_a_table_under_the_name_of_its_file(name: str) -> None:
    title, config = DOCUMENTED[name]
    rows = re.split(r"^\| kept \|.*\n\| --- .*\n", section(title), flags=re.MULTILINE)[1].split("\n\n")[0].splitlines()
    cells = [row.split("|")[1] for row in rows]
    method = method_of(CODES[name], config)
    given = {tensor for program in method.programs.values() for tensor in program.gives}
    known = {*given, *method.programs, *method.stages, *(f"delta_{layer}" for layer in (5, 24)), "sfe-inverter", "--iterations t"}
    words = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert words - known - {"reconstruction"} == set()
    listed = {re.sub(r"_\d+$", "", word) for word in words}
    assert {re.sub(r"_\d+$", "", tensor) for tensor in method.keeps} - {"image", "initial_1"} <= listed


def test_the_document_is_followed_word_by_word(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle(tmp_path_factory, "hfgi")
    text = section("Reading what a method computed")
    (command,) = re.findall(r"`(sdic-run invert [^`]*)`", text)
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.fromarray((np.random.default_rng(0).random((256, 256, 3)) * 255).astype(np.uint8)).save("face.png")
    assert run([*command.split()[1:], "--bundle", str(bundle), "--backend", "onnxruntime"]) == 0
    direction = np.random.default_rng(1).normal(0, 0.2, (14, small.SMALL.style_width)).astype(np.float32)
    with Pipeline.load(bundle, backend="onnxruntime") as pipeline:
        values = {"np": np, "pipeline": pipeline, "direction": direction}
        exec(code, values)  # what the document says
        inversion = pipeline.invert(Image.open("face.png"))
        assert values["shift"].shape == inversion.shift.shape and not np.allclose(values["shift"], inversion.shift)
        np.testing.assert_allclose(values["made"]["picture"], pipeline.edit(inversion, direction, 1.5).pixels, rtol=1e-4, atol=1e-5)
