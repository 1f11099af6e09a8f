"""Which completions a page gets, and the advantages beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report.folders import group, write_lines, write_run

from obverse.methods import build
from obverse.report.advantages import advantages, stages
from obverse.report.completions import (
    MOST_CHARACTERS,
    num_bytes,
    pick,
    prompt_text,
    shortened,
    spread,
    trained_tokens,
    varied,
)
from obverse.report.load_runs import read_run
from obverse.report.page import island_of


def step(*numbers: int) -> list[dict[str, Any]]:
    """The rows of a step whose problems have so many right samples of four."""
    return [row for i, num_right in enumerate(numbers) for row in group(f"p{i}", num_right, "text")]


def test_advantages_by_the_methods_own_part() -> None:
    rows = step(1)
    values, label = advantages(build("dr_grpo"), rows)
    assert values[1:] == [0.75, -0.25, -0.25, -0.25] and label == "centered (rollout)"
    values, label = advantages(build("grpo"), rows)  # the anchor's term is no advantage of rewards
    assert values[1:] == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-4) and label.startswith("standardized(")
    values, _ = advantages(build("rloo"), rows)
    assert values[1:] == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_advantages_of_several_terms_are_added_and_all_are_named() -> None:
    values, label = advantages(build("nft"), step(1))
    assert values[1:] == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert "right(" in label and " + wrong(" in label
    values, label = advantages(build("hpt", {"failed": "mixed"}), step(0))
    assert values == [2.0, None, None, None, None] and "one + reward (demonstration)" in label


def test_rows_that_did_not_train_have_no_advantage() -> None:
    values, _ = advantages(build("hpt"), step(0, 4))
    assert values == [1.0, None, None, None, None, None, 0.0, 0.0, 0.0, 0.0], "imitated, and all alike"


def test_a_demonstration_in_the_group_moves_the_mean() -> None:
    rows = [{**row, "kept": True} for row in step(1)]
    values, label = advantages(build("luffy"), rows)
    assert values == pytest.approx([0.6, 0.6, -0.4, -0.4, -0.4]) and "demonstration" in label


@pytest.mark.parametrize("method", ["ppo", None])
def test_without_reward_advantages_the_deviation_is_used(method: str | None) -> None:
    values, label = advantages(build(method) if method else None, step(1))
    assert values == [None, 0.75, -0.25, -0.25, -0.25] and label.startswith("reward minus the mean")


def test_a_users_file_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('the report ran a file that a configuration names')")
    run = read_run(write_run(tmp_path / "run", f"{trap}:mine"))
    assert stages(run) == () and pick(run, 0, 10**6).groups


def test_a_schedule_has_the_part_of_the_stage_that_trained(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "sft_then_rl", num_steps=2)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_lines(folder / "metrics.jsonl", [{**row, "lane": i} for i, row in enumerate(rows)])
    for number, kind in ((1, "demonstration"), (2, "rollout")):
        trained = [{**row, "kept": row["kind"] == kind} for row in step(2)]
        write_lines(folder / "samples" / f"step-{number:06d}.jsonl", trained)
    parts = [group["parts"] for group in pick(read_run(folder), 0, 10**6).groups]
    assert parts == ["one (demonstration)", "standardized(eps=1e-06) (rollout)"]


def test_steps_are_spread_evenly() -> None:
    assert spread(list(range(1, 301)), 4) == [1, 101, 200, 300] and spread([3, 5], 60) == [3, 5]


def test_the_first_problems_are_of_different_kinds() -> None:
    rows = step(4, 4, 0, 0, 2, 3)
    groups = [[(row, None) for row in rows[i : i + 5]] for i in range(0, len(rows), 5)]
    problems = [members[0][0]["problem"] for members in varied(groups)]
    assert problems[:3] == ["p4", "p2", "p0"] and sorted(problems) == [f"p{i}" for i in range(6)]


def test_groups_beyond_the_limit_are_omitted_evenly_and_counted(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", num_problems=4))
    everything = pick(run, 0, 10**7)
    assert len(everything.groups) == everything.read_groups == 48
    assert everything.omissions().startswith("48 of the 48 problems of 12 steps.")
    size = sum(map(num_bytes, everything.groups))
    part = pick(run, 0, size // 3)
    steps = [group["step"] for group in part.groups]
    assert sum(map(num_bytes, part.groups)) <= size // 3 and 12 < len(steps) < 20 and set(steps) == set(range(1, 13))
    assert f"{len(steps)} of the 48 problems" in part.omissions() and pick(run, 0, 0).groups == []


def test_bytes_are_those_of_the_page() -> None:
    entry = {"text": "<b>&\u4e2d"}
    assert num_bytes(entry) == len(str(island_of(entry)).encode()) + 1  # a space behind the colon


def test_no_completions(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for path in (folder / "samples").iterdir():
        path.unlink()
    assert "wrote no completions" in pick(read_run(folder), 0, 10**6).omissions()


def test_long_texts_keep_both_ends() -> None:
    text, was_cut = shortened("a" * MOST_CHARACTERS + "b" * 1000)
    assert was_cut and text.startswith("aaa") and text.endswith("bbb") and "1,000 characters omitted" in text
    assert shortened("short") == ("short", False)


def test_messages_are_a_prompt_too() -> None:
    assert prompt_text([{"role": "user", "content": "2+2"}]) == "[user] 2+2" and prompt_text(None) == ""


def test_trained_tokens_by_source() -> None:
    assert trained_tokens(step(0, 2)) == {"demonstrations": 3, "correct rollouts": 5 + 6, "wrong rollouts": 7 + 8}
