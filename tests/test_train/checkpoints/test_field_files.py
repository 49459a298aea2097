"""Files as people have them: wrapped, converted, with plain objects beside the weights, or no weights at all. Each is read, or is one
sentence that `sdic-run doctor`, loading and building say alike."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import small_methods as small
import torch
from PIL import Image
from safetensors.torch import save_file

from sdic_export.build import BuildOptions, build
from sdic_runtime.errors import CheckpointError
from sdic_runtime.parsing.contents import OTHER, PICKLE, SAFETENSORS, TORCH, TORCH_OLD, content_of
from sdic_runtime.tools.doctor import NOTE, OK, PROBLEM, examine
from sdic_train.checkpoints.load import describe, load_generator, read_checkpoint, save_checkpoint
from sdic_train.checkpoints.models import load_encoded, load_hfgi, load_sfe
from sdic_train.checkpoints.recognise import BESIDE, KINDS, MIT
from sdic_train.losses.networks import identity_network
from sdic_train.methods import METHODS, method_of_file
from sdic_train.networks.encoded import Encoded


@pytest.fixture(scope="module")
def model() -> Any:
    return small.small_model("e4e")


@pytest.fixture(scope="module")
def container(model: Any) -> dict[str, Any]:
    return small.small_container("e4e", model)


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def is_model(path: Path, model: Any) -> bool:
    return same(load_encoded(path), model)


# What training programs put beside weights


class Options:
    """A class of the program that wrote the file."""

    def __init__(self) -> None:
        self.batch, self.encoder_type = 8, "Encoder4Editing"


class Attributes(dict[str, Any]):
    """A dictionary of such a program."""


def numbers() -> dict[str, Any]:
    counted: collections.defaultdict[str, int] = collections.defaultdict(int)
    counted["steps"] = 7
    return {
        "best_val_loss": np.float64(0.25),
        "step": np.int32(5),
        "losses": np.arange(3.0),
        "out": PurePosixPath("runs/one"),
        "home": PureWindowsPath("C:/runs"),
        "when": datetime.datetime(2024, 1, 2),
        "counts": counted,
        "recent": collections.deque([1.0, 2.0], 5),
        "arguments": argparse.Namespace(rate=1e-3),
        "schedule": functools.partial(np.clip, 3),
    }


@pytest.mark.parametrize("old", [False, True])
def test_plain_types_beside_weights_are_read(container: dict[str, Any], model: Any, old: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "train.pt", {**container, **numbers()}, _use_new_zipfile_serialization=not old)
    assert is_model(path, model) and method_of_file(path).name == "e4e"
    from sdic_train.checkpoints.files import load_container

    read = load_container(path)
    assert (read["best_val_loss"], read["step"], read["out"], dict(read["counts"])) == (0.25, 5, "runs/one", {"steps": 7})
    assert vars(read["arguments"]) == {"rate": 1e-3}


def test_objects_of_the_program_that_wrote_a_file_are_skipped(container: dict[str, Any], model: Any, tmp_path: Path) -> None:
    module = ModuleType("their_program")
    for kind in (Options, Attributes):
        kind.__module__ = "their_program"
        setattr(module, kind.__name__, kind)
    sys.modules["their_program"] = module
    try:
        path = saved(tmp_path / "train.pt", {**container, "config": Options(), "tree": Attributes(a=1, b=Attributes())})
    finally:
        del sys.modules["their_program"]
    assert is_model(path, model)
    assert "their_program" not in sys.modules  # nothing was looked for


def test_a_whole_model_in_place_of_its_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "whole.pt", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="holds a whole model as an object of its program; write its weights alone, with torch.save"):
        read_checkpoint(path)


@pytest.mark.parametrize("call", [print, eval, getattr, __import__])
def test_functions_of_the_library_are_refused(call: Callable[..., Any], container: dict[str, Any], tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> Any:
            return call, ("x",)

    path = saved(tmp_path / "x.pt", {**container, "more": Calls()})
    with pytest.raises(
        CheckpointError, match=rf'asks to run code \("builtins.{call.__name__}"\), which is refused; give a file of weights alone$'
    ):
        read_checkpoint(path)


# Wrappers and conversions


@pytest.mark.parametrize(
    "wrapper",
    ["module.", "module._orig_mod.", "net.module.", "_forward_module.module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."],
)
def test_wrappers_are_stripped_wherever_they_are(wrapper: str, container: dict[str, Any], model: Any, tmp_path: Path) -> None:
    wrapped = {f"{wrapper}{name}": tensor for name, tensor in container["state_dict"].items()}
    assert is_model(saved(tmp_path / "a.pt", {**container, "state_dict": wrapped}), model)
    generator = {f"{wrapper}{name}": tensor for name, tensor in model.generator.state_dict().items()}
    assert same(load_generator(saved(tmp_path / "b.pt", {"g_ema": generator})), model.generator)
    inside = {name.replace(".", f".{wrapper}", 1): tensor for name, tensor in container["state_dict"].items()}
    if wrapper.startswith(("module", "_")):  # as where each network was wrapped by itself
        assert is_model(saved(tmp_path / "c.pt", {**container, "state_dict": inside}), model)


def test_a_weight_that_is_there_twice(container: dict[str, Any], tmp_path: Path) -> None:
    state = container["state_dict"]
    name = next(iter(state))
    with pytest.raises(CheckpointError, match=f'has the weight "{name}" twice, with and without a wrapper'):
        read_checkpoint(saved(tmp_path / "x.pt", {**container, "state_dict": {**state, f"module.{name}": state[name]}}))


def test_released_weights_as_safetensors(container: dict[str, Any], model: Any, tmp_path: Path) -> None:
    state = {name: tensor.clone().contiguous() for name, tensor in container["state_dict"].items()}
    average = {"latent_avg": container["latent_avg"].clone()}
    path = tmp_path / "e4e.safetensors"
    save_file(state | average, path, {"opts": '{"encoder_type": "Encoder4Editing", "dataset_type": "ffhq_encode"}'})
    assert is_model(path, model) and method_of_file(path).name == "e4e" and read_checkpoint(path).config == model.config
    save_file({f"state_dict.{name}": tensor for name, tensor in state.items()} | average, path, {"encoder_type": "Encoder4Editing"})
    assert is_model(path, model)
    save_file(state | average, path)  # which method it is, is then asked
    with pytest.raises(CheckpointError, match="may be of e4e or pSp.*--method e4e or --method psp"):
        method_of_file(path)
    assert is_model(path, model)
    generator = {name.removeprefix("decoder."): tensor for name, tensor in state.items() if name.startswith("decoder.")}
    for prefix in ("", "g_ema."):
        save_file({f"{prefix}{name}": tensor for name, tensor in generator.items()}, path)
        assert same(load_generator(path), model.generator) and read_checkpoint(path).kind == "StyleGAN2"
    hfgi = small.small_model("hfgi")
    released = small.small_container("hfgi", hfgi)
    save_file({name: tensor.clone().contiguous() for name, tensor in released["state_dict"].items()}, path)
    assert same(load_hfgi(path).consultation, hfgi.consultation)


def test_the_form_counts_and_not_the_name(container: dict[str, Any], model: Any, tmp_path: Path) -> None:
    assert is_model(saved(tmp_path / "torch.safetensors", container), model)
    save_checkpoint(tmp_path / "own.safetensors", model.config, model.latent_avg, encoder=model.encoder, generator=model.generator)
    own = (tmp_path / "own.safetensors").rename(tmp_path / "own.pt")
    assert is_model(own, model)
    found = {finding.subject: finding for finding in examine(own).findings}
    assert found["format"].text == "a safetensors file called *.pt, read as what it is" and found["kind"].text == "e4e"


# What is no file of weights


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        for name, content in members.items():
            stream.writestr(name.replace("__", "/"), content)
    return path


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def packed(path: Path) -> Path:
    (path.parent / "inner.pt").write_bytes(b"x" * 600)
    with tarfile.open(path, "w") as stream:
        stream.add(path.parent / "inner.pt", "inner.pt")
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path, "PNG")
    return path


def script(path: Path) -> Path:
    torch.jit.save(torch.jit.trace(Scripted(), torch.ones(1)), str(path))
    return path


def arrays(path: Path) -> Path:
    with path.open("wb") as stream:
        np.savez(stream, a=np.ones(2))
    return path


def cut(path: Path) -> Path:
    torch.save({"a": torch.ones(500)}, path)
    path.write_bytes(path.read_bytes()[:-900])
    return path


# How it is made, the beginning of what is said, and whether doctor calls it a problem.
WRONG: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "empty": (written(b""), "is empty (0 bytes); download it again", PROBLEM),
    "page": (written(b"<!DOCTYPE html><html></html>"), "is a web page, not weights; open the link in a browser", PROBLEM),
    "quota": (written(b"<html>quota exceeded"), "is a web page, not weights: it speaks of a download quota", PROBLEM),
    "xml": (written(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "is a web page, not weights", PROBLEM),
    "lfs": (written(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer, not the file itself", PROBLEM),
    "annex": (written(b"/annex/objects/MD5E-s1--abc.pt\n"), "is a git-annex pointer, not the file itself", PROBLEM),
    "dvc": (written(b"outs:\n- md5: abc\n"), "is a DVC pointer, not the file itself", PROBLEM),
    "cut": (cut, "ends early after", PROBLEM),
    "zip": (
        lambda path: archive(path, weights__e4e=b"", **{"weights__e4e.pt": b"x"}),
        'is a zip archive with "weights/e4e.pt" in it',
        PROBLEM,
    ),
    "office": (lambda path: archive(path, word=b"x"), "is a zip archive without weights (word)", NOTE),
    "script": (script, "is a TorchScript program, which is not run here", PROBLEM),
    "npz": (arrays, "is a NumPy archive of arrays", NOTE),
    "npy": (written(b"\x93NUMPY\x01\x00"), "is a NumPy array, not a model", NOTE),
    "tar": (packed, "is a compressed archive, not weights; unpack it", NOTE),
    "gzip": (written(b"\x1f\x8b\x08\x00"), "is a compressed archive, not weights; unpack it", NOTE),
    "picture": (picture, "is a picture, not weights", NOTE),
    "keras": (written(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file of Keras or TensorFlow", NOTE),
    "gguf": (written(b"GGUF\x03\x00\x00\x00"), "holds a language model's weights (GGUF)", NOTE),
    "json": (written(b'{"error": "not found"}'), "is a text (JSON), not weights", NOTE),
    "text": (written(b"hello"), "is neither a PyTorch file nor safetensors", NOTE),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_file_of_weights_is_said_alike_everywhere(case: str, tmp_path: Path) -> None:
    make, sentence, level = WRONG[case]
    path = make(tmp_path / "SDIC_ffhq.pt")
    said = content_of(path).wrong or ""
    assert said.startswith(sentence) and not said.endswith(".") and "\n" not in said
    found = [finding for finding in examine(path).findings if finding.subject == "content"]
    assert [(finding.level, finding.text) for finding in found] == [(level, f"this {said}")]
    for read in (
        lambda: read_checkpoint(path),
        lambda: load_generator(path),
        lambda: identity_network(path),
        lambda: build(BuildOptions(path, tmp_path / "bundle")),
        lambda: load_encoded(path, None, [path]),
    ):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert str(caught.value) == f'"{path}" {said}'
    assert not (tmp_path / "bundle").exists()


def test_forms_of_weights(tmp_path: Path) -> None:
    state = {"a": torch.ones(3)}
    assert content_of(saved(tmp_path / "a.pt", state)).form == TORCH
    assert content_of(saved(tmp_path / "b.pt", state, _use_new_zipfile_serialization=False)).form == TORCH_OLD
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert content_of(tmp_path / "c.pkl").form == PICKLE
    for length in range(40):  # headers of every length: one may look like the beginning of another form
        save_file(state, tmp_path / "d.pt", {"note": "x" * length})
        assert content_of(tmp_path / "d.pt").form == SAFETENSORS and content_of(tmp_path / "d.pt").wrong is None
    for damage in (b"\x10" + bytes(7) + b'{"a": 1}        ', b"\x02" + bytes(7) + b"[]", b"\xff" * 20):
        (tmp_path / "e.bin").write_bytes(damage)
        assert content_of(tmp_path / "e.bin").form == OTHER


# What doctor says of files that are sound


def findings(path: Path) -> dict[str, tuple[str, str]]:
    return {finding.subject: (finding.level, finding.text) for finding in examine(path).findings}


def test_doctor_asks_where_a_file_may_be_of_two_methods(container: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pt", {**container, "opts": {}})
    found = findings(path)
    assert found["kind"] == (OK, "e4e or pSp") and found["method"] == (OK, "e4e or psp")
    assert found["which?"][0] == NOTE and found["which?"][1].endswith("say it with --method e4e or --method psp")
    assert found["encoder"][1].startswith("no encoder_type is recorded: 3 channels") and examine(path).sound
    psp = findings(small.write_small(tmp_path / "psp.pt", "psp"))
    assert psp["kind"] == (OK, "pSp") and "which?" not in psp
    assert psp["encoder"] == (OK, 'encoder_type "GradualStyleEncoder": 3 channels, body ir_se')


def test_doctor_names_the_parts_in_other_files(tmp_path: Path) -> None:
    light, others = small.split_sfe(tmp_path, small.small_model("sfe"))
    needs = [text for subject, text in describe(light) if subject == "also needs"]
    assert [text.partition(",")[0] for text in needs] == ["its generator", "its e4e encoder"]
    assert needs[0].endswith("sdic-run download stylegan2-ffhq-config-f.pt") and "e4e_ffhq_encode.pt, at Google Drive" in needs[1]
    assert dict(describe(light))["latent_avg"] == "missing: the generator's file has it"
    assert not [text for subject, text in describe(others[1]) if subject == "also needs"]
    assert isinstance(load_sfe(light, None, others), torch.nn.Module)
    for name, kind in KINDS.items():
        assert kind.licence and (kind.method in METHODS or kind.licence in (MIT, KINDS["StyleGAN2"].licence)), name


def test_a_file_that_the_model_does_not_use_is_not_passed_over(container: dict[str, Any], model: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "e4e.pt", container)
    other = saved(tmp_path / "g.pt", {"g_ema": model.generator.state_dict(), "latent_avg": model.latent_avg[0]})
    with pytest.raises(CheckpointError, match=r'e4e.pt" has its mean code, so ".*g.pt" is not used; omit it$'):
        load_encoded(path, None, [other])
    del (lacking := dict(container))["latent_avg"]
    path = saved(path, lacking)
    assert isinstance(load_encoded(path, None, [other]), Encoded)
    with pytest.raises(CheckpointError, match=r'takes one file beside it, so ".*g.pt" is not used'):
        load_encoded(path, None, [other, other])


@pytest.mark.parametrize("marks", BESIDE)
def test_networks_that_judge_are_told_from_damaged_files(marks: tuple[str, ...], tmp_path: Path) -> None:
    for mark in marks:
        path = saved(tmp_path / "x.pth", {"state_dict": {f"module.{mark}": torch.ones(2), "module.more.weight": torch.ones(2)}})
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert f"is {BESIDE[marks]}; give a checkpoint of SDIC" in str(caught.value)


def test_what_can_be_known_of_a_file_without_a_published_hash(container: dict[str, Any], tmp_path: Path) -> None:
    found = findings(saved(tmp_path / "SDIC_ffhq.pt", container))
    level, text = found["identity"]
    assert level == NOTE and text.startswith("called like SDIC faces, 1024x1024, whose hash was never published")
    assert "its content can be looked at, and not its origin" in text and "SHA-256" in found["size"][1]
    assert found["kind"] == (OK, "e4e")  # the content says that it is not what its name says


def test_networks_that_judge_may_be_wrapped_and_converted(tmp_path: Path) -> None:
    from sdic_train.losses.lpips import CONVOLUTIONS, load_lpips

    alexnet = {}
    for index, inputs, outputs, kernel, *_ in CONVOLUTIONS:
        alexnet |= {f"features.{index}.weight": torch.randn(outputs, inputs, kernel, kernel), f"features.{index}.bias": torch.ones(outputs)}
    linear = {f"lin{level}.model.1.weight": torch.ones(1, outputs, 1, 1) for level, (_, _, outputs, *_) in enumerate(CONVOLUTIONS)}
    save_file(alexnet, tmp_path / "alexnet.safetensors")
    saved(tmp_path / "lpips.pth", {"state_dict": {f"module.{name}": tensor for name, tensor in linear.items()}})
    network = load_lpips(Path(f"{tmp_path / 'alexnet.safetensors'},{tmp_path / 'lpips.pth'}"))
    assert torch.equal(network.features["0"].weight, alexnet["features.0.weight"])
