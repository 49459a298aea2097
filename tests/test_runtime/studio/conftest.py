"""The service with a model of aligned faces, and a browser for its page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import change_manifest

from sdic_runtime.bundle.manifest import FFHQ


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of the tiny bundle, said to be a model of aligned faces."""
    from fastapi.testclient import TestClient

    from sdic_runtime.studio.service import create_app

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("service") / "faces"))
    change_manifest(bundle, faces=FFHQ)
    with TestClient(create_app([bundle], threads=1)) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browser import chromium

    with chromium() as running:
        yield running
