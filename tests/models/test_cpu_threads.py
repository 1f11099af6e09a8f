"""Threads are chosen by what was measured, and a small model's are not measured at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from obverse.models import cpu_threads as pace
from obverse.models.cpu_threads import Throughput, best, best_threads, candidates, measure, shapes
from obverse.models.load import load


def throughputs(*rates: float) -> list[Throughput]:
    return [Throughput(2**power, "float32", rate) for power, rate in enumerate(rates)]


def test_more_threads_must_be_worth_it() -> None:
    assert best(throughputs(100, 190, 350)) == 4
    assert best(throughputs(100, 190, 200)) == 2
    assert best(throughputs(100, 60, 40)) == 1
    assert best(throughputs(100, 110)) == 1


def test_slower_with_two_and_faster_with_four() -> None:
    assert best(throughputs(100, 90, 200)) == 4


def test_candidates_end_with_all_cores() -> None:
    assert candidates(1) == [1] and candidates(2) == [1, 2] and candidates(6) == [1, 2, 4, 6]
    assert candidates(16) == [1, 2, 4, 8, 16]


def test_a_small_model_has_one_thread_unmeasured(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "num_cores", lambda: 4)
    monkeypatch.setattr(pace, "measure", lambda *given: pytest.fail("measured"))
    assert best_threads(load(str(tiny_dir))[0].model) == 1


def test_a_larger_model_has_what_was_measured_for_its_type(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(of: list[tuple[int, int]], dtypes: tuple[str, ...]) -> list[Throughput]:
        asked.append((of, dtypes))
        return throughputs(100, 190)

    monkeypatch.setattr(pace, "SMALL_MODEL", 10)
    monkeypatch.setattr(pace, "num_cores", lambda: 2)
    monkeypatch.setattr(pace, "measure", measured)
    model = load(str(tiny_dir), "bfloat16")[0].model
    assert best_threads(model) == 2 and asked == [(shapes(model), ("bfloat16",))]


def test_the_shapes_are_those_of_most_work() -> None:
    layers = [torch.nn.Linear(8, 4), torch.nn.Linear(8, 4), torch.nn.Linear(7, 8), torch.nn.Linear(3, 3)]
    assert shapes(torch.nn.ModuleList(layers)) == [(4, 8), (8, 7)]
    assert shapes(torch.nn.Embedding(5000, 2)) == [(pace.MAX_SIDE, 2)]


def test_every_number_of_threads_and_type_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "num_cores", lambda: 2)
    before, used = torch.get_num_threads(), []
    monkeypatch.setattr(pace, "rate", lambda states, matrix, seconds: used.append(torch.get_num_threads()) or 2.0)
    found = measure([(4, 8), (2, 2)], ("float32", "bfloat16"), 0.0)
    assert found == [Throughput(n, dtype, 2.0) for dtype in ("float32", "bfloat16") for n in (1, 2)]
    assert used == [1, 1, 2, 2] * 2 and torch.get_num_threads() == before


def test_a_rate_is_operations_by_seconds() -> None:
    states, matrix = pace.operands((4, 8), torch.float32)
    assert states.shape == (pace.NUM_TOKENS, 8) and matrix.shape == (4, 8)
    assert 0 < pace.rate(states, matrix, 0.0) < 1e15
