"""The paper's figures, and how its misprints are found."""

from __future__ import annotations

import numpy as np
import pytest

from sdic_train.evaluation.evaluate import Timing
from sdic_train.evaluation.published import Published, contradicts, least_l2, published
from sdic_train.evaluation.report import Report


def test_no_pictures_have_a_mean_l2_below_what_their_mean_psnr_allows() -> None:
    errors = np.random.default_rng(0).lognormal(-4, 1, 1000)
    psnr = (-10 * np.log10(errors / 4)).mean()
    assert errors.mean() > least_l2(psnr)
    assert np.full(9, 0.02).mean() == pytest.approx(least_l2(-10 * np.log10(0.02 / 4)))


def test_an_l2_that_the_psnr_rules_out_is_a_misprint_and_rounding_is_none() -> None:
    assert contradicts(0.005, 22.4) and not contradicts(0.026, 22.4)
    assert not contradicts(0.023, 22.36) and least_l2(22.36) > 0.023  # within what the printed digits leave open
    row = Published({"PSNR": 22.4, "L2": 0.005, "seconds": 0.1}, misprints={"LPIPS": "known"})
    assert row.faults == {"LPIPS": "known", "L2": "a PSNR of 22.4 dB needs an L2 of 0.0230 or more"}
    assert row.cells() == {"PSNR": "22.4", "L2": "0.005†", "seconds": "0.1", "LPIPS": "-†"}


def test_the_papers_figures_and_known_misprints() -> None:
    table = published()
    assert table.methods["fs"].cells()["LPIPS"] == "0.934†" and table.methods["pti"].figures["seconds"] == 201
    assert {name for name, row in table.methods.items() if row.faults} == {"fs", "pti"}
    assert table.methods["sdic"].cells() == {"ID": "0.871", "SSIM": "0.815", "PSNR": "27.67", "LPIPS": "0.057", "L2": "0.007"}
    assert table.methods["clcae"].cells()["PSNR"] == "~25.6"


def test_the_papers_rows_stand_below_ours_and_the_others_at_the_end() -> None:
    report = Report(3, 64, Timing(5), published=published())
    for label, method in (("SDIC", "sdic"), ("HFGI", "hfgi"), ("PTI", "e4e")):
        report.inversion[label], report.methods[label], report.where[label] = {"PSNR": 20.0, "seconds": 0.5}, method, "a machine"
    lines = [line.split(" | ") for line in report.markdown().splitlines() if line.startswith("|")]
    assert lines[0] == ["| method", "ID", "SSIM", "PSNR", "LPIPS", "L2", "Time (s) |"]
    assert [line[0][2:] for line in lines[2:]] == [
        "SDIC", "SDIC, the paper", "HFGI", "HFGI, the paper", "PTI", "PTI, the paper", "e4e, the paper", "HyperStyle, the paper",
        "FS, the paper", "CLCAE, the paper",
    ]  # fmt: skip
    text = report.markdown()
    assert (
        "3 pictures, judged at 64 pixels. Times are of one picture: the median of 5 calls after 2 that are not counted (a machine)." in text
    )
    assert "† is a misprint. FS's LPIPS: the authors of FS print .064" in text
    assert report.as_dict()["published"]["methods"]["fs"]["misprints"].keys() == {"LPIPS"}
    report.failed["x"] = "why"
    assert "x failed: why." in report.markdown() and report.as_dict()["failed"] == {"x": "why"}
