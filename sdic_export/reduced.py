"""What bfloat16 costs: a bundle run by OpenVINO in bf16, compared with its golden tensors, and the answer in its manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sdic_export.changes import changing
from sdic_export.check import by_psnr
from sdic_export.golden import pictures, read_golden
from sdic_export.half.stages import tolerance_for
from sdic_export.verify import compare_with, run_parts
from sdic_runtime.backends.openvino import BF16, load, unavailable
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import Manifest
from sdic_runtime.errors import BackendError, BundleError
from sdic_runtime.tools.compare import Difference


@dataclass(frozen=True)
class Cost:
    """What was measured, and the manifest that says it."""

    manifest: Manifest
    backend: str  # its description
    picture: Difference  # the worst picture, by decibels
    tolerance: float


def require_bf16() -> None:
    """Raise BackendError where bf16 cannot be measured."""
    obstacle = unavailable(precision=BF16)
    if obstacle is not None:
        raise BackendError(f"bf16 cannot be measured here: {obstacle}")


def record_cost(folder: Path) -> Cost:
    """Measure bf16 on the bundle in `folder` and write the tolerance and the decibels into its manifest, the worse ones where it has some.

    Raises BackendError where OpenVINO or the CPU cannot, or gives what is not finite, and BundleError for a bundle without golden tensors.
    """
    require_bf16()
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if manifest.golden is None:
        raise BundleError(f"the bundle {folder} holds no golden tensors to compare bf16 with; build it again with: sdic-export build")
    golden, backend = read_golden(bundle.file(manifest.golden), manifest), load(bundle, precision=BF16)
    found = [item for part, values in run_parts(backend, golden) for _, item in compare_with(golden, values, part, backend)]
    picture = min((item for item in found if item.tensor in pictures(manifest)), key=by_psnr)
    described = backend.description.partition(f", {BF16}")[0]
    backend.close()
    if wrong := next((item for item in found if not math.isfinite(item.ratio)), None):
        raise BackendError(f'in bf16 "{wrong.tensor}" of {wrong.where} is not finite on {described}; leave the bundle in fp32')
    with changing(folder, manifest) as change:
        now = change.manifest
        tolerance, psnr = max(tolerance_for(found), now.tolerances.get(BF16, 0)), min(picture.psnr, now.psnr.get(BF16, picture.psnr))
        told = change.write(tolerances={**now.tolerances, BF16: tolerance}, psnr={**now.psnr, BF16: round(psnr, 2)})
    return Cost(told, described, picture, tolerance)
