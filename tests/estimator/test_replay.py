"""The store of own right samples: what enters, what leaves, and what a step takes."""

from __future__ import annotations

from collections import Counter

import pytest

from obverse import methods
from obverse.estimator.method import Method
from obverse.estimator.parts import Request
from obverse.estimator.replay import Replay, Store, stored_samples
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def group(name: str, *texts: str) -> Group:
    """A group with a rollout per text; those that begin with R are right."""
    samples = [
        Sample(
            "rollout",
            ModelInput((1, 2)),
            [3, number],
            [Source.ROLLOUT] * 2,
            [-0.5, -0.1 * number],
            text,
            grade=GradeResult.passed() if text.startswith("R") else GradeResult.failed("wrong"),
        )
        for number, text in enumerate(texts)
    ]
    return Group(Problem(name, "?", answer="1"), samples)


def test_right_samples_of_mixed_groups_enter_once_by_text_and_solved_problems_leave_for_good() -> None:
    replay = Replay(4)
    store = replay.updated({}, [group("a", "R1", "R1", "R2", "w"), group("b", "w", "w"), group("c", "R", "R")], 0)
    assert [record["text"] for record in store["problems"]["a"]["samples"]] == ["R1", "R2"]
    assert store["problems"]["a"]["num_right"] == 3
    assert {*store["problems"]} == {"a"} and store["retired"] == ["c"] and store["begun"]
    again = replay.updated(store, [group("a", "R3", "w"), group("c", "R", "w")], 1)
    assert [record["text"] for record in again["problems"]["a"]["samples"]] == ["R1", "R2", "R3"]
    assert again["problems"]["a"]["num_right"] == 1 and "c" not in again["problems"]
    assert replay.updated(again, [group("a", "R", "R")], 2)["problems"] == {}
    assert store["problems"]["a"]["num_right"] == 3  # a new value each time


def test_the_newest_samples_are_kept() -> None:
    replay, store = Replay(4, most=2), {}
    for step in range(4):
        store = replay.updated(store, [group("a", f"R{step}", "w")], step)
    records = store["problems"]["a"]["samples"]
    assert [(record["text"], record["step"]) for record in records] == [("R2", 2), ("R3", 3)]


def test_a_step_takes_a_share_of_its_problems_once_replay_has_begun() -> None:
    replay = Replay(8, start=0.35)
    few = replay.updated({}, [group(str(i), "R", *"www") for i in range(6)], 0)
    assert not few["begun"] and replay.choose(few, 8, 1, ()) == []
    store = replay.updated(few, [group("x", "R", "R", "w")], 1)
    chosen = replay.choose(store, 8, 2, {"0", "x"})
    assert len(chosen) == len({*chosen}) == 4 and not {*chosen} & {"0", "x"}
    assert chosen == replay.choose(store, 8, 2, {"0", "x"}) and len(replay.choose(store, 100, 2, ())) == 7


def test_problems_that_are_solved_half_of_the_time_come_most_often() -> None:
    store: Store = {"begun": True, "problems": {}, "retired": []}
    for num_right in range(1, 8):
        store["problems"][str(num_right)] = {"num_right": num_right, "samples": [{}]}
    counts = Counter(name for step in range(2000) for name in Replay(8).choose(store, 2, step, ()))
    density = {name: 2.718281828 ** (-((int(name) - 4) ** 2) / 2) for name in store["problems"]}
    for name, weight in density.items():
        assert counts[name] / 2000 == pytest.approx(weight / sum(density.values()), abs=0.03)


def test_a_stored_sample_is_the_rollout_that_it_was() -> None:
    rollouts = group("a", "R1", "w")
    store = Replay(4).updated({}, [rollouts], 5)
    (sample,) = stored_samples(store, rollouts.problem, ModelInput((1, 2)))
    first = rollouts.samples[0]
    assert (sample.ids, sample.behavior, sample.text, sample.reward) == (first.ids, first.behavior, first.text, 1.0)
    assert sample.kind == "replayed" and sample.sources == [Source.REPLAYED] * 2 and sample.weights == 5
    figures = Replay.figures(store, [Group(rollouts.problem, [sample])], 7)
    assert figures["replay/staleness"] == 2 and figures["replay/samples"] == 1


def test_a_replay_and_terms_on_replayed_tokens_need_each_other() -> None:
    method = methods.build("exgrpo")
    assert isinstance(method, Method)
    with pytest.raises(ValueError, match="replay"):
        Method(ask=Request(4), terms=method.terms)
    with pytest.raises(ValueError, match="replay"):
        Method(ask=Request(4), terms=method.terms[:1], replay=Replay(4))
