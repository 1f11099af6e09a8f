"""What a page shows of a teacher: tokens shaded by log pi_T - log pi, the gap by position, the curves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house.source import ROOT
from report.folders import write_lines, write_run
from tokenizers import Tokenizer

from obverse.config.commands import ReportConfig
from obverse.errors import DataError
from obverse.report.analyses import labeled
from obverse.report.completions import pick
from obverse.report.load_runs import read_run
from obverse.report.teacher import GapSums, by_position, gaps_of, shaded, tokenizer_of
from obverse.report.write import report

TOKENIZER = ROOT / "obverse" / "assets" / "base" / "tokenizer.json"
TEXT = "7+5=12#12 \u4eac"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def row(ids: list[int], gaps: list[float], **fields: Any) -> dict[str, Any]:
    behavior = [-1.0] * len(ids)
    teacher = [before + gap for before, gap in zip(behavior, gaps, strict=True)]
    return {"kind": "rollout", "ids": ids, "behavior": behavior, "teacher": teacher, **fields}


def scored_run(path: Path, tokenizer: Tokenizer, num_steps: int = 6, has_tokenizer: bool = True) -> Path:
    """A run whose rollouts a teacher scored: the gap is -position / 10 at first, and half of it in the end."""
    folder = write_run(path, num_steps=num_steps, num_problems=3, text=TEXT)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    for step, file in enumerate(sorted((folder / "samples").glob("*.jsonl"))):
        size = 0.1 if step < num_steps / 2 else 0.05
        gaps = [-size * position for position in range(len(ids))]
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        scored = [entry | (row(ids, gaps) if entry["kind"] == "rollout" else {}) for entry in rows]
        write_lines(file, scored)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    teacher = {"teacher/kl": 0.5, "teacher/better": 0.25}
    write_lines(folder / "metrics.jsonl", [{**entry, **teacher} for entry in metrics])
    if has_tokenizer:
        shutil.copy(TOKENIZER, folder / "checkpoint-12" / "tokenizer.json")
    return folder


def test_tokens_that_are_parts_of_a_character_are_one_text_with_the_sum_of_their_gaps(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("7\u4eac=", add_special_tokens=False).ids
    entry = shaded(row(ids, [0.5, -1.0, -2.0, 0.25, 3.0]), tokenizer)
    assert entry["gaps"] == [["7", 0.5], ["\u4eac", -2.75], ["=", 3.0]] and entry["gap"] == pytest.approx(0.15)
    cut = shaded(row(ids[:2], [0.5, -1.0]), tokenizer)
    assert [gap for _, gap in cut["gaps"]] == [0.5, -1.0]
    assert shaded(row(ids, [0.0] * 5), None) == {} == shaded({"kind": "rollout", "ids": ids}, tokenizer)


def test_rows_that_no_teacher_scored_have_no_gaps() -> None:
    scored = row([1, 2], [0.5, -0.5])
    assert gaps_of(scored) == [0.5, -0.5]
    assert gaps_of({**scored, "kind": "demonstration"}) == [] == gaps_of({**scored, "teacher": [0.0, 0.0]})


def test_the_gap_by_position_is_a_mean_over_windows_of_the_first_and_the_last_steps() -> None:
    steps = {step: GapSums() for step in range(1, 7)}
    for step, sums in steps.items():
        for length in (30, 48) * 10:
            sums.add([step * position for position in range(length)])
    (figure,) = by_position(steps)
    first, last = figure.chart("").series
    assert len(first.x) == 24 and first.x[:2] == (0.5, 2.5) and first.y[:2] == pytest.approx((0.75, 3.75))
    assert last.y[0] == pytest.approx(0.5 * 5.5) and last.y[-1] == pytest.approx(46.5 * 5.5)
    assert list(by_position({1: GapSums()})) == []
    few = GapSums()
    few.add([1.0, 2.0])
    assert list(by_position({1: few})) == []


def test_a_page_shows_the_teacher(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = scored_run(tmp_path / "run", tokenizer)
    (page,) = report(ReportConfig(run=folder))[:1]
    text = page.read_text(encoding="utf-8")
    figures = ("teacher", "teacher-better", "teacher-position")
    assert [name for name in figures if f'id="figure-{name}"' not in text] == [] and text.count('id="teacher"') == 1
    picked = pick(read_run(folder), 0, 10**6)
    samples = [sample for group in picked.groups for sample in group["samples"]]
    of_rollouts = [sample["gaps"] for sample in samples if sample["kind"] == "rollout"]
    assert "".join(token for token, _ in of_rollouts[0]) == TEXT and of_rollouts[0][3] == ["=", -0.3]
    assert not any("gaps" in sample for sample in samples if sample["kind"] != "rollout")


def test_without_a_tokenizer_the_texts_are_plain_and_the_page_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = scored_run(tmp_path / "run", tokenizer, num_steps=2, has_tokenizer=False)
    picked = pick(read_run(folder), 0, 10**6)
    assert "not shaded" in picked.omissions() and "gaps" not in str(picked.groups)
    assert "not shaded" not in pick(read_run(write_run(tmp_path / "plain", num_steps=2)), 0, 10**6).omissions()


def test_damaged_files_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = scored_run(tmp_path / "run", tokenizer, num_steps=2)
    (folder / "checkpoint-12" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer.json is no tokenizer"):
        tokenizer_of(read_run(folder))
    (folder / "checkpoint-12" / "tokenizer.json").unlink()
    file = folder / "samples" / "step-000001.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["teacher"].pop()
    write_lines(file, rows)
    with pytest.raises(DataError, match="step-000001.jsonl:2: .*behavior and of teacher"):
        pick(read_run(folder), 0, 10**6)


def test_methods_beside_the_reverse_kl_have_a_label_of_their_own() -> None:
    rows = [
        {"method": "opd"},
        {"method": "opd", "objective": "reverse KL"},
        {"method": "a"},
        {"method": "a", "lane": 1},
    ]
    assert [name for name, _ in labeled(rows)] == ["opd", "opd, reverse KL", "a, stage 0", "a, stage 1"]


@pytest.mark.parametrize("model", ["1" * 300, "a\0b", ""])
def test_a_model_that_no_folder_can_have_has_no_tokenizer(model: str, tmp_path: Path) -> None:
    run = replace(read_run(write_run(tmp_path / "run", num_steps=1)), config={"model": model})
    assert tokenizer_of(run) is None
