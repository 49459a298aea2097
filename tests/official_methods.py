"""The other methods' checkpoints in their released containers, and what the official code computed from them.

`data/methods/README.md` says what the expected arrays are. Everything is drawn as in `official_checkpoint`, with the exceptions below.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from official_checkpoint import DATA, Shapes, drawn, example_edits, face_shapes

from sdic_runtime.backends.base import Backend
from sdic_runtime.edits import Direction, GanSpaceEdit
from sdic_runtime.edits import edited as apply_edit
from sdic_runtime.program import Method

if TYPE_CHECKING:
    from torch import nn

    from sdic_train.methods.base import MethodCode

SEED, STRENGTH, GANSPACE = 11, 1.5, (54, 7, 8, 20)
ITERATIONS = 5
MIXED, ALPHA = slice(8, 18), 0.5  # rows of pSp's style mixing, and the share of the other code
Arrays = dict[str, np.ndarray]


def encoded_shapes() -> Shapes:
    """Of e4e and pSp: the encoder and the generator of SDIC's file."""
    return {name: shape for name, shape in face_shapes().items() if name.startswith(("encoder.", "decoder."))}


def restyle_shapes() -> Shapes:
    """No pyramid, four convolutions in every style block, and six channels of input."""
    dropped = re.compile(r"encoder\.latlayer|encoder\.styles\.\d+\.convs\.(8|10)\.")
    shapes = {name: shape for name, shape in encoded_shapes().items() if not dropped.match(name)}
    return shapes | {"encoder.input_layer.0.weight": (64, 6, 3, 3)}


def hfgi_shapes() -> Shapes:
    listed = json.loads((DATA / "methods" / "hfgi.keys.json").read_text(encoding="utf-8"))
    return encoded_shapes() | {name: tuple(shape) for name, shape in listed.items()}


def _drawn_psp(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """The mapping network's layers, whose learning rate has a factor of 0.01, hold values 100 times larger."""
    layer = re.fullmatch(r"decoder\.style\.\d+\.(weight|bias)", name)
    if not layer:
        return drawn(name, shape, salt)
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), salt]))
    return np.float32(100 if layer[1] == "weight" else 5) * rng.standard_normal(shape, dtype=np.float32)


