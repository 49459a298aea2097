"""Reads the checkpoints that users hold (released SDIC, e4e, rosinality StyleGAN2) and reads and writes our own safetensors files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdic_runtime.errors import CheckpointError
from sdic_runtime.parsing.json_text import JsonError, parse_json
from sdic_runtime.tools.public_files import where
from sdic_train.checkpoints.files import GIVE, load_container, unwrapped, write_safetensors
from sdic_train.checkpoints.recognise import (
    FURTHER,
    INTERDIGITAL,
    KINDS,
    encoder_type,
    kind_of,
    kinds_of,
    lacking,
    missing_parts,
    prefixes_of,
    question,
)
from sdic_train.checkpoints.shapes import config_from_shapes
from sdic_train.config import FACES, FEATURE_SIZE, ModelConfig
from sdic_train.networks.clcae.model import CLCAE
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.fs.model import FS
from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.networks.layers import blur_kernel
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.sfe.model import SFEInverter
from sdic_train.networks.stylegan2 import Generator

# Weights that stand in released files and that no forward pass reads.
UNUSED = (
    "dipn.stem_2.",
    "dipn.stem_4.",
    "dipn.spx.",
    "dipn.spx_2.",
    "dipn.spx_4.",
    "dipn.semantic.",
    "dipn.agg.",
    "dipn.hourglass_fusion.conv1_up.bn.",
    "dicn.aff1.",
    "dicn.conv1.",
    "dicn.aff2.",
    "dicn.aff1d.agg.",
    "lpips_loss.",
    "id_loss.",
    "moco_loss.",
    "discriminator.",
)
# Entries whose values follow from the architecture; a file without them is complete.
DERIVED = (".num_batches_tracked", ".kernel")
FORMAT = "sdic"
ITERATIONS = "iterations"  # in the metadata: how many a method that iterates was trained with
STATES = ("g_ema", "state_dict", "enc_state_dict")  # what a container calls its weights
BESIDE = ("latent_avg", "opts", "args")  # what stands beside weights in a container without a dictionary of its own for them
Model = TypeVar("Model", bound=SDIC | Encoded | SFEInverter | HyperStyle | CLCAE | FS)
MEAN_SAMPLES = 4096
MOST_ITERATIONS = 1000  # that a file may say: every one is steps of a program
TRAINED = "trained with sdic-train: the licences of its generator and of its pictures count"
HALF_FROM = 256  # elements from which a tensor is worth rounding to float16


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one file under our names, and the sizes read off their shapes."""

    path: Path
    kind: str  # a key of KINDS
    state: dict[str, Tensor]
    config: ModelConfig
    latent_avg: Tensor | None  # [L, C]
    options: dict[str, Any] = field(default_factory=dict)  # the training options that the file records
    may_be: tuple[str, ...] = ()  # the kinds that fit; several where a file cannot be told from another method's
    average: Tensor | None = None  # CLCAE's average picture [1, 3, S, S]
    ours: bool = False  # written by `save_checkpoint`: the file is whole, and `config` is what it was trained with
    iterations: int | None = None  # with which a method that iterates was trained, where the file says so

    @property
    def alone(self) -> bool:
        """Whether it is a generator that does not say what its pictures show."""
        return self.kind == "StyleGAN2" and not self.ours and not self.options.get("dataset_type")

    def __post_init__(self) -> None:
        for name, tensor in self.state.items():
            if name.endswith(".kernel") and not torch.allclose(tensor.float(), blur_kernel(), atol=1e-6):
                raise CheckpointError(f'"{self.path}" has another blur kernel than [1, 3, 3, 1] ("{name}"); this generator cannot be used')


def read_checkpoint(path: str | Path, domain: str | None = None, kind: str | None = None, sure: bool = True) -> Checkpoint:
    """Reads any known file without copying its weights (they stay mapped from disk until they are used).

    `domain` ("faces", "cars") overrides what a released file says of itself. `kind`, a key of KINDS, is what the file must be, and what it
    is taken for where it fits several; without `sure` the first of several will do. Raises CheckpointError for anything that is not a known
    checkpoint.
    """
    path = Path(path)
    container = load_container(path)
    recorded = container.get("opts")
    if isinstance(recorded, Mapping) and recorded.get("format") == FORMAT:
        return _own(path, container, kind)
    state, options = _released_state(path, container)
    may_be = (kind,) if kind else tuple(kinds_of(path, state, options))
    kind = kind_of(path, state, options, kind, sure)
    if kind == "FS":  # an encoder alone, whose sizes are the released ones
        return Checkpoint(path, kind, state, ModelConfig(domain=domain or FACES.domain), None, options, (kind,))
    config = config_from_shapes(path, state, options, domain)
    config = replace(config, encoder=replace(config.encoder, form=KINDS[kind].form))
    return Checkpoint(path, kind, state, config, _latent_average(path, container, config), options, may_be)


