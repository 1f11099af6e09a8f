"""Two models on the same problems, and several as seeds of one method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from obverse.errors import ConfigError
from obverse.evaluation.bootstrap import nested_interval, paired
from obverse.evaluation.paired import compare, over_seeds, write_pair
from obverse.evaluation.report import Report, Score

NUM = 4


def report(name: str, *num_correct: int, k: tuple[int, ...] = (1, 2)) -> Report:
    scores = [Score(f"p{i}", "", NUM, c, 0, NUM, 0) for i, c in enumerate(num_correct)]
    return Report(f"{name} on arithmetic", scores, k)


def test_the_difference_is_second_minus_first_with_problems_gained_and_lost() -> None:
    pair = compare(report("a", 4, 2, 0, 0, 1), report("b", 4, 4, 1, 0, 0))
    assert pair.gained == ["p2"] and pair.lost == ["p4"]
    found = pair.differences["avg@4"]
    assert found == paired([1.0, 1.0, 0.25, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0, 0.25]) and found.mean == 0.1
    assert pair.values["avg@4"] == (pytest.approx(0.35), pytest.approx(0.45))
    assert set(pair.differences) == {"avg@4", "pass@1", "pass@2"} and not found.distinguishable


def test_figures_that_only_one_has_are_left_out_and_other_problems_refused() -> None:
    other = report("b", 1, 1)
    assert set(compare(report("a", 1, 1, k=(1,)), other).differences) == {"avg@4", "pass@1"}
    with pytest.raises(ConfigError, match="same problems"):
        compare(report("a", 1), other)
    moved = replace(other, scores=[replace(score, problem=score.problem + "x") for score in other.scores])
    with pytest.raises(ConfigError, match="not the same problems"):
        compare(report("a", 1, 1), moved)


RESULT = {"name": "x", "num_samples": 4, "seeds": [1], "k": [1], "model": {"name": "m"}, "problems": []}


def test_a_pair_is_stored_beside_the_second(tmp_path: Path) -> None:
    first, second = (
        replace(report(name, *c), path=tmp_path / name / "arithmetic" / "result.json")
        for name, c in (("a", [0, 0]), ("b", [4, 4]))
    )
    for each, params in ((first, {"temperature": 1.0, "top_p": 1.0}), (second, {"temperature": 0.6, "top_p": 1.0})):
        assert each.path is not None
        each.path.parent.mkdir(parents=True)
        each.path.write_text(json.dumps(RESULT | {"law": params}))
    pair = write_pair(compare(first, second), first, second)
    assert pair.notes == ("not sampled alike: temperature 1.0 and 0.6",)
    assert pair.path == tmp_path / "b" / "paired-arithmetic-a.json"
    found = json.loads(pair.path.read_text())
    assert found["gained"] == ["p0", "p1"] and found["lost"] == []
    row = {"first": 0.0, "second": 1.0, "difference": 1.0, "low": 1.0, "high": 1.0, "distinguishable": True}
    assert found["metrics"]["avg@4"] == row


def test_models_as_seeds_are_one_report_over_seeds() -> None:
    reports = [report("a", 4, 0, 2), report("b", 2, 0, 1)]
    found = over_seeds(reports)
    table = [[1.0, 0.0, 0.5], [0.5, 0.0, 0.25]]
    assert found.summary()["all"]["interval"] == list(nested_interval(table, bounds=(0, 1)))
    assert found.name == "2 models as seeds on arithmetic"
    with pytest.raises(ConfigError, match="same problems"):
        over_seeds([report("a", 1), report("b", 1, 1)])
