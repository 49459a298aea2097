"""Where engines run: which library and GPU they are bound to, and in words why they do not run in another place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace

import msgspec

from sdic_runtime.backends.cuda.driver import GpuAttributes
from sdic_runtime.backends.tensorrt.settings import EngineSettings, Hardware, Target

HASH_DIGITS = 8
RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")  # what a TensorRT-RTX engine is built for when nothing is said; it also runs on later ones
AMPERE = "8.0"


class Place(msgspec.Struct, frozen=True):
    """The target, its version, and the GPU: None where there is none, and of engines that are not bound to one."""

    target: Target
    version: str
    gpu: GpuAttributes | None = None

    @property
    def library(self) -> str:
        return f"{self.target.label} {self.version}"


def bound_place(here: Place, settings: EngineSettings) -> Place:
    """Where engines that are built `here` may run: TensorRT-RTX is bound to no GPU, TensorRT to what `settings.hardware` leaves of it."""
    if not here.target.needs_gpu or here.gpu is None:
        return msgspec.structs.replace(here, gpu=None)
    if settings.hardware == Hardware.exact:
        return here
    capability = here.gpu.compute_capability if settings.hardware == Hardware.same_capability else AMPERE
    return msgspec.structs.replace(here, gpu=GpuAttributes(capability, 0, 0, 0, 0, 0, False, here.gpu.name))


def folder_name(here: Place, settings: EngineSettings) -> str:
    """The name of the folder of engines that are built `here`: readable in front, and a hash over all that matters behind."""
    place = bound_place(here, settings)
    capabilities = (place.gpu.compute_capability,) if place.gpu else settings.compute_capabilities or ("default",)
    where = "sm" + "-".join(capabilities).replace(".", "")
    unnamed = msgspec.structs.replace(place, gpu=replace(place.gpu, name="")) if place.gpu else place
    content = json.dumps(msgspec.to_builtins([unnamed, settings]), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:HASH_DIGITS]
    profile = str(settings.profile).replace(",", "-")
    return f"{place.target}-{place.version}-{where}-{settings.precision}-b{profile}-{digest}"


def mismatch(built: Place, settings: EngineSettings, here: Place) -> str | None:
    """Why engines that were built for the place `built` do not run `here`, in a few words; None when they should."""
    if built.target != here.target:
        return f"they were built by {built.target.label}, and this is {here.target.label}"
    if built.version != here.version:
        return f"they were built by {built.library}, and {here.version} is installed"
    if here.gpu is None:
        return "there is no GPU here"
    if not here.target.needs_gpu:
        return _capability_mismatch(settings.compute_capabilities, here.gpu.compute_capability)
    if built.gpu is None:
        return "it is not known for which GPU they were built"
    return _gpu_mismatch(built.gpu, settings.hardware, here.gpu)


def _capability_mismatch(built: Sequence[str], here: str) -> str | None:
    listed = built or RTX_DEFAULT
    if here in listed or (not built and _numbers(here) > _numbers(RTX_DEFAULT[-1])):
        return None
    return f"they were built for the compute capabilities {', '.join(listed)}, and this GPU has {here}"


def _gpu_mismatch(built: GpuAttributes, hardware: Hardware, here: GpuAttributes) -> str | None:
    theirs, ours = built.compute_capability, here.compute_capability
    if hardware == Hardware.ampere_plus:
        fits = _numbers(ours) >= _numbers(AMPERE)
        return None if fits else f"they run on compute capability {AMPERE} and later, and this GPU has {ours}"
    if hardware == Hardware.same_capability:
        return None if theirs == ours else f"they were built for compute capability {theirs}, and this GPU has {ours}"
    for item in fields(GpuAttributes):
        ours, theirs = getattr(here, item.name), getattr(built, item.name)
        if item.compare and ours != theirs:
            label = item.name.replace("_", " ")
            return f"they were built for {built.name or 'a GPU'} with {label} {theirs}, and this is {here.name or 'a GPU'} with {ours}"
    return None


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