def load_sdic(path: str | Path, domain: str | None = None, others: Sequence[str | Path] = ()) -> SDIC:
    """The whole model, in evaluation mode; raises CheckpointError if the file holds only a part of it."""
    checkpoint = read_checkpoint(path, domain)
    if checkpoint.kind != "SDIC":
        raise CheckpointError(f'"{path}" is {_article(checkpoint.kind)} checkpoint without DIPN and DICN; give an SDIC checkpoint')
    return load_model(checkpoint, SDIC, others)


def load_model(checkpoint: Checkpoint, build: Callable[[ModelConfig], Model], others: Sequence[str | Path] = ()) -> Model:
    """The networks that `build` makes, with the weights of `checkpoint`, in evaluation mode.

    A mean latent code that `checkpoint` lacks comes from the first of the files `others`, or from the mapping network. A model that was
    trained without one starts from zeros.
    """
    zero = checkpoint.options.get("start_from_latent_avg") is False
    if others and (zero or checkpoint.latent_avg is not None or len(others) > 1):
        has = "was trained without a mean code" if zero else "has its mean code" if len(others) == 1 else "takes one file beside it"
        raise CheckpointError(f'"{checkpoint.path}" {has}, so "{others[-1]}" is not used; omit it')
    with torch.device("meta"):
        model = build(checkpoint.config)
    _load(model, checkpoint, "")
    if zero:
        model.latent_avg = torch.zeros(checkpoint.config.rows, checkpoint.config.style_width)
    elif checkpoint.latent_avg is not None:
        model.latent_avg = checkpoint.latent_avg
    elif others:
        model.latent_avg = read_average(others[0], checkpoint.config)
    else:
        model.latent_avg = mean_rows(model.generator)
    model.eval()
    return model


def completed(checkpoint: Checkpoint, others: Sequence[str | Path]) -> Checkpoint:
    """`checkpoint` with the networks that the files `others` hold: the generator with its mean latent code from a generator's file, the
    encoder from e4e's. Raises CheckpointError where one is missing that the whole must have."""
    if checkpoint.ours and not others:
        return checkpoint
    state, average, domain = dict(checkpoint.state), checkpoint.latent_avg, checkpoint.config.domain
    parts = [FURTHER[need].prefix for need in KINDS[checkpoint.kind].needs]
    for path in others:
        other = read_checkpoint(path, domain, sure=False)
        part = {"StyleGAN2": "generator.", "e4e": "encoder."}.get(other.kind, "")
        if part not in parts:
            raise CheckpointError(f'"{path}" is {_article(other.kind)} checkpoint, which a {checkpoint.kind} model does not use; omit it')
        state = {name: tensor for name, tensor in state.items() if not name.startswith(part)}
        state |= {name: tensor for name, tensor in other.state.items() if name.startswith(part)}
        average = other.latent_avg if part == "generator." else average
    if missing := missing_parts(checkpoint.kind, state):
        raise CheckpointError(lacking(checkpoint.path, checkpoint.kind, missing[0]))
    needed = {name: tensor for name, tensor in state.items() if name.startswith((*KINDS[checkpoint.kind].parts, *parts))}
    config = config_from_shapes(checkpoint.path, needed, checkpoint.options, domain)
    return replace(checkpoint, state=needed, config=config, latent_avg=average)


def read_average(path: str | Path, config: ModelConfig) -> Tensor:
    """The mean latent code [L, C] that another file holds beside its weights, such as the public generator's."""
    average = _latent_average(Path(path), load_container(Path(path)), config)
    if average is None:
        raise CheckpointError(f'"{path}" has no latent_avg; give the generator file that the model was trained on')
    return average


def load_generator(path: str | Path, domain: str | None = None) -> Generator:
    """The generator of any known file, in evaluation mode. `domain`: see `read_checkpoint`."""
    checkpoint = read_checkpoint(path, domain, sure=False)
    with torch.device("meta"):
        generator = Generator(checkpoint.config)
    _load(generator, checkpoint, "generator.")
    return generator.eval()


