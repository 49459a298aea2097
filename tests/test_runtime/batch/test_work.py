"""What a batch notes of the work that was done: other weights, arithmetic or precisions are other work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.batch.job import Job
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import FileError, SdicError
from sdic_runtime.subjects import Wishes


def test_work_in_another_precision_is_other_work(make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdic_runtime.backends import openvino

    monkeypatch.setattr(openvino, "has_bfloat16", lambda: True)
    pytest.importorskip("openvino")
    bundle = Bundle.open(make_bundle("measured", psnr={"bf16": 50.0}, tolerances={"fp32": 1e-4, "bf16": 1e-1}))
    bare = Bundle.open(make_bundle())

    def work(bundle: Bundle, backend: str, precision: str | None = None) -> str:
        return Job(bundle.path, tmp_path / "out", backend, precision).work(bundle)

    exact = work(bundle, "onnxruntime")
    assert {work(bundle, "auto"), work(bundle, "openvino", "fp32"), work(bundle, "onnxruntime", "auto")} == {exact}
    reduced = {work(bundle, "openvino:precision=bf16"), work(bundle, "openvino", "bf16"), work(bundle, "auto", "auto")}
    assert len(reduced) == 1 and exact not in reduced
    assert work(bare, "auto", "auto") == work(bare, "openvino:precision=auto") == work(bare, "onnxruntime")
    with pytest.raises(SdicError, match='^the backend "onnxruntime" runs .* in fp32 and not in "fp16"; name one of them$'):
        work(bundle, "onnxruntime", "fp16")


def test_work_with_other_weights_or_arithmetic_is_other_work(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for name, content in (("a.pt", b"first"), ("b.pt", b"second"), ("same.pt", b"first")):
        (tmp_path / name).write_bytes(content)
    options = ["", ":threads=2", ":lazy=true", ":cpu_graphs=false"]
    plain, threads, lazy, standard = (Job(tiny_bundle, tmp_path / "out", f"onnxruntime{option}").work(bundle) for option in options)
    assert plain == threads == lazy != standard
    pytest.importorskip("torch")
    first, second, same = (
        Job(tiny_bundle, tmp_path / "out", f"torch:checkpoint={tmp_path / name}").work(bundle) for name in ("a.pt", "b.pt", "same.pt")
    )
    assert first == same != second
    (tmp_path / "a.pt").write_bytes(b"trained again")
    assert Job(tiny_bundle, tmp_path / "out", f"torch:checkpoint={tmp_path / 'a.pt'}").work(bundle) != first


def test_files_that_cannot_be_read_are_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, absent = Bundle.open(tiny_bundle), tmp_path / "absent.png"
    job = Job(tiny_bundle, tmp_path / "out", wishes=Wishes(keep=(str(absent),)), photographs=True)
    with pytest.raises(FileError, match=f"^cannot read {absent}: no such file or directory; name another file$"):
        job.work(bundle)


def test_the_precision_of_a_backend_is_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = Bundle.open(tiny_bundle)
    half, single, default = (Job(tiny_bundle, tmp_path / "out", "torch", precision).work(bundle) for precision in ("fp16", "fp32", None))
    assert half != single == default
