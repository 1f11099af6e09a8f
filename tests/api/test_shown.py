"""What objects print, in a terminal and in a notebook; coefficients and comparisons as tables."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import obverse
from obverse import notebook_html
from obverse.api.compare import Comparison
from obverse.api.run import Run
from obverse.api.table import Table
from obverse.errors import ConfigError, DataError
from obverse.evaluation.report import Report, Score

STEP = json.loads((Path(__file__).parents[1] / "data" / "step.json").read_text())
EVIL = "<script>alert(1)</script>"


class Parser(HTMLParser):
    """The tags and the text of a page; an unclosed tag is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in ("line", "path", "circle", "rect", "polyline", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(value: Any) -> Parser:
    """A value as a notebook shows it: valid, small, without scripts."""
    page = value._repr_html_()
    assert len(page) < 200_000
    parser = Parser(page)
    assert "script" not in parser.tags
    return parser


def test_a_table_is_escaped_and_short() -> None:
    table = Table([{"text": EVIL, "reward": 0.123456, "number": number} for number in range(10_000)], "rows")
    parser = shown(table)
    assert EVIL in parser.text and "0.1235" in parser.text and "10,000 rows" in parser.text
    assert parser.tags.count("tr") == 14


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00012345, "0.0001234"), (42552.0, "42,552"), (5.5e11, "5.5e+11"), (math.inf, "inf"), (math.nan, "nan")],
)
def test_a_number_is_short(value: float, text: str) -> None:
    assert notebook_html.text(value) == text


def test_a_method_shows_its_terms() -> None:
    assert "solved_gate" in shown(obverse.find("hpt")()).text
    assert "behavior" in shown(obverse.find("grpo")()).text


def test_coefficients_of_a_step_file(tmp_path: Path) -> None:
    samples = [{**sample, "tokens": [f"t{n}\n" for n in range(len(sample["source"]))]} for sample in STEP["samples"]]
    result = obverse.coefficients("hpt", {"samples": samples}, gate=0)
    assert [row["kept"] for row in result.samples] == [False, True, True, True, True, False, False]
    assert result.samples[4]["coefficient"] == [0.5, 0.5] and result.tokens[0]["token"] == "t0\n"
    assert "t0" in shown(result).text and "failed, demonstration" in str(result) and "7 samples" in repr(result)
    (tmp_path / "step.json").write_text(json.dumps(STEP))
    again = obverse.coefficients("hpt", tmp_path / "step.json", gate=0)
    by_function = obverse.coefficients(obverse.find("hpt"), tmp_path / "step.json", gate=0)
    assert obverse.coefficients(obverse.find("hpt")(gate=0), STEP).samples == by_function.samples == again.samples
    assert again.samples["coefficient"] == result.samples["coefficient"] and again.samples[0]["tokens"] is None
    with pytest.raises(DataError, match="tokens: 1 texts for 3"):
        obverse.coefficients("hpt", {"samples": [{**STEP["samples"][0], "tokens": ["a"]}]})
    long = [{"problem": EVIL, "kind": "demonstration", "source": ["demonstration"] * 5000, "logp": [-1.0] * 5000}]
    assert EVIL in shown(obverse.coefficients("sft", {"samples": long})).text


def test_a_run_shows_its_curves_and_evaluations(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"method: '{EVIL}'\n")
    run = Run(tmp_path)
    assert EVIL in shown(run).text and run.step == 0 and list(run.metrics) == []
    with pytest.raises(DataError, match="log_completions"):
        run.samples()
    with pytest.raises(DataError, match="no checkpoint"):
        run.model()
    rows = [{"step": step, "reward": step / 1000, "reward_std": 0.1, "accuracy": None} for step in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "eval").mkdir()
    summary = {"all": {"problems": 4, "avg@4": 0.5, "interval": [0.25, 0.75]}}
    (tmp_path / "eval" / "step-000500.json").write_text(json.dumps(summary))
    parser = shown(run)
    assert "svg" in parser.tags and "50.0% (25.0% to 75.0%)" in parser.text and run.step == 1000
    assert run.evaluations[500] == summary and "step 1000" in repr(run)


