"""`sdic-train evaluate`: the paper's Table 1 for a checkpoint or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, echo

from sdic_runtime.cli.options import Debug
from sdic_runtime.errors import ArgumentError
from sdic_train.cli import options as shared

HELD_OUT = 900_000


def run(
    model: Annotated[Path, Argument(metavar="CHECKPOINT|BUNDLE", help="SDIC checkpoint file, or bundle folder.", show_default=False)],
    data: shared.DataOption,
    count: Annotated[int, Option(min=1, help="Held-out pictures.")] = 256,
    data_seed: Annotated[int, Option(min=0, help="Random seed of the photos; from 900000 on, a folder's held-out pictures.")] = HELD_OUT,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    directions: Annotated[
        Path | None, Option(metavar="DIR", help="Directions whose edits are measured; by default the bundle's own.")
    ] = None,
    reader: Annotated[
        Path | None, Option(metavar="FILE", help="Portrait reader that measures edits; train it apart from the losses'.")
    ] = None,
    strength: Annotated[float, Option(help="Of the edits, times the distance between an attribute's two sides.")] = 1.0,
    edit_first: Annotated[bool, Option("--edit-first", help="Edit, then compensate: the paper's ablation; for checkpoints.")] = False,
    backend: Annotated[str, Option(help="Backend for a bundle.")] = "auto",
    batch: Annotated[int, Option(min=1, help="Pictures computed at once.")] = 8,
    threads: shared.ThreadsOption = 0,
    out: Annotated[Path | None, Option("--out", "-o", metavar="DIR", help="Folder for evaluation.json and evaluation.md.")] = None,
    debug: Debug = False,
) -> None:
    """Measure inversions and edits on held-out pictures.

    ID, SSIM, PSNR, LPIPS, L2 and time of e4e and SDIC; the paper's Table 1.

    \b
    Example:
      sdic-train evaluate runs/sdic/model.safetensors --data data/portraits --identity runs/reader/model.safetensors
    """
    import json

    import numpy as np

    from sdic_runtime.files import replacing
    from sdic_train.evaluation import evaluate as evaluation
    from sdic_train.losses.networks import identity_network, open_reader, perceptual_network
    from sdic_train.trainers.pictures import scaled

    if threads:
        import torch

        torch.set_num_threads(threads)
    if directions is not None and reader is None:
        raise ArgumentError("edits are measured with a portrait reader; name one with --reader")
    inverter, working = _inverter(model, backend, threads, edit_first)
    judge = open_reader(reader) if reader is not None else None
    edits = _directions(directions, inverter) if judge is not None else {}
    pictures = shared.pictures(data, working, shared.Photos.photo, data_seed)
    images = scaled(pictures, np.arange(min(count, len(pictures))), working)
    rows = evaluation.table(inverter, images, identity_network(identity), perceptual_network(perceptual), batch)
    result: dict[str, Any] = {"pictures": len(images), "inversion": rows}
    text = evaluation.markdown(rows, "method")
    if judge is not None:
        strengths = {name: strength * value for name, value in evaluation.default_strengths(edits).items()}
        result["edits"] = evaluation.edit_table(inverter, images, edits, strengths, judge, batch)
        text += "\n\n" + evaluation.markdown(result["edits"], "edit")
    echo(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (("evaluation.json", json.dumps(result, indent=1)), ("evaluation.md", text + "\n")):
            with replacing(out / name) as temporary:
                temporary.write_text(content)


def _inverter(model: Path, backend: str, threads: int, edit_first: bool) -> tuple[Any, int]:
    """The model behind a file or a folder, and its working size."""
    from sdic_train.evaluation.evaluate import ModelInverter, PipelineInverter

    if model.is_dir() and edit_first:
        raise ArgumentError("--edit-first needs a checkpoint: a bundle compensates first")
    if model.is_dir():
        from sdic_runtime.pipeline import Pipeline

        pipeline = Pipeline.load(model, backend=backend, threads=threads or None)
        return PipelineInverter(pipeline), pipeline.sizes["S"]
    from sdic_train.checkpoints.load import load_sdic

    network = load_sdic(model)
    return ModelInverter(network, edit_first), network.config.working


def _directions(folder: Path | None, inverter: Any) -> dict[str, Any]:
    """The constant directions in a folder, or the bundle's own."""
    from sdic_runtime.directions import load_direction
    from sdic_train.evaluation.evaluate import PipelineInverter, only_directions
    from sdic_train.portraits.portraits import ATTRIBUTES

    if folder is not None:
        found = only_directions({path.stem: load_direction(path) for path in sorted(folder.glob("*.safetensors"))})
    elif isinstance(inverter, PipelineInverter):
        found = only_directions(inverter.pipeline.directions)
    else:
        raise ArgumentError("edits of a checkpoint are measured along directions; name their folder with --directions")
    found = {name: direction for name, direction in found.items() if name in ATTRIBUTES}
    if not found:
        raise ArgumentError(
            f"{folder or 'the bundle'} holds no direction of a portrait's attribute; make some with `sdic-train directions`"
        )
    return found
