"""Coverage: who solves what in k tries, with numbers that can be counted on fingers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.analysis.coverage import Counts, compare, crossover, sentence, stored_counts
from obverse.errors import ConfigError, DamageError

BASE = Counts("base", {"easy": (8, 6), "hard": (8, 1), "never": (8, 0), "rare": (8, 1)})
SHARP = Counts("sharp", {"easy": (8, 8), "hard": (8, 0), "never": (8, 2), "rare": (8, 0), "other": (8, 8)})


def test_curves_and_problems() -> None:
    result = compare([BASE, SHARP])
    assert result.num_problems == 4
    assert list(result.curves[0].mean) == [1, 2, 4, 8]
    assert result.curves[0].mean[1] == pytest.approx((6 + 1 + 1) / 32)
    assert result.curves[1].mean[8] == pytest.approx(0.5)
    # 1 - C(6, 2) / C(8, 2) of the problem with two right ones, and all of the easy one
    assert result.curves[1].mean[2] == pytest.approx((1 + 1 - 15 / 28) / 4)
    low, high = result.curves[0].interval[1]
    assert low <= result.curves[0].mean[1] <= high
    (against,) = result.against
    assert (against.gained, against.lost) == (["never"], ["hard", "rare"])
    assert (against.able, against.kept, against.forgotten) == (1, pytest.approx(0.25), [])
    assert json.dumps(result.plain(), allow_nan=False)


def test_crossover() -> None:
    names = ["easy", "hard", "never", "rare"]
    behind = [k for k in range(1, 9) if sum(BASE.pass_at(k, names)) >= sum(SHARP.pass_at(k, names))]
    assert crossover(BASE, SHARP, names, [1, 2, 4, 8]) == crossover(BASE, SHARP, names, [1, 8]) == behind[0] > 1
    assert crossover(SHARP, BASE, names, [1, 2, 4, 8]) == 1
    always = Counts("always", dict.fromkeys(names, (8, 8)))
    assert crossover(BASE, always, names, [1, 2, 4, 8]) is None


def test_words() -> None:
    worse = Counts("worse", {"easy": (4, 1), "hard": (4, 0), "never": (4, 0), "rare": (4, 0)})
    (against,) = compare([BASE, worse]).against
    assert against.forgotten == ["easy"] and against.crossover == 1
    assert sentence(against, "base").startswith("worse is not above base at k = 1; gained 0; lost 2 (hard, rare)")


def test_nothing_in_common() -> None:
    with pytest.raises(ConfigError, match="no problem in common"):
        compare([BASE, Counts("x", {"elsewhere": (8, 1)})])


def test_stored(tmp_path: Path) -> None:
    rows = [{"problem": "p", "num_samples": 4, "num_correct": number, "round": number} for number in (1, 2)]
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"name": "arithmetic", "model": {"name": "m"}, "problems": rows}))
    assert stored_counts(file) == Counts("m on arithmetic", {"p": (8, 3)})
    file.write_text("{}")
    with pytest.raises(DamageError, match="obverse eval"):
        stored_counts(file)
    with pytest.raises(DamageError, match="cannot be read"):
        stored_counts(tmp_path / "nothing.json")
