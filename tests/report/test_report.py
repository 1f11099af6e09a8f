"""The command, the pictures, and the end of a run: a page that fails is told and fails nothing."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report.folders import write_analyses, write_comparison, write_run

from obverse.cli.main import main
from obverse.config.commands import ReportConfig
from obverse.errors import ConfigError, StorageError
from obverse.report import pictures
from obverse.report import write as module
from obverse.report.figures import Figure
from obverse.report.pictures import FAMILIES, PIXELS, font_family, save_pictures
from obverse.report.svg_chart import GAP, HEIGHT, WIDTH, Chart, Series, side_by_side
from obverse.report.write import report


def test_pictures_of_every_figure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_analyses(run / "analysis")
    page, *pictures = report(ReportConfig(run=run, figures=tmp_path / "pictures", axis="tokens"))
    num_figures = page.read_text(encoding="utf-8").count("<figure ")
    assert len(pictures) == num_figures > 15
    assert all(ET.parse(path).getroot().attrib["aria-label"] for path in pictures)
    drawn = (tmp_path / "pictures" / "reward.svg").read_text()
    assert "tokens, generated plus trained" in drawn and ">10k<" in drawn


def test_png_of_every_kind_of_chart(tmp_path: Path) -> None:
    lines = Series("a $x", (1, 2), (0.2, 0.4), low=(0.1, 0.3), high=(0.3, 0.5), raw=(0.1, 0.5))
    charts = {
        "lines": Chart("k", "y", (lines,), log_x=True),
        "areas": Chart("x", "y", (Series("a", (0, 1), (0.5, 0.5)), Series("b", (0, 1), (0.5, 0.5))), "areas"),
        "bars": Chart("x", "y", (Series("a", (0, 1), (1, 2), low=(0, 1), high=(2, 3)),), "bars", ("p", "q")),
    }
    figures = [Figure(name, name, "", {"": chart}) for name, chart in charts.items()]
    for path in save_pictures(figures, "steps", tmp_path, ["png"]):
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG") and struct.unpack(">2I", head[16:24])[0] == PIXELS


def test_a_comparison_has_pictures_too(tmp_path: Path) -> None:
    root = write_comparison(tmp_path / "comparison")
    names = {path.stem for path in report(ReportConfig(run=root, figures=tmp_path / "p"))[1:]}
    assert {"accuracy", "held-out", "tries-0", "tries-1"} <= names


def test_png_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "resvg_py" and find_spec(name, *rest)) or None
    )
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"obverse\[plots\]"):
        report(ReportConfig(run=run, figures=tmp_path / "pictures", format="png"))
    assert report(ReportConfig(run=run, figures=tmp_path / "pictures"))[1].suffix == ".svg"


def test_png_without_a_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "font_family", lambda: None)
    with pytest.raises(ConfigError, match="needs one of these fonts"):
        save_pictures([], "steps", tmp_path / "pictures", ["svg", "png"])
    assert not (tmp_path / "pictures").exists()


def test_a_font_is_used_only_if_it_draws() -> None:
    """For a family that is not installed, resvg draws nothing or the system's serif family, without an error."""
    assert font_family(("No Such Family",)) is None
    assert font_family(("No Such Family", *FAMILIES)) == font_family()


def test_charts_side_by_side() -> None:
    """Every chart has its place in one file of the size of the grid."""
    chart = Chart("x", "y", (Series("a", (0, 1), (0.5, 0.5)),))
    root = ET.fromstring(side_by_side([(chart, "first"), (chart, "second"), (chart, "third")], columns=2))
    places = [(child.get("x"), child.get("y")) for child in root if child.tag.endswith("svg")]
    right, lower = str(WIDTH + GAP), str(HEIGHT + GAP)
    assert places == [("0", "0"), (right, "0"), ("0", lower)]
    assert (root.get("width"), root.get("height")) == (str(2 * WIDTH + GAP), str(2 * HEIGHT + GAP))


def test_a_run_that_just_began(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evals=())
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run / "samples")
    for folder in (run, tmp_path):
        page = report(ReportConfig(run=folder))[0].read_text(encoding="utf-8")
        assert "No held-out evaluation was made" in page and "once obverse analyze has" in page


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose --output"):
        report(ReportConfig(run=write_run(tmp_path / "run"), output=tmp_path / "file" / "page.html"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--output", str(tmp_path / "page.html"), "--axis", "tokens"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert 'id="axis-tokens" checked' in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "nothing")]) == 3 and main(["report", str(run), "--axis", "days"]) == 2
    assert "no run" in capsys.readouterr().err


SMALL = "--dataset arithmetic:1-2 --num_problems 8 --prompts_per_step 2 --num_generations 2 --max_completion_length 12"


def trained(folder: Path, *words: str) -> int:
    """A run of one step by the command line; returns its exit code."""
    return main(["train", "grpo", "--max_steps", "1", *SMALL.split(), "--output_dir", str(folder), *words])


def test_a_run_ends_with_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(tmp_path / "run") == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "grpo; model" in page and 'id="figure-reward"' in page and "FLOPs, estimated" in page
    assert f"report: {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().out
    assert trained(tmp_path / "other", "--no-report") == 0
    assert not (tmp_path / "other" / "report.html").exists()


def test_a_page_that_fails_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: ReportConfig) -> list[Path]:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(module, "report", broken)
    assert trained(tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "no report was written (ZeroDivisionError: a mistake of ours)" in output and "the run is complete" in output
    assert (tmp_path / "run" / "checkpoint-1" / "manifest.json").exists()
