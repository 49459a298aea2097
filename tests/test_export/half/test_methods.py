"""Half precision of every method, layer by layer, and TensorRT-RTX engines of it without a GPU: small models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import small_methods
import small_parts
from half_checks import check_engines, check_half
from small_bundles import small_bundle, styled_bundle

METHODS = [*small_methods.BUILDERS, *small_parts.BUILDERS]
ONE_PICTURE = ("hyperstyle",)  # whose generator has the weights of one picture


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_checked_layer_by_layer(method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_half(small_bundle(tmp_path_factory, method), tmp_path)


@pytest.mark.full
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("method", METHODS)
def test_engines_are_built_without_a_gpu(method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    half = check_half(small_bundle(tmp_path_factory, method), tmp_path)
    check_engines(half, "1,1,1" if method in ONE_PICTURE else "1,1,4")


def test_half_precision_of_style_space_is_checked_layer_by_layer(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_half(styled_bundle(tmp_path_factory), tmp_path)


@pytest.mark.full
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_engines_of_style_space_are_built_without_a_gpu(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Offsets [N, M] are one more input of the generator's, and their zeros an engine of its own."""
    check_engines(check_half(styled_bundle(tmp_path_factory), tmp_path), "1,1,4")
