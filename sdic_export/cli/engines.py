"""`sdic-export engines`: build what is missing or stale, or only say what would be built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdic_runtime.backends.tensorrt.settings import DEFAULTS, MEBI, EngineSettings, Hardware, Profile, Target
from sdic_runtime.cli.options import Debug

if TYPE_CHECKING:
    from sdic_export.tensorrt.engines import EnginePlan, EngineReport, Planned
    from sdic_runtime.backends.tensorrt.engine_files import EngineEntry

MEGA = 1e6


def engines(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle folder.", show_default=False)],
    target: Annotated[Target, typer.Option("--target", help="TensorRT for the GPU of this machine, or TensorRT-RTX for RTX cards.")],
    precision: Annotated[str, typer.Option("--precision", help="Precision of the graphs: fp16, bf16 or fp32.")] = DEFAULTS.precision,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="MIN,OPT,MAX", help=f"Smallest, fastest and largest batch; {DEFAULTS.profile} when omitted."),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", metavar="N.N", help="TensorRT-RTX: build for this one; may be given several times."),
    ] = None,
    hardware: Annotated[
        Hardware, typer.Option("--hardware", help="TensorRT: run on this GPU only, or on more of them, slower.")
    ] = DEFAULTS.hardware,
    strip_weights: Annotated[bool, typer.Option("--strip-weights", help="Omit the weights; they are read from the ONNX files.")] = False,
    workspace: Annotated[float | None, typer.Option("--workspace", metavar="MB", min=1, help="Most GPU memory to compute in.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there and fits.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be built or used again, and why.")] = False,
    debug: Debug = False,
) -> None:
    """Build the engines of a bundle.

    Engines that fit are kept. What a half-precision engine computes in is checked.

    \b
    Examples:
      sdic-export engines engines/ffhq1024 --target tensorrt-rtx
      sdic-export engines engines/ffhq1024 --target tensorrt --batch 1,1,8 --dry-run
    """
    settings = EngineSettings(
        precision,
        DEFAULTS.profile if batch is None else Profile.parse(batch),
        tuple(compute_capability or ()),
        hardware,
        "stripped" if strip_weights else "included",
        None if workspace is None else int(workspace * MEBI),
    )
    from sdic_export.tensorrt.engines import check_batches, plan_engines

    if batch is not None:
        check_batches(bundle, settings)
    if dry_run:
        show_plan(plan_engines(bundle, target, settings, force))
        return
    typer.echo(str(build_with_progress(bundle, target, settings, force).plan.folder))


def build_with_progress(bundle: Path, target: str, settings: EngineSettings, force: bool = False) -> EngineReport:
    """Build engines with a line per graph on standard error, and a bar on a terminal."""
    from sdic_export.tensorrt.engines import EngineProgress, build_engines

    bar = _Bar()
    try:
        return build_engines(bundle, target, settings, force, EngineProgress(bar.begin, bar.step, bar.done))
    finally:
        bar.close()


def show_plan(plan: EnginePlan) -> None:
    """What would be done: a line per graph on standard output."""
    typer.echo(f"{plan.place.library}, {plan.settings.precision}, batch {plan.settings.profile}, in {plan.folder}")
    for item in plan.graphs:
        typer.echo(f"{item.action:6} {item.graph:20} {item.reason}")


class _Bar:
    """One line per graph; on a terminal a bar with the time that is left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._built: set[str] = set()

    def begin(self, planned: Planned) -> None:
        self.close()
        if planned.action == "build":
            self._built.add(planned.graph)
            if sys.stderr.isatty():
                from tqdm import tqdm

                layout = "{desc} {bar} {n:.0f}% {elapsed}<{remaining} {postfix}"
                self._bar = tqdm(total=100, desc=planned.graph, unit="%", file=sys.stderr, leave=False, bar_format=layout)

    def step(self, graph: str, phase: str, done: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(phase, refresh=False)
            self._bar.update(100 * min(done, 1.0) - self._bar.n)

    def done(self, graph: str, entry: EngineEntry) -> None:
        self.close()
        action = f"{entry.seconds:6.1f} s" if graph in self._built else "as it was"
        typer.echo(f"{graph:20} {action:>9}  {entry.bytes / MEGA:8.1f} MB  {_types(entry)}", err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _types(entry: EngineEntry) -> str:
    """The share of the types among the weights: "97 % float16, 3 % float32"."""
    weights = entry.census.get("weight_bytes") or entry.census.get("tensors") or {}
    total = sum(weights.values())
    shares = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{100 * count / total:.0f} % {kind}" for kind, count in shares) if total else "types unknown"