def _drawn_restyle(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Small offsets, because five of them add up."""
    small = re.fullmatch(r"encoder\.styles\.\d+\.linear\.(weight|bias)", name)
    return drawn(name, shape, salt) * np.float32(0.12 if small else 1)


def _drawn_hfgi(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Pictures that mostly stay within [-1, 1], and maps of about the size of what they are added to."""
    value = drawn(name, shape, salt)
    if ".to_rgb" in name and name.endswith(".conv.weight"):
        return value * np.float32(0.2)
    if "condition_scale3" in name and len(shape) == 4:
        value = value / np.float32((1.6 / int(np.prod(shape[1:]))) ** 0.5)
    if name.endswith(("condition_scale3.2.weight", "condition_shift3.2.weight")):
        return value * np.float32(0.25)
    return value * np.float32(0.35 if name == "grid_align.dconv_layer3.1.shortcut_layer.1.weight" else 1)


def sfe_shapes() -> Shapes:
    """The file of training: the editor is called encoder, and e4e e4e_encoder."""
    listed = json.loads((DATA / "methods" / "sfe.keys.json").read_text(encoding="utf-8"))
    return {name: tuple(shape) for name, shape in listed.items()} | {
        re.sub(r"^encoder\.", "e4e_encoder.", name): shape for name, shape in encoded_shapes().items()
    }


def sfe_inverter_shapes() -> Shapes:
    """The file of the first phase, and the generator."""
    kept = {name: shape for name, shape in sfe_shapes().items() if name.startswith(("inverter.", "decoder."))}
    return {re.sub(r"^inverter\.", "encoder.", name): shape for name, shape in kept.items()}


def _drawn_sfe(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Features of about one size, and an editor in which the small difference of an edit weighs as much as the feature."""
    value = drawn(name, shape, salt)
    if re.search(r"\.bn3\.weight$|^(encoder|inverter\.fuser)\.body\.\d+\.body\.5\.weight$", name):
        return value * np.float32(0.2)
    if name.startswith("inverter.fs_backbone.styles.") and name.endswith("weight"):
        return value * np.float32(0.25)
    if name == "inverter.fs_backbone.content_layer.5.weight":
        return value * np.float32(0.15)
    if name.startswith("decoder.to_rgb") and name.endswith(".conv.weight"):
        return value * np.float32(0.35)
    if name == "encoder.conv.weight":
        value[:, shape[1] // 2 :] *= np.float32(4)
    return value


def _drawn_sfe_inverter(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    return _drawn_sfe(re.sub(r"^encoder\.", "inverter.", name), shape, salt)


def drawn_pti(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """A generator of 256 x 256 whose names have the prefix "decoder."."""
    value = drawn(name, shape, salt)
    if name.startswith("decoder.style."):
        return value * np.float32(100 if name.endswith("weight") else 20)
    return value * np.float32(0.35 if name.startswith("decoder.to_rgb") and name.endswith(".conv.weight") else 1)


def pti_code(salt: int = 0) -> np.ndarray:
    """The code [1, 14, 512] that stands for any inversion's."""
    return drawn("latent_avg", (512,), salt)[None, None] + np.float32(0.6) * drawn("pti.noises.code", (1, 14, 512), salt)


@dataclass(frozen=True)
class Official:
    """A method's released file (`shapes`, `draw`, `options`), where its expected arrays are, and how they come from a backend."""

    file: str  # data/<file>.expected.npz
    shapes: Callable[[], Shapes]
    draw: Callable[[str, tuple[int, ...], int], np.ndarray]
    options: Mapping[str, Any]
    computed: Callable[[Backend, np.ndarray], Arrays]
    limit: float  # largest difference, in standard deviations of the expected array
    prefix: str = ""  # of the arrays in the file
    names: tuple[str, ...] = ()  # those of the file's arrays that are the method's; all when empty
    average: tuple[int, ...] = (18, 512)  # shape of the mean latent code
    alone: bool = False  # whether arrays without the prefix are of another method

    def write(self, path: Path, salt: int = 0) -> Path:
        """The checkpoint as `torch.save` wrote it in the release; about 1.2 GB."""
        import torch

        state = {name: torch.from_numpy(np.asarray(self.draw(name, shape, salt))) for name, shape in self.shapes().items()}
        average = torch.from_numpy(drawn("latent_avg", self.average, salt))
        torch.save({"state_dict": state, "opts": dict(self.options), "latent_avg": average}, path)
        return path

    def expected(self) -> Arrays:
        """Every array is what `kept` leaves of the official one."""
        with np.load(DATA / f"{self.file}.expected.npz") as file:
            own = {name: array for name, array in file.items() if name.startswith(self.prefix) or not self.alone}
        arrays = {name.removeprefix(self.prefix): array for name, array in own.items()}
        others = ("psp.", "e4e.", "stage1.")
        return {name: array for name, array in arrays.items() if not name.startswith(others) and name in (self.names or arrays)}

    def kept(self, name: str, array: np.ndarray) -> np.ndarray:
        """What the repository keeps of the array called `name`."""
        return array if self.names else cut(name, array)


def picture_parts(name: str, picture: np.ndarray) -> Arrays:
    """What is kept of a picture at 1024."""
    return {f"{name}.slice": picture[:, :, 4::8, 4::8], f"{name}.crop": picture[:, :, 488:536, 488:536], **stats(name, picture)}


def stats(name: str, array: np.ndarray) -> Arrays:
    whole = array.astype(np.float64)
    return {f"{name}.stats": np.array([whole.mean(), whole.std(), np.abs(whole).max()])}


def plain_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    """e4e's and pSp's arrays but those of style mixing."""
    run = _runner(backend)
    direction, _ = example_edits(SEED, 18)
    inversion = run("invert", image=image)
    latent, picture = inversion["latent"], inversion["picture"]
    moved = latent + np.float32(STRENGTH) * direction
    pooled = picture.reshape(*picture.shape[:2], 256, 4, 256, 4).mean((3, 5))
    got = {"w": latent, "w_edit": moved, "pooled.slice": pooled[:, :, ::4, ::4], **stats("pooled", pooled)}
    got |= picture_parts("inversion", picture) | picture_parts("edit", run("edit", latent=moved)["picture"])
    return got


def e4e_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    """What e4e and SDIC have in common: the code, and the clamped picture brought to 256."""
    inversion = _runner(backend)("invert", image=image)
    small = _bilinear(np.clip(inversion["picture"], -1, 1))
    return {"w": inversion["latent"], "ro.slice": small[:, :, ::4, ::4], **stats("ro", small)}


def _bilinear(picture: np.ndarray) -> np.ndarray:
    """1024 to 256 pixels without antialias: the mean of the middle four of sixteen."""
    return picture.reshape(-1, 3, 256, 4, 256, 4)[:, :, :, 1:3, :, 1:3].mean((3, 5))


def mixed_arrays(backend: Backend, image: np.ndarray, style: np.ndarray) -> Arrays:
    """pSp's style mixing with the code `style` [1, 512] that its mapping network gave."""
    run = _runner(backend)
    latent = run("invert", image=image)["latent"].copy()
    latent[:, MIXED] = ALPHA * style + (1 - ALPHA) * latent[:, MIXED]
    return {"w_mix": latent, **picture_parts("mix", run("edit", latent=latent)["picture"])}


def mix_z() -> np.ndarray:
    return np.random.default_rng(2000 + SEED).standard_normal((1, 512)).astype(np.float32)


def restyle_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    run = _runner(backend)
    direction, _ = example_edits(SEED, 18)
    inversion = run("invert", image=image)
    codes = [inversion[f"latent_{number}"] for number in range(1, ITERATIONS)] + [inversion["latent"]]
    got = {"w1": codes[0], "w": codes[-1], "w_edit": codes[-1] + np.float32(STRENGTH) * direction}
    got["w_steps.stats"] = np.stack([stats("w", code)["w.stats"] for code in codes])
    for number, code in enumerate(codes, 1):
        picture = run("edit", latent=code)["picture"] if number < ITERATIONS else inversion["picture"]
        got |= stats(f"iteration{number}", picture)
        if number == 1:
            got |= picture_parts("inversion1", picture)
    return got | picture_parts("inversion", inversion["picture"]) | picture_parts("edit", run("edit", latent=got["w_edit"])["picture"])


def average_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    """ReStyle's first picture, the same for both forms."""
    start = backend.run("start", {"image": backend.upload(image[:1])}, ["reconstruction"])
    average = backend.download(start["reconstruction"])
    return {"average.slice": average[:, :, ::4, ::4], **stats("average", average)}


def hfgi_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    run = _runner(backend)
    direction, pca = example_edits(SEED, 18)
    inversion = run("invert", image=image)
    latent, distortion = inversion["latent"], inversion["distortion"]
    moved, coordinate = latent + np.float32(STRENGTH) * direction, apply_edit(latent, GanSpaceEdit(pca, *GANSPACE), 1.0)
    edited, ganspace = (run("edit", latent=code, distortion=distortion) for code in (moved, coordinate))
    zeros = np.zeros_like(inversion["scale"])
    baseline = run("baseline", latent=latent, scale=zeros, shift=zeros)["picture"]
    demo = run("edit_demo", latent=moved, scale=inversion["scale"], shift=inversion["shift"])["picture"]
    got = {"w": latent, "w_edit": moved, "ganspace.w": coordinate, **_map("F_R", inversion["feature"])}
    got |= _small("ro", inversion["reconstruction"]) | stats("res", distortion)
    got |= _small("edit.initial", edited["reconstruction"]) | _small("ganspace.initial", ganspace["reconstruction"])
    for name, part in (("inversion", inversion), ("edit", edited)):
        fused = part["feature"] * (1 + part["scale"]) + part["shift"]
        got |= _small(f"{name}.res_align", part["aligned"]) | _map(f"{name}.F_fused", fused)
        got |= _map(f"{name}.scale", part["scale"]) | _map(f"{name}.shift", part["shift"]) | picture_parts(name, part["picture"])
    got |= picture_parts("edit_ganspace", ganspace["picture"])
    got |= stats("inversion_256", _bilinear(inversion["picture"]))
    for name, picture in (("initial", baseline), ("edit_demo", demo)):
        got |= {key: array for key, array in picture_parts(name, picture).items() if not key.endswith("slice")}
    return got


def sfe_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    run = _runner(backend)
    direction, pca = example_edits(SEED, 18)
    inversion = run("invert", image=image)
    prepared = run("prepare", image=image)
    got = {"w": inversion["latent"], "w_e4e": prepared["latent_e4e"]} | stats("w", inversion["latent"])
    got |= stats("w_e4e", prepared["latent_e4e"]) | picture_parts("inversion", inversion["picture"])
    for name, tensor in (("F_pred", "predicted"), ("F_w", "feature"), ("F_fused", "fused"), ("F_inversion", "changed")):
        got |= _map(name, inversion[tensor])
    changes = {"edit": (Direction(direction), STRENGTH), "edit_ganspace": (GanSpaceEdit(pca, *GANSPACE), 1.0)}
    mask = np.zeros((len(image), 1, 256, 256), np.float32)
    for name, (change, strength) in changes.items():
        moved, moved_e4e = (apply_edit(code, change, strength) for code in (inversion["latent"], prepared["latent_e4e"]))
        given = {"latent_e4e": moved_e4e, "feature_e4e": prepared["feature_e4e"], "fused": inversion["fused"]}
        edited = run("edit", latent=moved, mask=mask, **given)
        got |= {f"{name}.w": moved, f"{name}.w_e4e": moved_e4e, **_map(f"{name}.delta", edited["delta"])}
        got |= _map(f"{name}.F", edited["changed"]) | picture_parts(name, edited["picture"])
    return got


def sfe_inverter_arrays(backend: Backend, image: np.ndarray) -> Arrays:
    run = _runner(backend)
    inversion = run("invert", image=image)
    moved = inversion["latent"] + np.float32(STRENGTH) * example_edits(SEED, 18)[0]
    edited = run("edit", fused=inversion["fused"], latent=moved)
    return picture_parts("inversion", inversion["picture"]) | picture_parts("edit", edited["picture"])


def _map(name: str, array: np.ndarray) -> Arrays:
    return {f"{name}.slice": array[:, ::37, ::5, ::5], **stats(name, array)}


def _small(name: str, array: np.ndarray) -> Arrays:
    return {f"{name}.slice": array[:, :, ::4, ::4], **stats(name, array)}


def _runner(backend: Backend) -> Callable[..., Arrays]:
    """`run(program, tensor=array, ...)` -> the tensors that it gives, on the host."""

    def run(program: str, **tensors: np.ndarray) -> Arrays:
        given = backend.run_program(program, {name: backend.upload(array) for name, array in tensors.items()})
        return {name: backend.download(tensor) for name, tensor in given.items()}

    return run


def whole_arrays(computed: Callable[[Backend, np.ndarray], Arrays], bundle: Path, backend: str, pictures: np.ndarray) -> Arrays:
    """What `computed` gives of the bundle on the backend called `backend`."""
    from sdic_runtime.pipeline import Pipeline

    with Pipeline.load(bundle, backend=backend) as pipeline:
        return computed(pipeline.backend, pictures)


def remove_files(folder: Path) -> None:
    """Remove every file below `folder`: a full-size model takes gigabytes."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def worst(got: Arrays, want: Arrays) -> tuple[float, str]:
    """The largest difference over the standard deviation of what is expected (of statistics: the deviation that they state), and where.

    Every array of `got` must be expected; of a batch, the first picture is compared, and statistics only for a single picture.
    """
    found = [(0.0, "")]
    for name, array in got.items():
        expected = want[name]
        assert array.shape[-expected.ndim :][1:] == expected.shape[1:], name
        deviation = expected.std() if not name.endswith(".stats") else np.atleast_2d(expected)[:, 1].max()
        found.append((float(np.abs(array[: len(expected)] - expected).max() / deviation), name))
    return max(found)


def cut(name: str, array: np.ndarray) -> np.ndarray:
    """What the repository keeps of an expected array."""
    if name.endswith(".stats"):
        return array
    if name.endswith("crop"):
        return array[:, :, 12:36, 12:36]
    if name.endswith("slice"):
        return array[:, :, ::4, ::4] if array.shape[-1] >= 64 else array
    return array[:, ::3]  # codes


METHODS = {
    "e4e": Official(
        "sdic_ffhq1024",
        encoded_shapes,
        drawn,
        {"dataset_type": "ffhq_encode", "encoder_type": "Encoder4Editing", "stylegan_size": 1024, "start_from_latent_avg": True},
        e4e_arrays,
        3e-4,
        names=("w", "ro.slice", "ro.stats"),
    ),
    "psp": Official(
        "methods/psp",
        encoded_shapes,
        _drawn_psp,
        {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder", "input_nc": 3, "start_from_latent_avg": True},
        plain_arrays,
        3e-4,
    ),
    **{
        f"restyle-{form}": Official(
            "methods/restyle",
            restyle_shapes,
            _drawn_restyle,
            {"dataset_type": "ffhq_encode", "encoder_type": encoder, "input_nc": 6, "output_size": 1024, "start_from_latent_avg": True},
            restyle_arrays,
            1e-3,
            f"{form}.",
        )
        for form, encoder in (("psp", "BackboneEncoder"), ("e4e", "ProgressiveBackboneEncoder"))
    },
    "hfgi": Official(
        "methods/hfgi",
        hfgi_shapes,
        _drawn_hfgi,
        {
            "stylegan_size": 1024,
            "dataset_type": "ffhq_encode",
            "encoder_type": "Encoder4Editing",
            "start_from_latent_avg": True,
            "is_train": True,
        },
        hfgi_arrays,
        3e-4,
    ),
    "sfe": Official("methods/sfe", sfe_shapes, _drawn_sfe, {}, sfe_arrays, 3e-4, average=(512,)),
    "sfe-inverter": Official(
        "methods/sfe", sfe_inverter_shapes, _drawn_sfe_inverter, {}, sfe_inverter_arrays, 3e-4, "stage1.", average=(512,), alone=True
    ),
}


def torch_backend(code: MethodCode, model: nn.Module) -> Backend:
    """`model` behind the chains of `code` themselves, which need no exporter."""
    from sdic_train.backend import TorchBackend

    class Chained(TorchBackend):
        def run_program(self, program: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return code.chains[program](self, **tensors)

    tables = code.tables(getattr(model, "config"))  # noqa: B009 - of whatever method
    method = Method(
        method=code.name,
        sizes=tables.sizes,
        tensors=tables.tensors,
        stages=tables.stages,
        programs={},
        keeps=code.keeps,
        moves=dict(code.moves),
    )
    return Chained(method, model)
