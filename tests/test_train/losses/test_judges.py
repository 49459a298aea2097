"""The judges that `sdic-run compare` finds through entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from sdic_runtime.errors import CheckpointError
from sdic_runtime.tools import judges
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.portrait_reader import PortraitReader

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of this folder's pyproject, whatever is installed."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    names = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][judges.GROUP]
    entries = [EntryPoint(name, value, judges.GROUP) for name, value in names.items()]
    monkeypatch.setattr(judges, "entry_points", lambda group: entries)


def test_they_are_the_networks_of_the_losses(tmp_path: Path) -> None:
    from sdic_train.checkpoints.files import write_safetensors
    from sdic_train.networks.portrait_reader import READER_FORMAT

    torch.manual_seed(0)
    reader, path = PortraitReader().eval(), tmp_path / "reader.safetensors"
    write_safetensors(path, reader.state_dict(), {"format": READER_FORMAT})
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        identity, perceptual = (loss(reader)(torch.from_numpy(a), torch.from_numpy(b)) for loss in (PortraitIdentity, PortraitPerceptual))
    np.testing.assert_allclose(judges.load_judge("identity", path)(a, b), 1 - identity.numpy(), rtol=1e-5)
    np.testing.assert_allclose(judges.load_judge("perceptual", path)(a, b), perceptual.numpy(), rtol=1e-5)
    assert set(judges.COLUMNS) == {"identity", "perceptual"}


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in judges.COLUMNS:
        with pytest.raises(CheckpointError, match=r"other\.pth"):
            judges.load_judge(name, tmp_path / "other.pth")
