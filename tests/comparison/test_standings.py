"""The table from sample files that are made here: what is better, worse, or neither; a run that failed; the exports."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from obverse.comparison.export import as_csv, cost, latex, markdown, notes
from obverse.comparison.plan import Entry, Plan, make_plan
from obverse.comparison.run_trial import Result, chosen_rate
from obverse.comparison.standings import INSIDE, Standings, difference, standings
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import Layer
from obverse.runtime.run_dir import RunFolder
from obverse.types import to_json
from recipes import published, science

NUM = 40  # problems of a test
BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"  # where Python breaks lines, and JSON Lines do not
CHANCES = {"base": 0.2, "sft": 0.3, "grpo": 0.5, "hpt": 0.8, "luffy": 0.5}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Five policies that solve a share of every test, LUFFY's as GRPO's."""
    options = {"methods": "sft grpo hpt luffy", "budget": "9K", "seeds": 4, "learning_rates": "1e-4,1e-3"}
    options |= {"tests": "easy=arithmetic:1-2,hard=arithmetic:3,ood=arithmetic@ood", "k": "1,4"}
    options |= {"num_generations_test": 4, "output_dir": str(tmp_path)}
    comparison = make_plan(read(CompareConfig, [Layer("command line", options)], "see"))
    for test in comparison.tests:
        names = [f"{test.name}{BREAKS}{number}" for number in range(NUM)]
        text = "".join(to_json({"id": name}) + "\n" for name in names)
        RunFolder(tmp_path).write_text(f"problems/{test.name}.jsonl", text)
        for name, chance in CHANCES.items():
            for seed in comparison.seeds:
                for step in ("last", "best"):
                    dice = random.Random(f"{'grpo' if name == 'luffy' else name} {test.name} {seed}")
                    rows = [
                        {"problem": problem, "correct": [dice.random() < chance for _ in range(4)]} for problem in names
                    ]
                    path = comparison.figures_path(name, step, test.name, seed)
                    RunFolder(path.parent).write_text(path.name, "".join(to_json(row) + "\n" for row in rows))
    for trial in comparison.trials():
        score = {1e-4: 0.25, 1e-3: 0.5}.get(trial.rate or 0.0, 0.6)
        outcome = Result(trial.entry.name, trial.seed, trial.rate or 1e-3, trial.is_grid, 5, 9_100, 4e9, 2.0)
        outcome = Result(**{**asdict(outcome), "validation": {"0": 0.1, "3": 0.7, "5": score}, "last": 5, "best": 3})
        RunFolder(tmp_path / trial.folder).write_json("trial.json", asdict(outcome))
    return comparison


def verdicts(table: Standings, test: str = INSIDE) -> dict[str, str]:
    return {figure.entry: figure.verdict for figure in table.figures if (figure.test, figure.k) == (test, 1)}


def test_a_difference_is_called_one_only_where_it_is(plan: Plan) -> None:
    table = standings(plan)
    assert table.columns == ["easy", "hard", INSIDE, "ood"]
    assert verdicts(table) == {
        "base": "worse", "sft": "worse", "grpo": "best baseline", "hpt": "better", "luffy": "not distinguishable"
    }  # fmt: skip
    hpt = table.figure("hpt", "last", INSIDE, 1)
    assert hpt is not None and hpt.baseline == "grpo" and hpt.samples is None
    assert hpt.difference == pytest.approx(hpt.mean - table.figure("grpo", "last", INSIDE, 1).mean)
    assert hpt.difference_low > 0 and hpt.low < hpt.mean < hpt.high
    more = table.figure("hpt", "last", INSIDE, 4)
    assert more is not None and more.mean > hpt.mean and more.verdict == ""
    assert difference(plan, "hpt", "grpo", "best", INSIDE, 1).mean == pytest.approx(hpt.difference)


def test_sentences_name_both_sides(plan: Plan) -> None:
    lines = notes(standings(plan), columns=lambda name: name == INSIDE)
    assert len(lines) == 2 * 3 and not any(line.startswith("base") for line in lines)
    assert lines[2].startswith("luffy against grpo, in domain, last step: +0.0 points (+0.0 to +0.0), not disting")


def test_the_smallest_of_the_best_rates_is_taken_and_its_price_told(plan: Plan) -> None:
    trial = next(trial for trial in plan.trials() if not trial.is_grid)
    assert chosen_rate(plan, trial) == (True, 1e-3)
    (plan.root / plan.grid(trial.entry)[1].folder / "trial.json").unlink()
    assert chosen_rate(plan, trial) == (False, None)  # it waits
    row = standings(plan).entries[1]
    assert cost(row) == "2 runs, 18,200 tokens, 4 s (0.0001: 25.0, 0.001: 50.0; the best is at the edge)"
    wider = replace(row, grid=[*row.grid, {**row.grid[0], "rate": 1e-2}])
    assert cost(wider) == "3 runs, 27,300 tokens, 6 s (0.0001: 25.0, 0.001: 50.0, 0.01: 25.0)"


def test_a_run_that_failed_leaves_no_figure_and_is_told(plan: Plan) -> None:
    path = plan.root / "runs" / "hpt" / "seed-43" / "trial.json"
    path.write_text(json.dumps(asdict(Result("hpt", 43, 1e-3, False, failed="the gradient is not finite"))))
    table = standings(plan)
    assert table.figure("hpt", "last", "hard", 1) is None and "hpt" not in verdicts(table)
    text = markdown(table)
    assert "| [hpt](runs/hpt) | failed | failed | failed | failed |" in text
    assert "| hpt: failed | seed 43: the gradient is not finite |" in text
    assert "hpt & -- & -- & -- & --" in latex(table)
    assert len(as_csv(table).splitlines()) == 1 + 4 * 4 * 2 * 2  # entries, columns, steps, k


def test_published_shapes_are_held_against_the_figures(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (
        published.Shape("A", "0", "hpt", "sft"),
        published.Shape("B", "0", "sft", "hpt", "hard"),
        published.Shape("C", "0", "luffy", "grpo", "ood", 1),
        published.Shape("not compared", "0", "uft", "grpo"),
    )
    monkeypatch.setattr(published, "SHAPES", shapes)
    rows = [line.split(" | ") for line in published.table(plan).splitlines()[2:]]
    assert [row[-1].rstrip(" |") for row in rows] == ["yes", "reversed", "not distinguishable"]
    assert [row[2] for row in rows] == ["in domain, pass@1", "hard, pass@1", "ood, pass@4"]


def test_every_published_shape_is_of_entries_that_are_compared() -> None:
    names = {"base", *(Entry(text).name for text in science.METHODS)}
    assert {name for shape in published.SHAPES for name in (shape.first, shape.second)} <= names