def load_encoder(path: str | Path) -> tuple[Encoder, Tensor]:
    """The e4e encoder of an SDIC or e4e file, in evaluation mode, and its mean latent code [L, C]."""
    checkpoint = read_checkpoint(path)
    if "encoder." not in KINDS[checkpoint.kind].parts or not checkpoint.config.encoder.plain:
        raise CheckpointError(
            f'"{checkpoint.path}" is {_article(checkpoint.kind)} checkpoint without an e4e encoder; give an e4e or SDIC checkpoint'
        )
    with torch.device("meta"):
        encoder = Encoder(checkpoint.config)
    _load(encoder, checkpoint, "encoder.")
    average = checkpoint.latent_avg if checkpoint.latent_avg is not None else mean_rows(load_generator(path))
    return encoder.eval(), average


def save_checkpoint(
    path: str | Path,
    config: ModelConfig,
    latent_avg: Tensor | None = None,
    metadata: dict[str, str] | None = None,
    half: bool = False,
    average: Tensor | None = None,
    **parts: nn.Module,
) -> None:
    """Writes networks, named as in `recognise.KINDS`, with their configuration to a safetensors file, in one move.

    With `half` large tensors are rounded to float16, which halves the file; they are float32 again when they are read.
    """
    tensors = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
    tensors |= {name: tensor for name, tensor in (("latent_avg", latent_avg), ("average", average)) if tensor is not None}
    state = {}
    for name, tensor in tensors.items():
        rounded = half and tensor.is_floating_point() and tensor.numel() >= HALF_FROM
        state[name] = tensor.detach().cpu().to(torch.float16 if rounded else tensor.dtype).contiguous()
    write_safetensors(Path(path), state, {**(metadata or {}), "format": FORMAT, "config": json.dumps(config.as_dict())})


def mean_rows(generator: Generator) -> Tensor:
    """The mean latent code of the mapping network in every row; [L, C]. Stands in where a file has no `latent_avg`."""
    return generator.mean_latent(MEAN_SAMPLES).expand(generator.config.rows, -1).clone()


def describe(path: Path) -> list[tuple[str, str]]:
    """What `sdic-run doctor` says of a checkpoint: pairs of a topic and a sentence; a topic with "?" is what the user has to say."""
    checkpoint = read_checkpoint(path, sure=False)
    config, kind = checkpoint.config, KINDS[checkpoint.kind]
    layers = f"{config.rows} rows of {config.style_width}, {config.channels[FEATURE_SIZE]} channels at layer 7"
    rows = [("kind", " or ".join(checkpoint.may_be))]
    if len(checkpoint.may_be) > 1:
        rows.append(("which?", question(checkpoint.may_be)))
    rows.append(("sizes", f"generator {config.resolution}, working {config.working}, {layers}"))
    methods = " or ".join(KINDS[name].method for name in checkpoint.may_be)
    rows += [("method", methods or _no_method(checkpoint.kind)), ("domain", config.domain)]
    if kind.encoder_types:
        said = checkpoint.options.get("encoder_type")
        says = f'encoder_type "{said}"' if said else "no encoder_type is recorded"
        rows.append(("encoder", f"{says}: {config.encoder.inputs} channels, body {config.encoder.body}"))
    state = checkpoint.state if checkpoint.average is None else {**checkpoint.state, "average": checkpoint.average}
    for part in missing_parts(checkpoint.kind, state):
        rows.append(("also needs", f"its {part.what}, in a file of its own, for --with: {where(part.file)}"))
    rows += [
        ("latent_avg", _said_of_average(checkpoint)),
        ("licence", TRAINED if checkpoint.ours and kind.licence == INTERDIGITAL else kind.licence),
    ]
    clamp = checkpoint.options.get("conv_clamp")
    if clamp is not None:
        rows.append(
            ("conv_clamp", f"activations were clamped to +-{clamp} in training and are not here: pictures differ where one goes beyond")
        )
    said = checkpoint.options.get("stylegan_size")
    if said is not None and said != config.resolution:
        rows.append(("conflict", f"opts.stylegan_size says {said}, the weights are of a {config.resolution} generator; the weights decide"))
    return rows


def _no_method(kind: str) -> str:
    return "none: a generator alone" if kind == "StyleGAN2" else "none: a part of another model, for --with"


def _said_of_average(checkpoint: Checkpoint) -> str:
    if checkpoint.latent_avg is not None:
        return "present"
    if checkpoint.options.get("start_from_latent_avg") is False:
        return "none: the model was trained without one"
    if not any(name.startswith("generator.") for name in checkpoint.state):
        return "missing: the generator's file has it"
    return "missing: it is computed from the mapping network at load"


