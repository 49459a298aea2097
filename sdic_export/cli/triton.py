"""`sdic-export triton`: a bundle as a model repository of the Triton Inference Server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug, PrecisionOption


class StageBackend(str, Enum):
    """What Triton runs the stages on."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    python = "python"


class Device(str, Enum):
    """Where instances run."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Files(str, Enum):
    """How the bundle's files come into the repository."""

    copy = "copy"
    hard = "hard"
    symbolic = "symbolic"


def triton(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)],
    repository: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="Folder of the new model repository.", show_default=False)],
    backend: Annotated[
        StageBackend, typer.Option("--backend", help="Triton backend of the stages; python is ONNX Runtime in the Python backend.")
    ] = StageBackend.onnxruntime,
    engines: Annotated[
        Path | None, typer.Option("--engines", metavar="DIR", help="For --backend tensorrt: engines/KEY folder of the bundle.")
    ] = None,
    precision: PrecisionOption = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Most pictures in one batch.")] = 8,
    queue_delay: Annotated[
        int, typer.Option("--queue-delay", metavar="MICROSECONDS", min=0, help="How long a request may wait for others.")
    ] = 2000,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of each model, on each device.")] = 1,
    device: Annotated[Device, typer.Option("--device", help="Where instances run; auto takes GPUs where there are any.")] = Device.auto,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of each instance.")] = None,
    files: Annotated[Files, typer.Option("--files", help="Copy the bundle's files, or make hard or symbolic links.")] = Files.copy,
    warm_up: Annotated[bool, typer.Option("--warm-up/--no-warm-up", help="Run the golden picture when a model is loaded.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the model repository that is at REPOSITORY.")] = False,
    debug: Debug = False,
) -> None:
    """Write a repository for NVIDIA Triton.

    One model per stage, and ensembles: NAME_invert (image to inversion), and one per way to edit, NAME_edit and NAME_edit_released for
    SDIC (inversion, direction and strength to picture). Prints the names of the models.

    \b
    Examples:
      sdic-export triton engines/ffhq1024 models --device gpu
      sdic-export triton engines/ffhq1024 models --backend tensorrt --engines engines/ffhq1024/engines/KEY
    """
    from sdic_export import report
    from sdic_export.triton.config import Serving
    from sdic_export.triton.repository import TritonOptions, write_repository

    serving = Serving(max_batch, queue_delay, instances, device.value, threads)
    options = TritonOptions(bundle, repository, backend.value, engines, precision, serving, files.value, warm_up, force)
    for model in write_repository(options, report.show_step):
        typer.echo(model.name)
