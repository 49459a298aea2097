"""What doctor says of files, bundles and machines, sound and broken."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Direction
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.tools import doctor
from sdic_runtime.tools.doctor import NOTE, OK, PROBLEM, Finding, examine
from sdic_runtime.tools.public_files import PUBLIC_FILES, PublicFile, candidates, known


@pytest.fixture(autouse=True)
def no_deeper_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry point of other packages, unless a test puts one there."""
    deeper(monkeypatch)


def deeper(monkeypatch: pytest.MonkeyPatch, *describers: Callable[[Path], Any]) -> None:
    entries = [SimpleNamespace(name="checkpoint", load=lambda describe=describe: describe) for describe in describers]
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: entries if group == "sdic.doctor" else [])


def findings(path: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(path).findings}


def archive(path: Path, size: int = 1000) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("archive/data.pkl", b"\x80\x02" + b"x" * size)
    return path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "this is empty (0 bytes); download it again"),
        (
            b"\n <!DOCTYPE HTML><html><head>",
            "this is a web page, not weights; open the link in a browser and save the file from there, or download it again later",
        ),
        (
            b"\xef\xbb\xbf<html>" + b" " * 5000 + b"Download Quota exceeded",
            "this is a web page, not weights: it speaks of a download quota; the place has reached its limit for today",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "this is a Git LFS pointer, not the file itself; fetch it with git lfs pull",
        ),
    ],
)
def test_what_downloads_leave_behind(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "SDIC_ffhq.pt"
    path.write_bytes(content)
    section = examine(path)
    assert not section.sound
    assert [finding.level for finding in section.findings] == [PROBLEM] and section.findings[0].text.startswith(sentence)


def test_a_cut_off_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "e4e.pt")
    assert examine(path).sound
    path.write_bytes(path.read_bytes()[:600])
    assert findings(path)["content"].text == "this ends early after 600 bytes: the download was cut off, so download it again"


def test_a_safetensors_file_and_its_damages(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, path, {"origin": "somewhere"})
    found = findings(path)
    assert found["tensors"].text == "2: a F32[2, 3], b F16[4]"
    assert found["metadata origin"].text == "somewhere"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    sentence = f"this has {len(whole) - 5} bytes where its header announces {len(whole)}: it was cut off"
    assert findings(path)["content"].text.startswith(sentence)
    for content in (b"abc", b"\xff" * 100, (4).to_bytes(8, "little") + b"[12]", (3).to_bytes(8, "little") + b'"ab'):
        path.write_bytes(content)
        assert findings(path)["content"].text.startswith("this is truncated or not a safetensors file: its header cannot be read")


def test_a_missing_path(tmp_path: Path) -> None:
    section = examine(tmp_path / "nothing.pt")
    assert not section.sound and section.findings[0].text == f'there is no "{tmp_path}/nothing.pt"; check the path'


def test_files_are_known_by_content_and_not_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "renamed.bin")
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    table = (PublicFile(("weights.pt",), "the weights", size, digest, "ask the authors"),)
    monkeypatch.setattr("sdic_runtime.tools.public_files.PUBLIC_FILES", table)
    found = findings(path)
    assert found["known as"] == Finding(OK, "known as", "the weights (weights.pt)")
    assert found["licence"] == Finding(NOTE, "licence", "ask the authors")
    path.write_bytes(path.read_bytes()[:50] + b"!" + path.read_bytes()[51:])
    assert findings(path)["identity"] == Finding(
        PROBLEM, "identity", "as large as the weights but with another hash: damaged or altered, so download it again"
    )
    other = archive(tmp_path / "WEIGHTS.pt", size=20)
    assert findings(other)["identity"].text == (
        f"called like the weights, with a hash that is in no public listing; the known ones have {size:,} bytes"
    )
    assert findings(other)["licence"].text == "ask the authors" and examine(other).sound


def test_the_table_of_public_files_is_well_formed() -> None:
    for entry in PUBLIC_FILES:
        assert entry.names and entry.what and entry.licence
        assert entry.sha256 is None or (len(entry.sha256) in (8, 64) and set(entry.sha256) <= set("0123456789abcdef"))
        assert entry.sha256 is None or len(entry.sha256) == 64 or entry.bytes, f"{entry.names}: a short hash needs a size beside it"
    assert len(candidates("stylegan2-ffhq-config-f.pt")) == 3
    assert known(0, "0" * 64) is None


def test_a_checkpoint_is_described_by_whoever_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "SDIC_ffhq.pt")
    deeper(monkeypatch, lambda given: [("sizes", f"generator 1024 in {given.name}")])
    assert findings(path)["sizes"] == Finding(OK, "sizes", "generator 1024 in SDIC_ffhq.pt")


@pytest.mark.parametrize(
    ("error", "level", "text"),
    [
        (
            MissingExtraError("torch", "train", "reading a checkpoint"),
            NOTE,
            'keys, generator size and latent_avg can be read with: pip install "sdic-toolkit[train]"',
        ),
        (ModuleNotFoundError("torch"), NOTE, 'keys, generator size and latent_avg can be read with: pip install "sdic-toolkit[train]"'),
        (
            SdicError("x.pt lacks encoder.input_layer.0.weight; get an SDIC checkpoint"),
            PROBLEM,
            "x.pt lacks encoder.input_layer.0.weight; get an SDIC checkpoint",
        ),
    ],
)
def test_when_the_deeper_look_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, level: str, text: str) -> None:
    def fail(path: Path) -> None:
        raise error

    deeper(monkeypatch, fail)
    assert findings(archive(tmp_path / "x.pt"))["checkpoint"] == Finding(level, "checkpoint", text)