def _own(path: Path, container: dict[str, Any], kind: str | None) -> Checkpoint:
    """What `save_checkpoint` wrote."""
    state, options = dict(container), container["opts"]
    del state["opts"]
    average, picture = state.pop("latent_avg", None), state.pop("average", None)
    try:
        config = ModelConfig.from_dict(parse_json(options["config"], dict[str, Any]))
    except CheckpointError:
        raise
    except (KeyError, TypeError, JsonError) as error:
        raise CheckpointError(f'"{path}" says nothing readable of its sizes ({error}); write it again with sdic-train') from error
    kind = kind_of(path, state, {"encoder_type": encoder_type(config.encoder)}, kind)
    iterations = _iterations(path, options)
    return Checkpoint(path, kind, state, config, _float(average), {}, (kind,), _float(picture), ours=True, iterations=iterations)


def _iterations(path: Path, options: Mapping[str, Any]) -> int | None:
    said = options.get(ITERATIONS)
    if said is not None and not (str(said).isdecimal() and 1 <= int(said) <= MOST_ITERATIONS):
        raise CheckpointError(f'"{path}" says that it was trained with {said} iterations; write it again with sdic-train')
    return None if said is None else int(said)


def _released_state(path: Path, container: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a file under our prefixes, and the options that it records."""
    options = container.get("opts") or container.get("args") or {}
    options = dict(vars(options)) if hasattr(options, "__dict__") and not isinstance(options, Mapping) else options
    options = {str(name): value for name, value in options.items()} if isinstance(options, Mapping) else {}
    held = next((container[name] for name in STATES if isinstance(container.get(name), Mapping)), None)
    state = {name: value for name, value in container.items() if name not in BESIDE} if held is None else held
    if not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise CheckpointError(f'"{path}" holds none of the known layouts (top-level entries: {_some(list(container))}); {GIVE}')
    state = unwrapped(path, state)
    if "conv1.conv.weight" in state and "input.input" in state:
        return {f"generator.{name}": tensor for name, tensor in state.items()}, options
    if "block_1.0.bn1.weight" in state and "content_layer.0.weight" in state:
        return {f"fs.{name}": tensor for name, tensor in state.items()}, options
    if "g_ema" in container:
        return {f"generator.{name}": tensor for name, tensor in state.items()}, options
    renamed, prefixes = {}, prefixes_of(state)
    for name, tensor in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return renamed, options


def _latent_average(path: Path, container: dict[str, Any], config: ModelConfig) -> Tensor | None:
    average = container.get("latent_avg")
    if average is None:
        return None
    if (
        not isinstance(average, Tensor)
        or tuple(average.shape[-1:]) != (config.style_width,)
        or average.numel() not in (config.style_width, config.rows * config.style_width)
    ):
        raise CheckpointError(
            f'"{path}" has a latent_avg of shape {list(getattr(average, "shape", []))}; '
            f"expected [{config.rows}, {config.style_width}] or [{config.style_width}]"
        )
    return average.float().reshape(-1, config.style_width).expand(config.rows, -1).contiguous()


def _load(module: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Fills a module built on the meta device with the file's own tensors; names and shapes must match exactly."""
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.state.items()
        if name.startswith(prefix) and not name.startswith(UNUSED)
    }
    wanted = module.state_dict()
    average = wanted.pop("latent_avg", None)
    draw_noises = checkpoint.kind == "StyleGAN2" and not any(name.startswith("noises.") for name in state)  # the oldest layout has none
    for name, tensor in wanted.items():
        if name in state:
            continue
        if name.endswith(DERIVED):
            state[name] = blur_kernel() if name.endswith(".kernel") else torch.zeros((), dtype=torch.int64)
        elif draw_noises and name.startswith("noises."):
            state[name] = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(int(name.rsplit("_", 1)[1])))
    path = checkpoint.path
    _complain(path, "lacks", [prefix + name for name in wanted if name not in state], "it is not complete")
    _complain(path, "has unknown weights", [prefix + name for name in state if name not in wanted], "it is of another model or version")
    wrong = [
        f"{prefix}{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if state[name].shape != tensor.shape
    ]
    _complain(path, "has weights of the wrong shape", wrong, "it is of another model or version")
    if average is not None:
        state["latent_avg"] = torch.zeros(average.shape)
    module.load_state_dict({name: tensor if tensor.dtype == torch.int64 else tensor.float() for name, tensor in state.items()}, assign=True)


def _complain(path: Path, what: str, names: list[str], meaning: str) -> None:
    if names:
        raise CheckpointError(f'"{path}" {what} ({_some(names)}), so {meaning}; download or convert the checkpoint again')


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def _some(names: list[str]) -> str:
    return ", ".join(str(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _article(kind: str) -> str:
    return f"an {kind}" if kind.lower().startswith(("e", "sdic")) else f"a {kind}"