def test_a_comparison_has_its_figures_with_verdicts(tmp_path: Path) -> None:
    figure = {"entry": "hpt-gate-1", "step": "last", "test": "easy", "k": 1, "mean": 0.5, "low": 0.4, "high": 0.6}
    figure |= {"verdict": "better", "baseline": "sft", "difference": 0.1}
    entries = [
        {"entry": "hpt-gate-1", "label": "hpt gate=1", "rate": 1.0},
        {"entry": "sft", "label": "sft", "rate": 1.0},
    ]
    standings: Any = {"budget": 2e6, "budget_in": "tokens", "k": [1], "columns": ["easy"], "entries": entries}
    comparison = Comparison(tmp_path, standings | {"figures": [figure, {**figure, "entry": "base", "verdict": ""}]})
    (row, base) = comparison.table
    assert (row["method"], row["mean"], row["verdict"], row["baseline"]) == ("hpt gate=1", 0.5, "better", "sft")
    assert base["method"] == "base" and "50.0% (40.0% to 60.0%)\nbetter" in shown(comparison).text
    for seed in (10, 9):
        folder = tmp_path / "runs" / "hpt-gate-1" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("method: hpt\n")
    assert [run.folder.name for run in comparison.runs["hpt gate=1"]] == ["seed-9", "seed-10"]
    stopped = Comparison(tmp_path, None, 130)
    assert list(stopped.table) == [] and "stopped" in shown(stopped).text and stopped.runs["hpt-gate-1"]


def test_printed_coefficients_are_short() -> None:
    sample = {"problem": "a\nb", "kind": "rollout", "source": ["rollout"] * 100, "logp": [-1.0] * 100}
    sample |= {"reward": 1.0, "tokens": ["\x1b[31m"] * 100}
    printed = str(obverse.coefficients("sft", {"samples": [{**sample, "kind": "demonstration"}] * 20}))
    lines = printed.splitlines()
    assert len(lines) == 9 and "12 more samples" in lines[-1] and lines[0].endswith("and 60 more tokens")
    assert "\x1b" not in printed and len(printed) < 8_000


def test_a_report_is_short() -> None:
    scores = [Score(f"p{number}", "", 2, number % 2, 0, 2, 0, texts=[EVIL] * 2) for number in range(100)]
    report = Report(EVIL, scores, (1, 2))
    assert repr(report) == f"<Report {EVIL}: 100 problems, avg@2 25.0%, pass@1 25.0%, pass@2 50.0%>"
    assert EVIL in shown(report).text and "25.0% (" in shown(report).text


def test_a_schedule_shows_its_stages() -> None:
    parser = shown(obverse.find("sft_then_rl")())
    assert "stage 1" in parser.text and parser.tags.count("table") == 2


def test_a_step_is_a_step_file_or_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step: expects"):
        obverse.coefficients("sft", [STEP])  # type: ignore[arg-type]
    for step in (tmp_path, (tmp_path, 1)):
        with pytest.raises(DataError, match="contains no run"):
            obverse.coefficients("sft", step)


def test_factors_of_a_divergence_are_a_column_and_are_mentioned() -> None:
    sample = {"problem": "a", "kind": "demonstration", "reward": None, "source": ["demonstration"] * 2}
    shown = obverse.coefficients("gift", {"samples": [{**sample, "logp": [-0.5, -1.5]}]})
    assert shown.samples[0]["coefficient"] == [0.0, 0.0]
    assert [row["divergence_coefficient"] for row in shown.tokens] == [0.5, 0.5]
    assert "divergence" in str(shown) and "divergence" in shown._repr_html_()
    plain = obverse.coefficients("sft", {"samples": [{**sample, "logp": [-0.5, -1.5]}]})
    assert "divergence_coefficient" not in plain.tokens[0] and "divergence" not in str(plain)
