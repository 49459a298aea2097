"""Which method a checkpoint is of: by the networks in it, and where two methods share all names by the options that it records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sdic_runtime.errors import CheckpointError
from sdic_runtime.tools.public_files import where
from sdic_train.config import EncoderConfig

# Prefix in a released file -> prefix of ours. Names behind the prefix are the same.
PREFIXES = {
    "encoder.": "encoder.",
    "decoder.": "generator.",
    "DIP.": "dipn.",
    "SAF.": "dicn.",
    "residue.": "consultation.",
    "grid_align.": "aligner.",
    "hypernet.": "hypernet.",
    "fs.": "fs.",  # which the released files of FS omit
}
ENCODED = ("encoder.", "generator.")
# StyleFeatureEditor calls other networks so: how some name of its file begins -> the prefixes there. e4e and the generator are in the files
# of training alone.
ITS_E4E = {"e4e_encoder.": "encoder.", "decoder.": "generator."}
SFE_PREFIXES = {
    "inverter.fs_backbone.": {"inverter.": "inverter.", "encoder.": "editor.", **ITS_E4E},
    "encoder.fs_backbone.": {"encoder.": "inverter.", **ITS_E4E},
}
MIT = "MIT for the released code; the weights follow their training data and NVIDIA's StyleGAN2 terms"
NONE_STATED = "the release states no licence: ask its authors before any use beyond research"
INTERDIGITAL = "InterDigital's evaluation licence: fundamental research alone, no commercial use, no service, not to be passed on"
NVIDIA = "NVIDIA Source Code License: non-commercial use"


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: the parts it holds (our prefixes), and what its encoder is."""

    method: str  # in `sdic_train.methods`; "" for what is no inversion method
    parts: tuple[str, ...]
    form: str = "e4e"  # see `EncoderConfig.form`
    inputs: int = 3  # channels of the encoder's image
    encoder_types: tuple[str, ...] = ()  # what opts["encoder_type"] says of it
    mark: str = ""  # a weight that only this kind has, among those with the same parts
    optional: tuple[str, ...] = ()  # parts that files hold or not; other files give them
    licence: str = MIT  # of the released code and weights
    needs: tuple[str, ...] = ()  # further files without which a model of it is not whole: keys of FURTHER


@dataclass(frozen=True)
class Further:
    """A part of a model in a file of its own: what it is, the public file that has it, and our prefix where a model's file may hold it."""

    what: str
    file: str
    prefix: str = ""


FURTHER = {
    "W encoder": Further("W encoder", "faces_w_encoder.pt", "encoder."),
    "average picture": Further("average picture", "image_avg.png", "average"),
    "generator with its mean code": Further("generator with its mean code", "psp_ffhq_encode.pt", "generator."),
    "generator": Further("generator", "stylegan2-ffhq-config-f.pt", "generator."),
    "e4e": Further("e4e encoder", "e4e_ffhq_encode.pt", "encoder."),
}

KINDS = {
    "SDIC": Kind("sdic", (*ENCODED, "dipn.", "dicn."), licence=NONE_STATED),
    "HFGI": Kind("hfgi", (*ENCODED, "consultation.", "aligner."), licence=NONE_STATED),
    "e4e": Kind("e4e", ENCODED, encoder_types=("Encoder4Editing",)),
    "pSp": Kind("psp", ENCODED, "psp", encoder_types=("GradualStyleEncoder",)),
    "ReStyle-e4e": Kind("restyle-e4e", ENCODED, "e4e", 6, ("ProgressiveBackboneEncoder", "ResNetProgressiveBackboneEncoder")),
    "ReStyle-pSp": Kind(
        "restyle-psp", ENCODED, "psp", 6, ("BackboneEncoder", "ResNetBackboneEncoder", "GradualStyleEncoder", "ResNetGradualStyleEncoder")
    ),
    "HyperStyle": Kind("hyperstyle", ("generator.", "hypernet."), optional=("encoder.",), needs=("W encoder",)),
    "W encoder": Kind("", ENCODED, "psp", encoder_types=("WEncoder",), mark="encoder.linear.weight"),
    "CLCAE": Kind(
        "clcae",
        ENCODED,
        "psp",
        encoder_types=("GradualStyleEncoder",),
        mark="encoder.styles_others.0.linear.weight",
        needs=("average picture",),
    ),
    "FS": Kind("fs", ("fs.",), optional=("generator.",), licence=INTERDIGITAL, needs=("generator with its mean code",)),
    "SFE": Kind("sfe", ("inverter.", "editor."), optional=ENCODED, needs=("generator", "e4e")),
    "SFE-inverter": Kind("sfe-inverter", ("inverter.",), optional=ENCODED, needs=("generator",)),
    "StyleGAN2": Kind("", ("generator.",), licence=NVIDIA),
}
STYLEGAN3_PREFIX = "generator.synthesis."
# Files that people hold beside checkpoints: names of some weights (any of them has to be there) -> what it is, and what takes it.
BESIDE = {
    ("encoder_q.conv1.weight",): "the MoCo network, which judges similarity (--identity) and inverts nothing",
    ("input_layer.0.weight",): "a face recognition network, which judges identity (--identity) and inverts nothing",
    ("lin0.model.1.weight",): "LPIPS' linear weights, which judge pictures (--perceptual) and invert nothing",
    ("features.0.weight",): "a torchvision classifier, which judges pictures (--perceptual) and inverts nothing",
    ("final_linear.1.weight", "final_conv.0.weight"): "a discriminator, which only training uses",
    ("comp",): "a GANSpace basis, which edits use (--directions) and which inverts nothing",
    ("mapper.course_mapping.1.weight", "course_mapping.1.weight"): "a StyleCLIP mapper, which no command here uses",
    ("visual.proj", "text_projection"): "CLIP, which inverts nothing",
}


