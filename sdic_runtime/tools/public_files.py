"""Publicly known files that a user may hold, by size and SHA-256, for `sdic-run doctor`. Facts only, no addresses.

Sizes and hashes come from public listings of mirrors. A file that is not in the
table is a variant that it does not know, not a bad file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicFile:
    """One public file. `bytes` and `sha256` are None where no listing gives them; a short hash is a known beginning."""

    names: tuple[str, ...]  # names under which it is handed around
    what: str
    bytes: int | None
    sha256: str | None
    licence: str


NO_LICENCE = "the SDIC release states no licence: ask its authors before any use beyond research"
E4E = "the e4e code is MIT; its weights follow the FFHQ or LSUN data and NVIDIA's StyleGAN2 terms"
PSP = "the code is MIT; its weights follow the FFHQ data and NVIDIA's StyleGAN2 terms"
HFGI = "the HFGI release states no licence: ask its authors before any use beyond research"
SFE = "the code and its page are MIT; the weights follow the FFHQ data and NVIDIA's StyleGAN2 terms"
INTERDIGITAL = "InterDigital's Limited Software Evaluation License: fundamental research alone; do not redistribute or serve it"
NVIDIA = "NVIDIA Source Code License: non-commercial use"
RESEARCH = "trained on face data collected for research: check the terms before commercial use"
RESEARCH_MOCO = "see the licence of the MoCo release"
DIRECTION = "MIT (from the public e4e repository)"

PUBLIC_FILES: tuple[PublicFile, ...] = (
    PublicFile(("SDIC_ffhq.pt",), "SDIC faces, 1024x1024", None, None, NO_LICENCE),
    PublicFile(("SDIC_car.pt", "SDIC_cars.pt"), "SDIC cars, 512x512", None, None, NO_LICENCE),
    PublicFile(
        ("e4e_ffhq_encode.pt",),
        "e4e faces, 1024x1024",
        1_201_649_680,
        "2ace1d9a8c05c10a399bcd500b8dda118f759ff1aac89dbdab7435f2136a0999",
        E4E,
    ),
    PublicFile(
        ("e4e_cars_encode.pt",), "e4e cars, 512x512", 1_077_493_298, "f1743d4a9fe701643916062d7c40a4ec3d5daaa153de1ef941285d3ed3758330", E4E
    ),
    PublicFile(("e4e_horse_encode.pt",), "e4e horses, 256x256", 959_033_364, "bfcd7ac1", E4E),
    PublicFile(("e4e_church_encode.pt",), "e4e churches, 256x256", 959_033_364, "590f00e8", E4E),
    PublicFile(
        ("psp_ffhq_encode.pt",), "pSp faces, 1024x1024", None, "f786ac5cf18fcdbc5c57c9f3f12cbedca69381fbdf5694dd132294e3133749d7", PSP
    ),
    PublicFile(
        ("psp_ffhq_frontalization.pt",),
        "pSp frontalization of faces, 1024x1024",
        None,
        "da69df9c3edfe6671731346f2aca45ee92af5134c52c91b84422a359b6f6349f",
        PSP,
    ),
    PublicFile(
        ("hyperstyle_ffhq.pt",),
        "HyperStyle faces, 1024x1024; the W encoder is a file of its own",
        1_440_969_951,
        "9d4c627724e9f6b7f87f13a03b71731a4bb537875271cb46662be08a9885c364",
        PSP,
    ),
    PublicFile(
        ("faces_w_encoder.pt",),
        "the W encoder of HyperStyle faces",
        257_850_531,
        "3cb757ae38268b08db8235b4a3d42c98c74428a817b619338848f277cd23e715",
        PSP,
    ),
    PublicFile(("143_enc.pth",), "the encoder of FS, faces, 1024x1024", None, None, INTERDIGITAL),
    PublicFile(("restyle_psp_ffhq_encode.pt",), "ReStyle over pSp, faces, 1024x1024", None, None, PSP),
    PublicFile(("restyle_e4e_ffhq_encode.pt", "restlye_e4e.pt"), "ReStyle over e4e, faces, 1024x1024", None, None, PSP),
    PublicFile(
        ("restyle_e4e_ffhq.pt",),
        "ReStyle over e4e for StyleGAN3, which no method here uses",
        None,
        "89afa8b3255be61425714397be11f07b34312d76ea22382ecf80001da617da5b",
        PSP,
    ),
    PublicFile(("ckpt.pt", "hfgi_ffhq_official.pt"), "HFGI faces, 1024x1024", None, None, HFGI),
    PublicFile(
        ("sfe_editor_light.pt",),
        "StyleFeatureEditor faces, 1024x1024: inverter and editor",
        None,
        "ced3e79813ec6ff1418404576cc43e3c92849ab124ec87cd72be42dcb25311ea",
        SFE,
    ),
    PublicFile(
        ("sfe_inverter_light.pt",),
        "StyleFeatureEditor faces, 1024x1024: the inverter of the first phase",
        None,
        "ebaeeef89569e5b7f34df2df733deb61f2031962e30d4d14e3dba147f208517a",
        SFE,
    ),
    PublicFile(
        ("stylegan2-ffhq-config-f.pt",),
        "StyleGAN2 faces with g_ema, g and d",
        None,
        "bae494ef77e32a9cd1792a81a3c167692a0e64f6bcd8b06592ff42917e2ed46e",
        NVIDIA,
    ),
    PublicFile(("stylegan2-ffhq-config-f.pt",), "StyleGAN2 faces, g_ema only", 132_717_355, "646c7e7c", NVIDIA),
    PublicFile(("stylegan2-ffhq-config-f.pt",), "StyleGAN2 faces, g_ema only", 132_729_083, "d0d7c5e7", NVIDIA),
    PublicFile(
        ("stylegan2-ffhq-config-f.pkl",),
        "StyleGAN2 faces as a TensorFlow pickle, which has to be converted first",
        381_673_535,
        "adf127ea7bb8a7788c8bdeda3c9937f7310b669b09ecf799ca53a631ff46948d",
        NVIDIA,
    ),
    PublicFile(
        ("stylegan2-car-config-f.pt",),
        "StyleGAN2 cars, g_ema only",
        123_949_595,
        "c69f161fd576801027cbaa8b09142b5dd9f508034b2d0f4a2a0cdcbc1d587c9c",
        NVIDIA,
    ),
    PublicFile(
        ("model_ir_se50.pth",),
        "IR-SE-50 face network for the identity loss",
        175_367_323,
        "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        RESEARCH,
    ),
    PublicFile(
        ("CurricularFace_Backbone.pth",),
        "CurricularFace network for the identity metric",
        260_837_256,
        "031ea0f7ba5f46905980cc446f0bbf9539e361246bff95f7077efffe2f110e04",
        RESEARCH,
    ),
    PublicFile(
        ("moco_v2_800ep_pretrain.pt", "moco_v2_800ep_pretrain.pth", "moco_v2_800ep_pretrain.pth.tar"),
        "MoCo-v2 ResNet-50 for the similarity loss outside faces",
        None,
        "5e4a3fd7178a95837c0ad71c265ed5f477d271e753ba505b6b6a5e86829eeb7e",
        RESEARCH_MOCO,
    ),
    PublicFile(
        ("shape_predictor_68_face_landmarks.dat",),
        "face landmarks for alignment",
        99_693_937,
        "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        "iBUG 300-W data: non-commercial use",
    ),
    PublicFile(
        ("shape_predictor_68_face_landmarks.dat.bz2",),
        "face landmarks for alignment, still compressed",
        64_040_097,
        "7d6637b8f34ddb0c1363e09a4628acb34314019ec3566fd66b80c04dda6980f5",
        "iBUG 300-W data: non-commercial use",
    ),
    PublicFile(("alex.pth",), "LPIPS linear layers for AlexNet, version 0.1", 6_009, None, "BSD 2-Clause"),
    PublicFile(
        ("age.pt",),
        "InterFaceGAN age direction, faces",
        None,
        "50074516b1629707d89b5e43d6b8abd1792212fa3b961a87a11323d6a5222ae0",
        DIRECTION,
    ),
    PublicFile(
        ("smile.pt",),
        "InterFaceGAN smile direction, faces",
        None,
        "817a7e732b59dee9eba862bec8bd7e8373568443bc9f9731a21cf9b0356f0653",
        DIRECTION,
    ),
    PublicFile(
        ("pose.pt",),
        "InterFaceGAN pose direction, faces",
        None,
        "736e0eacc8488fa0b020a2e7bd256b957284c364191dfea693705e5d06d43e7d",
        DIRECTION,
    ),
    PublicFile(
        ("ffhq_pca.pt",), "GANSpace basis, faces", None, "4d7f9df1c96180d9026b9cb8d04753579fbf385f321a9d0e263641601c5e5d36", DIRECTION
    ),
    PublicFile(
        ("cars_pca.pt",), "GANSpace basis, cars", None, "a5c3bae61ecd85de077fbbf103f5f30cf4b7676fe23a8508166eaf2ce73c8392", DIRECTION
    ),
)


def known(size: int, sha256: str) -> PublicFile | None:
    """The public file with exactly this content, whatever it is called here; None when its hash is in no listing."""
    return next(
        (entry for entry in PUBLIC_FILES if entry.sha256 is not None and sha256.startswith(entry.sha256) and entry.bytes in (None, size)),
        None,
    )


def candidates(name: str) -> list[PublicFile]:
    """The public files that go by this name, in any case."""
    return [entry for entry in PUBLIC_FILES if name.lower() in {known_name.lower() for known_name in entry.names}]


def same_size(size: int) -> list[PublicFile]:
    """The public files of exactly this size."""
    return [entry for entry in PUBLIC_FILES if entry.bytes == size]