def test_results_and_other_files_are_not_taken_for_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Any, image: np.ndarray
) -> None:
    def never(path: Path) -> None:
        raise SdicError("this is no checkpoint")

    deeper(monkeypatch, never)
    save_direction(tmp_path / "smile.safetensors", Direction(np.ones(8, np.float32), "smile"))
    pipeline.invert(image).save(tmp_path / "inversion.safetensors")
    (tmp_path / "notes.txt").write_text("nothing")
    for name in ("smile.safetensors", "inversion.safetensors", "notes.txt"):
        assert examine(tmp_path / name).sound, name
    assert findings(tmp_path / "inversion.safetensors")["metadata bundle"].text == "tiny"
    assert findings(tmp_path / "notes.txt")["content"].text.startswith("this is neither a PyTorch file nor safetensors")


def test_a_sound_bundle(tiny_bundle: Path) -> None:
    section = examine(tiny_bundle)
    found = {finding.subject: finding.text for finding in section.findings}
    assert section.sound and section.title == str(tiny_bundle)
    assert found["bundle"].startswith("tiny: sdic, domain test, R 128, S 64, L 12")
    assert found["files"].startswith("9 of 9 are as the manifest says")
    assert found["directions"] == "age, basis, smile" and found["precisions"] == "fp32; fp32 when none is named"
    assert found["licence"] == "none"


def test_every_damaged_file_of_a_bundle_is_named(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    flipped = bytearray((folder / "onnx/fp32/dipn.onnx").read_bytes())
    flipped[10] ^= 1
    (folder / "onnx/fp32/dipn.onnx").write_bytes(flipped)
    (folder / "directions/age.safetensors").unlink()
    section = examine(folder)
    problems = [finding.text for finding in section.findings if finding.level == PROBLEM]
    assert len(problems) == 3 and not section.sound
    assert "age.safetensors is damaged: it is missing" in problems[0] and "dipn.onnx is damaged: its SHA-256" in problems[1]
    assert problems[2].startswith("7 of 9 are as the manifest says")


def test_a_bundle_of_a_newer_schema_and_a_folder_that_is_none(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle()
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**manifest, "schema": 3}))
    assert findings(folder)["bundle"].text.startswith(f"{folder}/bundle.json has schema 3, and this version reads schema 2")
    (tmp_path / "empty").mkdir()
    assert findings(tmp_path / "empty")["bundle"].level == PROBLEM


def without(*missing: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    return version


def test_packages_that_are_needed_and_packages_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", without("numpy", "torch", "pycuda", "onnxruntime", *doctor.ONNX_RUNTIMES[2:]))
    found = {finding.subject: finding for finding in doctor.packages()}
    assert found["pillow"] == Finding(OK, "pillow", "1.2.3")
    assert found["numpy"] == Finding(PROBLEM, "numpy", "not installed; for arrays: pip install numpy")
    assert found["torch"].level == NOTE and found["torch"].text.endswith('pip install "sdic-toolkit[train]"')
    assert (found["pycuda"].level, found["onnxruntime"].level) == (NOTE, NOTE)
    assert "polygraphy" not in found
    monkeypatch.setattr(doctor.metadata, "version", without(*doctor.ONNX_RUNTIMES))
    assert {finding.subject: finding.level for finding in doctor.packages()}["onnxruntime"] == PROBLEM


def test_two_onnx_runtimes_in_one_folder_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", without("onnxruntime-openvino", "onnxruntime-directml"))
    problems = [finding.text for finding in doctor.packages() if finding.level == PROBLEM]
    assert len(problems) == 1 and problems[0].startswith("onnxruntime and onnxruntime-gpu are both installed, in the same folder")
    assert problems[0].endswith("keep one: pip uninstall onnxruntime onnxruntime-gpu, then install that one again")
    monkeypatch.setattr(doctor.metadata, "version", without(*doctor.ONNX_RUNTIMES[1:]))
    assert not [finding for finding in doctor.packages() if finding.level == PROBLEM]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, [Finding(NOTE, "nvidia", "no NVIDIA driver seen (nvidia-smi is not on the path); the CPU backends work without one")]),
        (
            "echo 'NVIDIA RTX 4090, 560.35, 24564 MiB, 8.9'; echo 'NVIDIA H200, 560.35, 143771 MiB, 9.0'",
            [
                Finding(OK, "gpu 0", "NVIDIA RTX 4090, driver 560.35, 24564 MiB, compute capability 8.9"),
                Finding(OK, "gpu 1", "NVIDIA H200, driver 560.35, 143771 MiB, compute capability 9.0"),
            ],
        ),
        ("echo 'driver mismatch'; exit 9", [Finding(NOTE, "nvidia", "nvidia-smi shows no GPU: driver mismatch")]),
        ("exit 0", [Finding(NOTE, "nvidia", "nvidia-smi shows no GPU: it says nothing")]),
    ],
)
def test_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, expected: list[Finding]) -> None:
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(doctor.gpus()) == expected


def test_backends_are_listed_with_the_reason_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import sdic_runtime.backends.registry as backends

    entries = {
        "onnxruntime": backends.BackendEntry("onnxruntime", backends.BUILT_IN["onnxruntime"]),
        "dreams": backends.BackendEntry("dreams", "package_of_dreams:load"),
    }
    monkeypatch.setattr(backends, "available_backends", lambda: entries)
    found = {finding.subject: finding for finding in doctor.backends()}
    assert found["onnxruntime"] == Finding(OK, "onnxruntime", "usable")
    assert found["dreams"] == Finding(NOTE, "dreams", "not usable here: it needs the package package_of_dreams")
    assert "CPUExecutionProvider" in found["execution providers"].text
