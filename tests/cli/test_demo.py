"""The demo end to end, small: preflight, equal budgets, tables, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.cli import demo
from obverse.config.commands import DemoConfig
from obverse.runtime.run_dir import RunFolder


def test_two_methods_on_one_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NUM_HELD_OUT", 12)
    monkeypatch.setattr(demo, "RUN", {**demo.RUN, "prompts_per_step": 4, "num_problems": 60})
    assert demo.run(DemoConfig(methods=("hpt", "sft"), max_steps=3, output_dir=tmp_path / "demo", seed=3)) == 0
    out = capsys.readouterr().out
    assert "preflight: the base solves" in out and "have the form that the verifier reads" in out
    assert "easy half" in out and "hard half" in out and str(tmp_path / "demo") in out.replace("\n", "")
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "2 runs: hpt, sft" in page and "hard half" in page and 'id="figure-gate"' in page
    tokens = {name: RunFolder(tmp_path / "demo" / name).metrics()[-1]["num_tokens"] for name in ("hpt", "sft")}
    last = RunFolder(tmp_path / "demo" / "sft").metrics()[-2]["num_tokens"]
    assert last < tokens["hpt"] <= tokens["sft"]
    figures = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(figures) == ["base", "hpt", "sft"]
    assert list(figures["base"]) == ["1", "2", "3", "4", "5", "6", "easy half", "hard half", "all"]
    assert 0.3 <= figures["base"]["easy half"]["pass@1"] <= 0.95  # the prior
    assert figures["base"]["hard half"]["pass@8"] <= 0.2  # the cliff, on six problems only
