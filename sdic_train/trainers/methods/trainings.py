"""How every method but SDIC and plain encoders is trained: the networks it builds, from which files, and its trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import load_generator, read_checkpoint
from sdic_train.checkpoints.recognise import KINDS
from sdic_train.config import ModelConfig, check_domain
from sdic_train.networks.clcae.model import CLCAE, CLCAEConfig
from sdic_train.networks.fs.model import FS
from sdic_train.networks.hfgi.consultation import RELEASED, HFGISizes
from sdic_train.networks.hfgi.model import HFGI
from sdic_train.networks.hyperstyle.config import HyperConfig
from sdic_train.networks.hyperstyle.hypernet import HyperNetwork
from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.networks.restyle import ReStyle
from sdic_train.networks.sfe.backbone import SFESizes
from sdic_train.networks.sfe.model import SFE, SFEInverter
from sdic_train.trainers.methods.hfgi import HFGITrainer
from sdic_train.trainers.methods.hyperstyle import HyperStyleTrainer
from sdic_train.trainers.methods.method import MethodTrainer
from sdic_train.trainers.methods.replaced import CLCAETrainer, FSTrainer
from sdic_train.trainers.methods.restyle import ReStyleTrainer
from sdic_train.trainers.methods.sfe import SFEEditorTrainer, SFEInverterTrainer
from sdic_train.trainers.start import backbone_weights, encoder_weights, mean_code, mean_with, take

FIRST_TUNED = 5  # HyperStyle leaves the layers below 16 x 16 alone


@dataclass(frozen=True)
class Training:
    """`build`: the configuration of the generator and its encoder, the recipe -> the model, with random weights. `needs`: the kind of
    checkpoint whose encoder the model keeps frozen, if it has one. `body`: the network that may start from e4e's encoder or a backbone.
    `blocks`: whether that is named as IR-50. `starts_from`: further kinds of checkpoints to go on from. `edits`: it needs directions.
    `contested`: it has a discriminator of pictures."""

    trainer: Callable[..., MethodTrainer]
    build: Callable[[ModelConfig, Any], Any]
    needs: str = ""
    body: Callable[[Any], nn.Module] | None = None
    blocks: bool = False
    starts_from: tuple[str, ...] = ()
    edits: bool = False
    contested: bool = False


@dataclass(frozen=True)
class Sources:
    """The files that a training starts from. `encoder`: that of `generator` where None. `domain`: of released files, see `read_checkpoint`;
    of a generator that does not say, that of the encoder where None."""

    generator: Path
    encoder: Path | None = None
    backbone: Path | None = None
    earlier: Path | None = None
    domain: str | None = None


def new_model(method: str, sources: Sources, recipe: Any) -> Any:
    """The model of `method` with the generator and the frozen encoder of its files, and new networks that follow from the recipe's seed.
    Raises CheckpointError."""
    training = TRAININGS[method]
    generator = load_generator(sources.generator, sources.domain or _domain_of(sources))
    encoder = sources.encoder or sources.generator
    config = generator.config
    if training.needs or recipe.from_encoder or sources.encoder:
        config = replace(config, encoder=_encoder_of(encoder, training.needs, sources.domain))
    config = replace(config, encoder=replace(config.encoder, inputs=3, pyramid=True))  # also where the encoder is ReStyle's
    torch.manual_seed(recipe.seed)
    model = training.build(config, recipe)
    if isinstance(model, ReStyle | HyperStyle):
        model.iterations = recipe.iterations
    model.generator.load_state_dict(generator.state_dict())
    if training.needs:
        weights = encoder_weights(encoder)
        try:
            model.encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f'"{encoder}" has an encoder for another generator than that of "{sources.generator}", whose codes are '
                f"[{config.rows}, {config.style_width}]; give one that was trained on it with --encoder"
            ) from error
    if training.body and recipe.from_encoder:
        take(training.body(model), encoder_weights(encoder), encoder, recipe.new_inputs)
    if training.body and sources.backbone:
        take(training.body(model), backbone_weights(sources.backbone, training.blocks), sources.backbone, recipe.new_inputs)
    if sources.earlier:
        _go_on(model, method, sources.earlier)
    model.latent_avg.copy_(_mean(training, sources, recipe))
    if isinstance(model, ReStyle | CLCAE):
        model.prepare()
    return model


def _mean(training: Training, sources: Sources, recipe: Any) -> torch.Tensor:
    """The mean latent code [L, C] to which the model's encoders add: the one that they were trained with, or else the generator's. Raises
    CheckpointError where two of them were trained with different ones."""
    average, encoder = mean_code(sources.generator), sources.encoder or sources.generator
    if training.needs or (training.body and recipe.from_encoder):
        average = mean_with(average, encoder)
    if sources.earlier is None:
        return average
    earlier = mean_with(average, sources.earlier)
    if training.starts_from and not torch.equal(earlier, average):
        raise CheckpointError(
            f'"{encoder}" and "{sources.earlier}" were trained with different mean codes; '
            "give the generator and the encoder that the earlier run had"
        )
    return average if training.needs else earlier


def _domain_of(sources: Sources) -> str | None:
    """The domain of the encoder, for a generator that does not say its own."""
    if sources.encoder is None or not read_checkpoint(sources.generator, sure=False).alone:
        return None
    return read_checkpoint(sources.encoder, sure=False).config.domain


def _encoder_of(path: Path, kind: str, domain: str | None) -> Any:
    """The sizes of the encoder in a checkpoint, which is of `kind` or one that has such an encoder."""
    checkpoint = read_checkpoint(path, domain, kind if kind == "W encoder" else None, sure=False)
    check_domain(path, checkpoint.config.domain, domain)
    if not any(name.startswith("encoder.") for name in checkpoint.state) or (kind == "e4e" and not checkpoint.config.encoder.plain):
        wanted = {"W encoder": "the encoder into W that `sdic-train encoder --recipe w` makes"}.get(kind, "an e4e encoder")
        raise CheckpointError(f'"{path}" is of {checkpoint.kind}; name a file that has {wanted} with --encoder')
    return checkpoint.config.encoder


def _go_on(model: Any, method: str, path: Path) -> None:
    """Gives the model what another run of its method, or of the phase before it, trained."""
    checkpoint = read_checkpoint(path, sure=False)
    kinds = (KIND[method], *TRAININGS[method].starts_from)
    if not checkpoint.ours or checkpoint.kind not in kinds:
        raise CheckpointError(f'"{path}" is of {checkpoint.kind}; --from takes what sdic-train wrote of {" or ".join(kinds)}')
    own = model.state_dict()
    frozen = ("generator.", *(["encoder."] if TRAININGS[method].needs else []))
    given = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(frozen)}
    parts = tuple({name.partition(".")[0] + "." for name in given})
    wrong = [name for name, tensor in given.items() if name not in own or own[name].shape != tensor.shape]
    wrong += [name for name in own if name.startswith(parts) and name not in given]
    if wrong:
        raise CheckpointError(f'"{path}" was trained with other sizes ({wrong[0]}); give the same recipe and --set')
    model.load_state_dict(given, strict=False)


def _restyle(form: str) -> Callable[[ModelConfig, Any], ReStyle]:
    def build(config: ModelConfig, recipe: Any) -> ReStyle:
        return ReStyle(replace(config, encoder=replace(config.encoder, form=form, inputs=6, pyramid=False)))

    return build


def _hfgi(config: ModelConfig, recipe: Any) -> HFGI:
    sizes = {item.name: tuple(max(1, width // recipe.narrow) for width in getattr(RELEASED, item.name)) for item in fields(HFGISizes)}
    model = HFGI(config, HFGISizes(**sizes))
    if recipe.silent_start:
        for layers in (model.consultation.condition_scale3, model.consultation.condition_shift3):
            for weight in layers[-1].parameters():
                nn.init.zeros_(weight)
    return model


def _hyperstyle(config: ModelConfig, recipe: Any) -> HyperStyle:
    tuned = tuple(layer for layer in range(FIRST_TUNED, 3 * config.rows // 2 - 2) if layer % 3 != 1)
    backbone = (*config.encoder.widths[:-1], config.channels[4])  # the shared network makes square weights of its features
    small: dict[str, Any] = (
        {"units": (1, 1, 1, 1), "narrow": config.style_width // 4, "wide": config.style_width // 2} if recipe.shallow else {}
    )
    model = HyperStyle(HyperConfig(**_values(config), tuned=tuned, backbone=backbone, **small))
    spread(model.hypernet, recipe.spread)
    return model


@torch.no_grad()
def spread(network: HyperNetwork, deviation: float) -> None:
    """Random weights for the shared network, and last layers that change the generator's weights little."""
    shared = network.shared_weight_hypernet
    scale = shared.channels**-0.5
    shared.w2.normal_(0, scale)
    shared.w1.normal_(0, scale * deviation) if deviation else shared.w1.zero_()
    block: Any
    for block in network.refinement_blocks.values():
        if hasattr(block, "output"):
            block.output[1].weight *= deviation
            block.output[1].bias.zero_()


