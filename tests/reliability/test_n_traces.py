"""N7: the first steps of every method are the stored ones; twenty in `make test-all`, a hundred before a release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from mechanisms import representatives_first
from reliability.traces import FIGURES, FOLDER, LONG, SHORT, machine, sharp, trace

from obverse import methods
from obverse.estimator.schedule import InOrder, as_schedule

SAME = 1e-6  # on the machine class that made the trace: what the bar asks for; equal bits are what is found
# On another one kernels round otherwise. Nothing has been trained on yet when the first step is counted, so it is
# nearly the same everywhere, unless a sampled token differs; later steps drift, and their mean stays near.
FIRST, MEAN = 1e-3, 0.25


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp(tmp_path_factory.mktemp("traces") / "sharp")


def stored(method: str) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = json.loads((FOLDER / f"{method}.json").read_text())
    return found


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference, absolute below 1 and relative above."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(first, second, strict=True))


def compare(method: str, num_steps: int, root: Path, model: Path, stop_after: int | None = None) -> None:
    """On the machine class of the trace every figure of every step; on another the first, and the means."""
    expected, actual = stored(method), trace(method, num_steps, root, model, stop_after)
    rows, is_same_machine = expected[str(num_steps)], expected["made_on"] == machine()
    num_rows = stop_after or num_steps
    for name in FIGURES:
        assert len(actual[name]) == num_rows
        row = rows[name][:num_rows]
        if is_same_machine:
            assert apart(actual[name], row) <= SAME, name
            continue
        assert apart(actual[name][:1], row[:1]) <= FIRST, f"{name}, made on {expected['made_on']}"
        size = sum(map(abs, row)) / num_rows
        assert abs(sum(actual[name]) - sum(row)) / num_rows <= MEAN * max(1.0, size), name


RARELY_REWARDED = {"srl"}  # few texts of a random model share a character with a step


def num_first_steps(method: str) -> int:
    """Of twenty: a few of each stage."""
    selector = as_schedule(methods.build(method)).selector
    return int(SHORT * selector.first) + 2 if isinstance(selector, InOrder) else 4


@pytest.mark.parametrize("method", representatives_first(methods.names()))
def test_n7_the_first_steps_are_the_stored_ones(method: str, model: Path, tmp_path: Path) -> None:
    compare(method, SHORT, tmp_path, model, stop_after=num_first_steps(method))


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.names())
def test_n7_twenty_steps_are_the_stored_ones(method: str, model: Path, tmp_path: Path) -> None:
    compare(method, SHORT, tmp_path, model)


@pytest.mark.release
@pytest.mark.parametrize("method", methods.names())
def test_n7_a_hundred_steps_are_the_stored_ones(method: str, model: Path, tmp_path: Path) -> None:
    compare(method, LONG, tmp_path, model)


def test_n7_every_method_has_a_trace_that_moves_and_no_trace_is_left_over() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(methods.names())
    for method in methods.names():
        for num in (SHORT, LONG):
            kept = stored(method)[str(num)]
            assert all(len(kept[name]) == num for name in FIGURES)
            share = 1 / 10 if method in RARELY_REWARDED else 1 / 2
            assert sum(value > 0 for value in kept["grad_norm"]) >= share * num, method
