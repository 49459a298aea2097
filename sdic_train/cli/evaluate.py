"""`sdic-train evaluate`: the paper's Table 1 for any bundles and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, echo

from sdic_runtime.cli.options import Debug, notice
from sdic_runtime.errors import ArgumentError, SdicError
from sdic_train.cli import options as shared

HELD_OUT = 900_000
MODELS_HELP = "Checkpoints of any method, and bundles' folders; NAME=PATH names the row."


def run(
    data: shared.DataOption,
    models: Annotated[list[str] | None, Argument(metavar="[NAME=]CHECKPOINT|BUNDLE...", help=MODELS_HELP, show_default=False)] = None,
    count: Annotated[int, Option(min=1, help="Held-out pictures.")] = 256,
    data_seed: Annotated[int, Option(min=0, help="Random seed of the photos; from 900000 on, a folder's held-out pictures.")] = HELD_OUT,
    data_size: Annotated[int, Option(min=0, help="Size of the cached pictures; 0: the largest that a model works at.")] = 0,
    width: Annotated[int, Option(min=0, help="Pixels at which all are judged; 0: the smallest that a model works at.")] = 0,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    inception: Annotated[
        Path | None, Option(metavar="FILE", help="Inception network of FID: an .onnx, or TorchScript such as inception-2015-12-05.pt.")
    ] = None,
    published: Annotated[bool, Option("--published", help="Also print the paper's figures, and mark its misprints.")] = False,
    directions: Annotated[
        Path | None, Option(metavar="DIR", help="Directions whose edits are measured; by default each bundle's own.")
    ] = None,
    reader: Annotated[
        Path | None, Option(metavar="FILE", help="Portrait reader that measures edits; train it apart from the losses'.")
    ] = None,
    strength: Annotated[float, Option(help="Of the edits, times the upper end of each direction's useful range.")] = 1.0,
    drawn: Annotated[bool, Option("--drawn", help="Edits also of the portraits drawn anew: what a perfect edit is said to do.")] = False,
    edit_first: Annotated[
        bool, Option("--edit-first", help="Edit, then compensate: the paper's ablation; for checkpoints of SDIC.")
    ] = False,
    baseline: Annotated[
        bool | None, Option("--baseline/--no-baseline", help="A row of what the method starts from, such as e4e; yes for one model.")
    ] = None,
    others: Annotated[
        list[Path] | None, Option("--with", metavar="FILE", help="Further file that belongs to the only checkpoint; may be repeated.")
    ] = None,
    method: Annotated[str | None, Option("--method", help="What the only checkpoint is of, where it does not say.")] = None,
    tune: Annotated[
        list[str] | None,
        Option(
            metavar="[NAME=]CHECKPOINT",
            help="A row of PTI: this generator, tuned to each picture around its encoder's code; resumes in --out.",
        ),
    ] = None,
    tune_count: Annotated[int, Option(min=1, help="Pictures, the first ones, to which generators are tuned.")] = 32,
    tune_steps: Annotated[int, Option(min=1, help="Steps of tuning per picture at most.")] = 350,
    tune_perceptual: Annotated[
        Path | None, Option(metavar="FILE[,FILE]", help="Perceptual distance of the tuning's loss; by default that of --perceptual.")
    ] = None,
    tune_changes: Annotated[
        list[str] | None, Option("--tune-set", metavar="NAME=VALUE", help="Change an option of the tuning, such as locality=0.1 or stop=0.")
    ] = None,
    backend: Annotated[str, Option(help="Backend for bundles.")] = "auto",
    device: Annotated[str, Option(help="Of checkpoints and judges: auto, cpu, cuda or cuda:<number>.")] = "cpu",
    batch: Annotated[int, Option(min=1, help="Pictures computed at once.")] = 8,
    runs: Annotated[int, Option(min=1, help="Timed calls, of one picture each; their median is printed.")] = 10,
    threads: shared.ThreadsOption = 0,
    out: Annotated[Path | None, Option("--out", "-o", metavar="DIR", help="Folder for evaluation.json and evaluation.md.")] = None,
    debug: Debug = False,
) -> None:
    """Measure inversions and edits on held-out pictures.

    The paper's Table 1 for any number of models: ID, SSIM, PSNR, LPIPS, L2 and time, and MS-SSIM and FID; ID, LPIPS and
    FID where their networks are named. --tune adds PTI, the first pictures alone: minutes each. A model that fails says why,
    the others are printed, and the exit code is 2.

    \b
    Example:
      sdic-train evaluate runs/sdic/model.safetensors --data data/portraits --identity runs/reader/model.safetensors
      sdic-train evaluate engines/sdic engines/hfgi e4e_ffhq_encode.pt --data data/celeba --published
      sdic-train evaluate engines/sdic --tune e4e_ffhq_encode.pt --perceptual alexnet.pth,alex.pth --data data/celeba --out table
    """
    import json
    from dataclasses import replace

    from sdic_runtime.cli.targets import writable_folder
    from sdic_runtime.files import replacing
    from sdic_runtime.progress import progress
    from sdic_train.evaluation.evaluate import Timing, drawn_rows
    from sdic_train.evaluation.fid import open_features
    from sdic_train.evaluation.measures import Judges
    from sdic_train.evaluation.published import published as paper
    from sdic_train.evaluation.report import Report
    from sdic_train.evaluation.session import Edits, Session, entry, looked_at
    from sdic_train.evaluation.tuned import Plan
    from sdic_train.losses.lpips import SMALLEST
    from sdic_train.losses.networks import identity_network, open_reader, perceptual_network
    from sdic_train.methods import METHODS
    from sdic_train.threads import use_threads
    from sdic_train.trainers.compute import Compute
    from sdic_train.trainers.tuning import TuningRecipe

    use_threads(threads)
    entries = [*(entry(text) for text in models or ()), *(replace(entry(text), tuned=True) for text in tune or ())]
    if not entries:
        raise ArgumentError("there is nothing to measure; name a bundle or a checkpoint, or one with --tune")
    entries = [each if each.is_bundle else replace(each, method=method, others=tuple(others or ())) for each in entries]
    checkpoints = sum(not each.is_bundle for each in entries)
    if (others or method) and checkpoints != 1:
        raise ArgumentError(f"--with and --method are for one checkpoint, and {checkpoints} are given; evaluate bundles of them instead")
    if 0 < width < SMALLEST:
        raise ArgumentError(f"--width {width} is too small to judge pictures; use at least {SMALLEST}, or 0")
    if directions is not None and reader is None:
        raise ArgumentError("edits are measured with a portrait reader; name one with --reader")
    if reader is not None and directions is None and checkpoints:
        raise ArgumentError("edits of a checkpoint are measured along directions; name their folder with --directions")
    for option, given in {"--drawn": drawn, "--edit-first": edit_first and checkpoints}.items():
        if given and reader is None:
            raise ArgumentError(f"{option} measures edits; name a portrait reader with --reader")
    edits = Edits(open_reader(reader), directions, strength) if reader is not None else None
    if edits is not None and directions is not None:
        edits.directions(None)  # a folder without any is said before a model is loaded
    place = str(Compute(1, device).device)
    person, distance = (
        None if network is None else network.to(place) for network in (identity_network(identity), perceptual_network(perceptual))
    )
    tuning = shared.changed(TuningRecipe(), tune_changes)
    loss = perceptual_network(tune_perceptual) if tune and tuning.perceptual else None
    loss = distance if loss is None else loss.to(place)
    if tune and tuning.perceptual and loss is None:
        raise ArgumentError(
            "the tuning's loss needs a perceptual network; name its weights with --tune-perceptual, or use --tune-set perceptual=0"
        )
    plan = Plan(tune_count, tune_steps, tuning, loss, None if out is None else out / "tuned")
    judges = Judges(person, distance, open_features(inception) if inception else None, place)
    entries = looked_at(entries)
    width = width or min((each.working for each in entries if each.working), default=0)
    for each in entries:
        each.check_width(width)
    released = [each.method for each in entries if not (each.is_bundle or each.ours) and each.method in METHODS]
    for terms in dict.fromkeys(METHODS[method].terms for method in released):
        notice(terms)
    if out is not None:
        writable_folder(out)
    wanted = data_size or max((each.wanted for each in entries), default=0)
    found = shared.pictures(data, wanted, shared.Photos.photo, data_seed)
    held_out = found.pictures[:count]
    if len(held_out) < count:
        notice(f"{data} holds {len(held_out)} of the {count} pictures that --count asks for; the figures are of these {len(held_out)}")
    if drawn and found.values is None:
        raise ArgumentError(f"--drawn needs drawn portraits, and {data} holds pictures of a folder")
    report = Report(len(held_out), width, Timing(runs), published=paper() if published else None)
    rows = len(entries) == 1 if baseline is None else baseline
    session = Session(held_out, judges, edits, edit_first, rows, backend, place, threads or None, batch, plan)
    for each in progress(entries, "models", unit="model"):
        try:
            session.measure(each, report)
        except SdicError as error:
            if len(entries) == 1:
                raise
            report.failed[each.label] = str(error)
            notice(f"error: {each.label}: {error}")
    if drawn and edits is not None:
        names = list(dict.fromkeys(name for rows_of in report.edits.values() for name in rows_of))
        report.edits["drawn anew"] = drawn_rows(edits.reader, names, data_seed, len(held_out), held_out.shape[1])
    text = report.markdown()
    echo(text)
    if out is not None:
        for name, content in (("evaluation.json", json.dumps(report.as_dict(), indent=1)), ("evaluation.md", text + "\n")):
            with replacing(out / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
    if report.failed:
        raise Exit(2)
