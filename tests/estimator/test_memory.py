"""Persistent numbers of methods: read before an update, updated after it, restored on resume; greedy answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.estimator import formula as estimator
from obverse.estimator.method import Method
from obverse.estimator.method_state import RUN, memory_values, update_memory
from obverse.estimator.tables import PartInputs, Samples
from obverse.runtime.checkpoint import load
from obverse.runtime.run_dir import RunFolder
from obverse.training import update as optimizer_step
from obverse.training.loop import train
from obverse.types import Group, Problem

KINDS = ("greedy", "rollout")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("remember") / "qwen2")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "reward.py").write_text("def lucky(problem, text):\n    return (len(text) + int(problem.id[-1])) % 2\n")
    return {"verifier": f"{tmp_path / 'reward.py'}:lucky"}


def method(name: str, **options: object) -> Method:
    made = methods.build(name, options)
    assert isinstance(made, Method)
    return made


def empty(*names: str) -> list[Group]:
    return [Group(Problem(name, "x"), []) for name in names]


def test_a_number_of_the_run_is_updated_by_all_observations() -> None:
    running = method("reinforce", baseline="running", momentum=0.5)
    store: dict[str, float] = {}
    groups = empty("a", "b", "c")
    assert memory_values(running, store, groups) == [0.0, 0.0, 0.0]
    update_memory(running, store, groups, [[1.0, 0.0], [], [0.5]])
    assert store == {RUN: 0.25}
    assert memory_values(running, store, groups) == [0.25] * 3
    update_memory(running, store, groups, [[], [], []])
    assert store == {RUN: 0.25}, "no observation, no change"


def test_a_number_per_problem_is_updated_by_that_problem() -> None:
    contrast = method("discriminative")
    store: dict[str, float] = {}
    update_memory(contrast, store, empty("a", "b", "c"), [[0.5, 0.5], [], [-1.0]])
    assert store == {"problem a": 0.5, "problem c": -1.0}
    assert memory_values(contrast, store, empty("c", "b", "a")) == [-1.0, 0.0, 0.5]


def test_a_method_without_a_memory_keeps_nothing() -> None:
    store: dict[str, float] = {}
    update_memory(method("grpo"), store, empty("a"), [[1.0]])
    assert store == {} and memory_values(method("grpo"), store, empty("a", "b")) is None


def test_a_running_mean_reads_what_was_before_its_update(
    tiny: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    given = {"baseline": "running", "momentum": 0.5, "max_steps": 3, **options}
    train(runs.config("reinforce", tmp_path / "run", tiny, problems, **given))
    known = 0.0
    for row in RunFolder(tmp_path / "run").metrics():
        known += 0.5 * (row["reward"] - known)
        assert row["memory"] == pytest.approx(known)
    assert load(tmp_path / "run" / "checkpoint-3").state["memory"] == {RUN: pytest.approx(known)}


def test_a_greedy_answer_is_graded_and_compared_with_and_never_trained(
    tiny: Path, tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Samples, int]] = []
    real = estimator.masked

    def spy(inputs: PartInputs, terms: object) -> object:
        seen.append((inputs.samples, len(inputs.tokens)))
        return real(inputs, terms)  # type: ignore[arg-type]

    monkeypatch.setattr(optimizer_step, "masked", spy)
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    given = {"baseline": "greedy", "num_generations": 2, "max_steps": 1, "micro_batch_tokens": 10**6, **options}
    train(runs.config("reinforce", tmp_path / "run", tiny, problems, **given))
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples" / "step-000001.jsonl").read_text().splitlines()]
    greedy = {row["problem"]: row["reward"] for row in rows if row["kind"] == "greedy"}
    own = [row for row in rows if row["kind"] == "rollout"]
    assert len(greedy) == 4 and set(greedy.values()) == {0.0, 1.0}
    assert [row["kept"] for row in rows] == [row["kind"] == "rollout" for row in rows]
    ((samples, num_tokens),) = seen
    assert samples.memory.tolist() == [greedy[row["problem"]] for row in own]
    assert samples.reward.tolist() == [row["reward"] for row in own]
    assert num_tokens == sum(len(row["ids"]) for row in own)
    (metrics,) = RunFolder(tmp_path / "run").metrics()
    assert metrics["num_tokens"] == num_tokens + sum(len(row["ids"]) for row in rows), "it was written, so it counts"
    assert metrics["reward"] == sum(row["reward"] for row in own) / 8, "the figures are of what was drawn"
    assert "memory" not in metrics and load(tmp_path / "run" / "checkpoint-1").state["memory"] == {}


def test_a_greedy_answer_is_the_likeliest_and_the_same_every_time(
    tiny: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl", 4)
    found = []
    for seed in (1, 2):
        given = {"baseline": "greedy", "max_steps": 1, "seed": seed, "learning_rate": 0.0, **options}
        train(runs.config("reinforce", tmp_path / str(seed), tiny, problems, **given))
        path = tmp_path / str(seed) / "samples" / "step-000001.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found.append({kind: {row["problem"]: row["ids"] for row in rows if row["kind"] == kind} for kind in KINDS})
    assert found[0]["greedy"] == found[1]["greedy"] and found[0]["rollout"] != found[1]["rollout"]


@pytest.mark.parametrize("variant", ["dft", "dft2"])
def test_numbers_of_problems_are_in_the_checkpoint(variant: str, tiny: Path, tmp_path: Path) -> None:
    """That a resumed run reads them: law 12 in exam/test_runs.py."""
    problems = runs.write_problems(tmp_path / "chains.jsonl", 6)
    options = {"variant": variant, "max_steps": 4, "save_steps": 1, "lr_scheduler_type": "constant"}
    train(runs.config("discriminative", tmp_path / "run", tiny, problems, **options))
    states = {step: load(tmp_path / "run" / f"checkpoint-{step}").state["memory"] for step in (3, 4)}
    assert len(states[3]) == 6 and all(value != 0 for value in states[3].values())
    moved = {name for name in states[4] if states[3][name] != states[4][name]}
    assert 3 <= len(moved) <= 4, "only the problems of a step move"


def test_an_adaptive_kl_moves_its_coefficient_after_every_update(
    tiny: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    given = {"kl_coef": 0.1, "kl_target": 1e-9, "kl_horizon": 100, "num_mini_batches": 2, "num_iterations": 2}
    train(runs.config("ppo", tmp_path / "run", tiny, problems, max_steps=2, **given, **options))
    rows = RunFolder(tmp_path / "run").metrics()
    # 12 samples a step in two mini batches; the policy is the anchor at first: the divergence is far below the target
    low, high = 1 - 0.2 * 6 / 100, 1 + 0.2 * 6 / 100
    factors = [rows[0]["memory"] / 0.1, rows[1]["memory"] / rows[0]["memory"]]
    steps = (low * low, low * high, high * high)
    assert all(any(abs(factor - each) < 1e-3 for each in steps) for factor in factors), factors
    assert factors[1] != 1.0
