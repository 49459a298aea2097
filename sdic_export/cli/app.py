"""`sdic-export`: turn checkpoints into bundles, verify bundles, and look into them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sdic_export import report
from sdic_export.cli.bf16 import bf16 as measure_bf16
from sdic_export.cli.directions import app as directions_app
from sdic_export.cli.engines import build_with_progress, engines
from sdic_export.cli.half import half
from sdic_export.cli.polygraphy import polygraphy
from sdic_export.cli.triton import triton
from sdic_export.cli.web import web
from sdic_runtime.cli.app import command_line, run
from sdic_runtime.cli.options import Debug, PrecisionOption
from sdic_runtime.errors import ArgumentError

FP16 = "fp16"  # the policy of --fp16
FAILED = 1  # a check was made and did not pass
OLDEST_OPSET, NEWEST_OPSET = 18, 22

app = command_line(
    "sdic-export",
    "Turn checkpoints into bundles of ONNX graphs, each verified against PyTorch.",
    "sdic-export build SDIC_ffhq.pt --out engines/ffhq1024",
)


class Domain(str, Enum):
    """Domains whose pictures are prepared in different ways."""

    faces = "faces"
    cars = "cars"


class Faces(str, Enum):
    """How faces lie in the pictures that a model takes."""

    ffhq = "ffhq"
    none = "none"


class BuildTarget(str, Enum):
    """What a build makes: graphs alone, or engines of them too."""

    onnx = "onnx"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class Weights(str, Enum):
    """How large weights are stored."""

    float32 = "float32"
    float16 = "float16"


BundleArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Bundle folder.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("build")
def build_bundle(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Checkpoint of a method: the released .pt, or .safetensors of sdic-train.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the new bundle.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="Name of the bundle; the folder's when omitted.")] = None,
    domain: Annotated[Domain | None, typer.Option("--domain", help="Override the domain recorded in the checkpoint.")] = None,
    faces: Annotated[
        Faces | None,
        typer.Option("--faces", help="Faces lie in its pictures as in FFHQ, or not; when omitted, ffhq for face models of 1024 pixels."),
    ] = None,
    directions: Annotated[
        list[Path] | None,
        typer.Option(
            "--directions",
            metavar="DIR|FILE",
            help="Edit directions: .pt as published, .safetensors, .npy or .npz; may be given several times. More later: directions add.",
        ),
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--pictures", metavar="FILE", help="Pictures for the golden tensors; synthetic ones when omitted. May be given several times."
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", metavar="TEXT", help="A sentence about the licence of the weights.")] = None,
    weights: Annotated[
        Weights, typer.Option("--weights", help="float16 rounds large weights and halves the bundle; the arithmetic stays float32.")
    ] = Weights.float32,
    parts: Annotated[
        bool, typer.Option("--parts/--no-parts", help="Also write the generator's tail in parts, for edits that move its later rows alone.")
    ] = True,
    cpu_graphs: Annotated[
        bool,
        typer.Option(
            "--cpu-graphs/--no-cpu-graphs",
            help="Also write CPU-optimized graphs, which ONNX Runtime takes on the CPU; with float32 weights only.",
        ),
    ] = True,
    opset: Annotated[
        int, typer.Option("--opset", min=OLDEST_OPSET, max=NEWEST_OPSET, help="Version of the ONNX operators.")
    ] = OLDEST_OPSET,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write the stages in half precision, checked layer by layer.")] = False,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME|FILE", help="Another half precision than that of --fp16: bf16, or the file of a policy."),
    ] = None,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Also measure what OpenVINO's bfloat16 costs, on a CPU that has it, for --precision auto.")
    ] = False,
    target: Annotated[
        BuildTarget, typer.Option("--target", help="Also build engines; more options for them: sdic-export engines --help.")
    ] = BuildTarget.onnx,
    method: Annotated[
        str | None, typer.Option("--method", help="What the checkpoint is of (sdic, e4e, psp, ...); told by what is in it when omitted.")
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="A further file of the model, such as its generator; may be given several times."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, help="Iterations of a method that iterates; by default as in its training.")
    ] = None,
    style_space: Annotated[
        bool, typer.Option("--style-space", help="Let edits reach the generator's styles: StyleSpace channels and StyleCLIP's directions.")
    ] = False,
    research_only: Annotated[
        bool, typer.Option("--research-only", help="Agree to the terms of weights that are for research alone, such as those of FS.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is at DIR.")] = False,
    debug: Debug = False,
) -> None:
    """Turn a checkpoint into a bundle.

    Every stage is exported to ONNX and checked against PyTorch; the bundle appears whole or not at all.

    \b
    Examples:
      sdic-export build SDIC_ffhq.pt --out engines/ffhq1024 --directions editings/interfacegan_directions
      sdic-export build SDIC_ffhq.pt --out engines/ffhq1024 --fp16 --target tensorrt-rtx
      sdic-export build runs/portraits.safetensors --out engines/portraits --weights float16
    """
    from sdic_export.build import UNKNOWN_LICENCE, BuildOptions, Progress, build
    from sdic_export.half.stages import HalfProgress
    from sdic_export.reduced import record_cost, require_bf16
    from sdic_export.tensorrt.engines import require_builder
    from sdic_runtime.backends.tensorrt.engine_files import EngineSettings

    if fp16 and policy is not None:
        raise ArgumentError(f"--fp16 and --policy {policy} are two half precisions; give one of them")
    options = BuildOptions(
        checkpoint,
        out,
        name=name,
        faces=faces.value if faces else None,
        domain=domain.value if domain else None,
        directions=directions or [],
        pictures=pictures or [],
        licence=licence or UNKNOWN_LICENCE,
        opset=opset,
        weights=weights.value,
        parts=parts,
        cpu_graphs=cpu_graphs,
        policy=policy or (FP16 if fp16 else None),
        force=force,
        method=method,
        others=others or [],
        iterations=iterations,
        style_space=style_space,
        research=research_only,
    )
    if target is not BuildTarget.onnx:
        require_builder(target.value)
    if bf16:
        require_bf16()
    result = build(options, Progress(report.show_step, report.show_stage, HalfProgress(report.show_step, report.show_half_stage)))
    report.show_build(result)
    if bf16:
        report.show_cost(record_cost(out))
    if target is not BuildTarget.onnx:
        build_with_progress(out, target.value, EngineSettings(precision=result.half.precision if result.half else "fp32"))
    typer.echo(str(out))


app.add_typer(directions_app, name="directions")
app.command("half")(half)
app.command("bf16")(measure_bf16)
app.command("engines")(engines)
app.command("triton")(triton)
app.command("polygraphy")(polygraphy)
app.command("web")(web)


@app.command("verify")
def verify_bundle(
    bundle: BundleArgument,
    backend: Annotated[str, typer.Option("--backend", metavar="NAME[:KEY=VALUE,...]", help="What to run the stages on.")] = "onnxruntime",
    precision: PrecisionOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="PT", help="Also compare with what PyTorch computes from this checkpoint now.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every check.")] = False,
    as_json: JsonOption = False,
    debug: Debug = False,
) -> None:
    """Verify a bundle against PyTorch's numbers.

    Checks the manifest, the hash of every file, and every stage against the golden tensors. The table has the worst check of every stage
    and all that failed. The exit code is 1 when a tensor is further off than the bundle allows, and 2 when the bundle is damaged.

    \b
    Examples:
      sdic-export verify engines/ffhq1024
      sdic-export verify engines/ffhq1024 --backend torch:checkpoint=SDIC_ffhq.pt
    """
    from sdic_export.verify import verify

    result = verify(bundle, backend, precision, checkpoint)
    report.show_verification(result, as_json, every)
    if result.failures:
        raise typer.Exit(FAILED)


@app.command("inspect")
def inspect_contents(bundle: BundleArgument, as_json: JsonOption = False, debug: Debug = False) -> None:
    """List what is in a bundle.

    Graphs with their files, sizes, parameters, operations, arithmetic and hashes; programs with the work of one picture.

    \b
    Example:
      sdic-export inspect engines/ffhq1024 --json
    """
    from sdic_export.inspect import inspect_bundle

    report.show_contents(*inspect_bundle(bundle), as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """`sdic-export`: run one command and return its exit code; see `run`."""
    return run(app, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
