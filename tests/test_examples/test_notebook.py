from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not (DEMO_FOLDER / MANIFEST_NAME).exists(), reason="the embedded demo bundle is not in this checkout")


def kinds(notebook: Any) -> list[list[str]]:
    """What every cell shows."""
    return [
        [kind for output in cell.get("outputs", []) for kind in output.get("data", {output["output_type"]: ""})] for cell in notebook.cells
    ]


def test_it_runs_from_top_to_bottom_and_shows_what_it_says(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    kept, notebook = (nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4) for _ in range(2))
    for portrait in EXAMPLES.glob("portrait_*.png"):
        shutil.copy(portrait, tmp_path)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(notebook) == kinds(kept)
    assert sum("image/jpeg" in shown for shown in kinds(kept)) == 3
    same = [cell.outputs[0].data["text/plain"] for cell in notebook.cells if 'smile", 0)' in cell.source]
    assert same == ["True"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in EXAMPLES.glob("portrait_*.png"))