def _clcae(config: ModelConfig, recipe: Any) -> CLCAE:
    encoder = replace(config.encoder, form="psp")
    model = CLCAE(CLCAEConfig(**{**_values(config), "encoder": encoder}, hidden=2 * config.style_width))
    with torch.no_grad():
        for row in range(config.rows):
            model.encoder.block(row).norm3.weight.mul_(recipe.spread)
    return model


def _fs(config: ModelConfig, recipe: Any) -> FS:
    crop = None if config.encoder.crop is None else config.visible_rows  # rows of the picture that FS reads, which is as large
    return FS(replace(config, working=config.resolution, encoder=replace(config.encoder, form="psp", crop=crop)))


def _sfe_sizes(config: ModelConfig, recipe: Any) -> SFESizes:
    return SFESizes(config.encoder.widths, config.encoder.units, recipe.body)


def _values(config: ModelConfig) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(ModelConfig)}


TRAININGS: Mapping[str, Training] = {
    "restyle-psp": Training(ReStyleTrainer, _restyle("psp"), body=lambda model: model.encoder),
    "restyle-e4e": Training(ReStyleTrainer, _restyle("e4e"), body=lambda model: model.encoder),
    "hfgi": Training(HFGITrainer, _hfgi, needs="e4e"),
    "hyperstyle": Training(HyperStyleTrainer, _hyperstyle, needs="W encoder", body=lambda model: model.hypernet),
    "fs": Training(FSTrainer, _fs, body=lambda model: model.fs, blocks=True),
    "clcae": Training(CLCAETrainer, _clcae, body=lambda model: model.encoder),
    "sfe-inverter": Training(
        SFEInverterTrainer, lambda config, recipe: SFEInverter(config, _sfe_sizes(config, recipe)),
        body=lambda model: model.inverter.fs_backbone, blocks=True, contested=True,
    ),
    "sfe": Training(
        SFEEditorTrainer, lambda config, recipe: SFE(config, _sfe_sizes(config, recipe)),
        needs="e4e", starts_from=("SFE-inverter",), edits=True, contested=True,
    ),
}  # fmt: skip
KIND = {kind.method: name for name, kind in KINDS.items()}
