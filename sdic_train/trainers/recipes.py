"""The named recipes: StyleGAN2's, the paper's, the released code's, and those of the demo domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sdic_train.trainers.encoder import EncoderRecipe
from sdic_train.trainers.generator import GeneratorRecipe
from sdic_train.trainers.methods.hfgi import HFGIRecipe
from sdic_train.trainers.methods.hyperstyle import HyperStyleRecipe
from sdic_train.trainers.methods.method import MethodRecipe
from sdic_train.trainers.methods.replaced import CLCAERecipe, FSRecipe
from sdic_train.trainers.methods.restyle import ReStyleRecipe
from sdic_train.trainers.methods.sdic import SdicRecipe
from sdic_train.trainers.methods.sfe import SFERecipe

_NO_ADVERSARY = GeneratorRecipe(adversarial=0.0, r1=0.0, path=0.0, mixing=0.0, average_pictures=3000.0)
_FIT = replace(_NO_ADVERSARY, size=16, rate=1e-2, mapping_factor=100.0, momentum=0.5, warm_up=100, fit=10.0, edges=10.0)

_FIT_128 = replace(_FIT, size=128, rate=4e-3, mapping_factor=50.0, decay=0.5, perceptual=2.0, attributes=4.0)

GENERATOR: dict[str, GeneratorRecipe] = {
    "stylegan2": GeneratorRecipe(),
    "fit-16": _FIT,
    "fit-32": replace(_FIT, size=32),
    "fit-64": replace(_FIT, size=64, rate=8e-3, decay=0.3),
    "fit-128": _FIT_128,
    "sharpen-128": replace(_FIT_128, rate=1e-3, mapping_factor=0.0, adversarial=0.3, features=2.0, r1=0.05),
}

_NO_LOSS = EncoderRecipe(optimizer="adam", l2=0.0, perceptual=0.0, identity=0.0, delta=0.0, latent_adversarial=0.0)
_CODE = replace(_NO_LOSS, rate=2e-3, warm_up=100, decay=0.5, code=1.0, first_delta=-1, mirror=False)

_PSP = EncoderRecipe(form="psp", delta=0.0, latent_adversarial=0.0, first_delta=-1)
_W = EncoderRecipe(form="w", delta=0.0, first_delta=-1)
_LIKE_SDIC: dict[str, Any] = {
    "rate": 1e-3,
    "optimizer": "adam",
    "warm_up": 50,
    "decay": 0.4,
    "l2": 8.0,
    "perceptual": 0.8,
    "identity": 0.2,
    "mirror": False,
}

ENCODER: dict[str, EncoderRecipe] = {
    "e4e": EncoderRecipe(),
    "psp": _PSP,
    "psp-released": replace(_PSP, random_noise=True),
    "w": _W,
    "code": _CODE,
    "picture": replace(_CODE, rate=5e-4, l2=1.0, perceptual=0.8, identity=0.1, code=0.1, delta=2e-4),
    "psp-demo": replace(_PSP, **_LIKE_SDIC),
    "w-demo": replace(_W, **_LIKE_SDIC, latent_adversarial=0.0),
}

_DEMO = SdicRecipe(rate=2e-3, optimizer="adam", warm_up=50, decay=0.4, l2=8.0, edit=0.05, mirror=False, settle_norm=500, silent_start=True)

SDIC: dict[str, SdicRecipe] = {
    "paper": SdicRecipe(),
    "released": SdicRecipe(identity=0.1, edit_norm="l2", edit_feature=0.8, edit_code=0.2, encoder_norm=True, random_noise=True),
    "demo": _DEMO,
    "demo-longer": replace(_DEMO, rate=1e-3, decay=0.8, settle_norm=0, silent_start=False, keep=True),
}

# Discriminators may be narrower than the generator: domain -> channels by picture size.
DISCRIMINATORS: dict[str, dict[int, int]] = {"portraits": {4: 128, 8: 128, 16: 96, 32: 64, 64: 48, 128: 24, 256: 12}}


# method -> recipe -> its values. `demo`: the image losses of SDIC's recipe of that name, and networks that fit a picture of 128 pixels.
_DEMO_START: dict[str, Any] = {**_LIKE_SDIC, "settle_norm": 500}
_RESTYLE_E4E = ReStyleRecipe(delta=2e-4, latent_adversarial=0.1, first_delta=20_000)
_SFE_DEMO = SFERecipe(**_DEMO_START, blend=300, adversarial=0.0, body=2)
METHOD: dict[str, dict[str, MethodRecipe]] = {
    "restyle-psp": {
        "paper": ReStyleRecipe(),
        "released": ReStyleRecipe(random_noise=True),
        "demo": ReStyleRecipe(**_DEMO_START, iterations=3, from_encoder=True, new_inputs=0.0),
    },
    "restyle-e4e": {
        "paper": _RESTYLE_E4E,
        "released": replace(_RESTYLE_E4E, random_noise=True, raw_codes=True, last_delta=True),
        "demo": ReStyleRecipe(**_DEMO_START, iterations=3, from_encoder=True, new_inputs=0.0, delta=2e-4, last_delta=True),
    },
    "hfgi": {
        "paper": HFGIRecipe(),
        "released": HFGIRecipe(encoder_norm=True, random_noise=True),
        "demo": HFGIRecipe(**_DEMO_START, narrow=2, silent_start=True),
    },
    "hyperstyle": {
        "paper": HyperStyleRecipe(),
        "released": HyperStyleRecipe(),
        "demo": HyperStyleRecipe(**_DEMO_START, iterations=3, shallow=True, spread=0.0, new_inputs=0.0),
    },
    "fs": {
        "paper": FSRecipe(),
        "released": FSRecipe(code_alone=False, random_noise=True),
        "demo": FSRecipe(**_DEMO_START, l2_real=8.0, synthetic=False, scales=1, blend=300),
    },
    "clcae": {
        "paper": CLCAERecipe(),
        "released": CLCAERecipe(random_noise=True, ramp=True),
        "demo": CLCAERecipe(**_DEMO_START, blend=300, dropout=0.0, spread=0.1, from_encoder=True),
    },
    "sfe-inverter": {"paper": SFERecipe(), "released": SFERecipe(), "demo": _SFE_DEMO},
    "sfe": {"paper": SFERecipe(), "released": SFERecipe(encoder_norm=True), "demo": _SFE_DEMO},
}