def kind_of(path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any], wanted: str | None = None, sure: bool = True) -> str:
    """The key of KINDS that fits `state`, whose names have our prefixes.

    `options`: what the file records of its training. `wanted`: the kind to take where the file fits several. Raises CheckpointError for
    an incomplete or unknown file, for one that is not of the kind wanted, and with `sure` for one that fits several kinds.
    """
    fitting = kinds_of(path, state, options)
    if wanted is not None and wanted not in fitting:
        raise CheckpointError(f'"{path}" is a checkpoint of {" or ".join(fitting)} and not of {wanted}; give a {wanted} checkpoint')
    if wanted is None and sure and len(fitting) > 1:
        raise CheckpointError(f'"{path}" {question(fitting)}')
    return wanted or fitting[0]


def question(kinds: Sequence[str]) -> str:
    """What a user is asked where a file may be of several kinds."""
    methods = " or ".join(f"--method {KINDS[name].method}" for name in kinds)
    return f"may be of {' or '.join(kinds)}, whose weights have the same names, and its options do not say which; say it with {methods}"


def kinds_of(path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[str]:
    """Every key of KINDS that fits, see `kind_of`: several where files of several kinds have the same names and shapes."""
    known = dict.fromkeys(part for kind in KINDS.values() for part in kind.parts)
    parts = {part for part in known if any(name.startswith(part) for name in state)}
    if any(name.startswith(STYLEGAN3_PREFIX) for name in state):
        raise CheckpointError(f'"{path}" has a StyleGAN3 generator, which no method here uses; give the StyleGAN2 model of the same method')
    fitting = [name for name, kind in KINDS.items() if set(kind.parts) <= parts <= {*kind.parts, *kind.optional}]
    if not fitting:
        raise CheckpointError(f'"{path}" {_incomplete(parts, state)}')
    fitting = [name for name in fitting if KINDS[name].mark in state] or [name for name in fitting if not KINDS[name].mark]
    return _by_encoder(path, state, options, fitting) if len(fitting) > 1 else fitting


def missing_parts(kind: str, state: Mapping[str, Tensor]) -> list[Further]:
    """What a model of `kind` needs beside a file with the weights `state`."""
    needed = (FURTHER[need] for need in KINDS[kind].needs)
    return [part for part in needed if not part.prefix or not any(name.startswith(part.prefix) for name in state)]


def lacking(path: Path, kind: str, part: Further, given: str = "") -> str:
    """What is said of a model whose `part` is missing; `given`: what was given instead."""
    return f'"{path}" is {kind} without its {part.what}{given}; give that file with --with FILE ({where(part.file)})'


def prefixes_of(names: Iterable[str]) -> Mapping[str, str]:
    """Prefix in a released file with such names -> prefix of ours."""
    for name in names:
        for mark, prefixes in SFE_PREFIXES.items():
            if name.startswith(mark):
                return prefixes
    return PREFIXES


def encoder_type(encoder: EncoderConfig) -> str:
    """What the released files would call such an encoder."""
    kinds = (kind for kind in KINDS.values() if (kind.form, kind.inputs) == (encoder.form, encoder.inputs) and kind.encoder_types)
    return next(kinds).encoder_types[0]


def method_of(kind: str) -> str:
    """The method of a kind of checkpoint. Raises CheckpointError for a generator alone."""
    if not KINDS[kind].method:
        raise CheckpointError(f"a {kind} checkpoint holds no inversion method; give one of: {', '.join(known_methods())}")
    return KINDS[kind].method


def known_methods() -> list[str]:
    """The kinds that are inversion methods."""
    return [name for name, kind in KINDS.items() if kind.method]


def _by_encoder(path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any], fitting: Iterable[str]) -> list[str]:
    """Those of `fitting` whose encoder reads as many channels as the first convolution of `state`, and that the options name."""
    first = state.get("encoder.input_layer.0.weight", state.get("encoder.conv1.weight"))
    if first is None or first.ndim != 4:
        raise CheckpointError(f'"{path}" has an encoder without "input_layer" or "conv1", which no known method has')
    channels, said = first.shape[1], options.get("encoder_type")
    names = [name for name in fitting if KINDS[name].inputs == channels]
    if not names:
        raise CheckpointError(
            f'"{path}" has an encoder that reads {channels} channels: sketches and label maps cannot be inverted here; '
            "give a model that reads RGB pictures"
        )
    if said is None:
        return names
    named = [name for name in names if said in KINDS[name].encoder_types]
    if not named:
        raise CheckpointError(f'"{path}" has an encoder of the type "{said}", which is not known here; known are: {", ".join(names)}')
    return named


def _incomplete(parts: set[str], state: Mapping[str, Tensor]) -> str:
    """What is missing, for a file that holds some networks of a method, or else what it holds."""
    ours = {ours: released for released, ours in PREFIXES.items()}
    for name, kind in KINDS.items():
        missing = [ours.get(part, part) for part in kind.parts if part not in parts]
        if missing and parts - set(ENCODED) and parts < set(kind.parts):
            return f"is {name} without {' and '.join(missing)}, so it is not complete; download it again"
    names = [str(name) for name in state]
    for marks, what in BESIDE.items():
        if any(mark in state for mark in marks):
            return f"is {what}; give a checkpoint of {', '.join(known_methods())} or StyleGAN2"
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"holds no complete set of known networks (first names: {some}); give a checkpoint of {', '.join(known_methods())} or StyleGAN2"
