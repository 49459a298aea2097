from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle of the Python runtime's tests."""
    spec = importlib.util.spec_from_file_location("tiny_bundle_maker", ROOT / "tests/test_runtime/conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))
