"""The site of the demo bundle, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from built_once import built_once
from site_pages import Visits

from sdic_export.web import runtime
from sdic_export.web.site import WebOptions, write_site
from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME
from sdic_runtime.errors import ArgumentError


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package onnxruntime-web, packed."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which gets onnxruntime-web, is not installed")
    try:
        folder = built_once(tmp_path_factory, "onnxruntime_web", runtime.pack)
    except (ArgumentError, FileExistsError) as error:
        pytest.skip(f"npm does not get onnxruntime-web here: {error}")
    return next(folder.glob("*.tgz"))


@pytest.fixture(scope="session")
def demo_site(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (DEMO_FOLDER / MANIFEST_NAME).exists():
        pytest.skip("the embedded demo bundle is not in this checkout")
    return built_once(tmp_path_factory, "demo_site", lambda folder: write_site(WebOptions(DEMO_FOLDER, folder / "site", packed))) / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Visits]:
    """Opens the pages of sites."""
    with ExitStack() as stack:
        yield Visits(browser, stack)
