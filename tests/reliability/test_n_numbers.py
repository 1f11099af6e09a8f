"""N1 to N6: what is no number never reaches a weight, and each degenerate batch does what docs/reliability.md says.

N1 (the same seed twice) and N3 (any split, any path) are tests/exam/test_runs.py, N4 (every loss against its literal)
tests/exam/test_formula.py, N6 (the first ratio is 1) tests/training/test_loop.py and tests/inference; N2 needs ranks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exam.batches import groups, method_stages, numbers, stage
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny

import obverse.training.loop as loop
import obverse.training.update as learn
import runs
from obverse.errors import ConfigError, DivergedError, GraderError
from obverse.estimator.formula import coefficient
from obverse.estimator.tables import PartInputs, PolicyOutputs
from obverse.inference import sampling_params
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train
from obverse.training.optimizer import Optimizer, StepResult
from obverse.training.setup import prepare


def rewards(tmp_path: Path, body: str) -> str:
    """A reward function of that body, over `text`, as an option."""
    file = tmp_path / "reward.py"
    file.write_text(f"def reward(problem, text):\n    return {body}\n")
    return f"{file}:reward"


LUCKY = "len(text) % 2"  # a random model solves nothing: half of its answers count as right


# N5: what is no number never reaches a weight


class PoisonedSecond(Silent):
    """Lets the first update pass and gives the second a poison; keeps the weights as they were between the two."""

    def __init__(self, poison: Callable[[], None]) -> None:
        self.poison = poison

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        if step == 1:
            self.poison()


def methods_and_numbers() -> Iterator[Any]:
    """Each method with one number that is not finite, and slow with the others."""
    numbers = (math.nan, math.inf, -math.inf)
    for first, method in enumerate(("sft", "grpo", "ppo")):
        for index, bad in enumerate(numbers):
            yield pytest.param(method, bad, marks=() if index == first else pytest.mark.slow)


@pytest.mark.parametrize("place", ["loss", "a constant of the loss", "log-probs", "one gradient"])
@pytest.mark.parametrize(("method", "bad"), [*methods_and_numbers()])
def test_n5_a_poisoned_update_is_not_taken_and_three_in_a_row_end_the_run(
    method: str, place: str, bad: float, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_loss, real_forward, real_step = learn.loss, learn.forward, Optimizer.step

    def poison() -> None:
        if place == "loss":
            monkeypatch.setattr(learn, "loss", lambda *args: real_loss(*args) * bad)
        elif place == "a constant of the loss":  # its gradient is as finite as before
            monkeypatch.setattr(learn, "loss", lambda *args: real_loss(*args) + bad)
        elif place == "log-probs":

            def forward(*args: Any, **options: Any) -> PolicyOutputs:
                outputs = real_forward(*args, **options)
                return outputs._replace(logp=outputs.logp + bad)

            monkeypatch.setattr(learn, "forward", forward)
        else:

            def step(optimizer: Optimizer, *args: Any) -> StepResult:
                gradient = optimizer.named[0][1].grad
                assert gradient is not None
                gradient.view(-1)[0] = bad
                return real_step(optimizer, *args)

            monkeypatch.setattr(Optimizer, "step", step)

    options = {"max_steps": 9, "save_steps": 1, "verifier": rewards(tmp_path, LUCKY)}
    with pytest.raises(DivergedError, match=r"step 4: .*checkpoint-3") as end:
        train(runs.config(method, tmp_path / "run", tiny, problems, **options), PoisonedSecond(poison))
    assert end.value.exit_code == 5
    first, last = (load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors") for step in (2, 3))
    assert all(torch.equal(value, last[name]) for name, value in first.items())
    assert [row["step_taken"] for row in RunFolder(tmp_path / "run").metrics()] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_n5_a_weight_that_is_no_number_is_never_saved(method: str, tiny: Path, problems: Path, tmp_path: Path) -> None:
    run: list[Any] = []
    options = {"max_steps": 9, "save_steps": 1, "save_total_limit": 9, "verifier": rewards(tmp_path, LUCKY)}

    class Poison(Silent):
        def banner(self, facts: object) -> None:
            run.append(prepared[-1])

        def step(self, step: int, total_steps: int, metrics: object) -> None:
            if step == 2:
                with torch.no_grad():
                    next(iter(run[0].learner.policy.model.parameters()))[0, 0] = math.inf

    prepared: list[Any] = []
    real = loop.prepare

    def noted(*args: Any) -> Any:
        prepared.append(real(*args))
        return prepared[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", noted)
        with pytest.raises(DivergedError, match=r"not finite.*checkpoint-1"):
            train(runs.config(method, tmp_path / "run", tiny, problems, **options), Poison())
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]


def test_n5_a_model_whose_logits_are_no_numbers_ends_the_run_before_it_learns(problems: Path, tmp_path: Path) -> None:
    poisoned = save_tiny("qwen2", tmp_path / "poisoned")
    weights = load_file(poisoned / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DivergedError, match="step 1: the model's logits"):
        train(runs.config("grpo", tmp_path / "run", poisoned, problems, max_steps=2))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-float('inf')", "'high'", "[1.0]", "{}"])
def test_n5_a_reward_that_is_no_number_is_an_error_of_the_grader(
    value: str, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    with pytest.raises(GraderError) as end:
        train(runs.config("grpo", tmp_path / "run", tiny, problems, max_steps=1, verifier=rewards(tmp_path, value)))
    assert end.value.exit_code == 9 and "no checkpoint was saved yet" in str(end.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# Degenerate batches


@pytest.mark.parametrize("method", ["raft", "dapo"])  # both keep nothing of a problem that nobody solved
def test_an_update_with_nothing_to_train_on_leaves_the_weights(
    method: str, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 3, "save_steps": 1, "save_total_limit": 9, "verifier": rewards(tmp_path, "0.0")}
    train(runs.config(method, tmp_path / "run", tiny, problems, **options))
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["step_taken"] for row in rows] == [0.0, 0.0, 0.0] and all("loss" not in row for row in rows)
    before = load_file(tiny / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(("reward", "beta", "moves"), [("0.5", 0.0, False), ("0.0", 0.0, False), ("0.5", 0.5, True)])
def test_equal_rewards_move_nothing_but_what_the_anchor_moves(
    reward: str, beta: float, moves: bool, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """With a KL to the initial model its gradient is all there is; at the first step that is zero too."""
    other = save_tiny("qwen2", tmp_path / "other", seed=1) if moves else tiny
    options = {"max_steps": 1, "beta": beta, "verifier": rewards(tmp_path, reward)}
    options |= {"anchor_model": str(other)} if moves else {}
    train(runs.config("grpo", tmp_path / "run", tiny, problems, **options))
    before = load_file(tiny / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert any(not torch.equal(value, before[name]) for name, value in after.items()) == moves
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])


@pytest.mark.parametrize("method", ["grpo", "rloo", "dr_grpo", "gspo", "dapo"])
def test_a_group_of_one_is_refused_before_a_model_is_read(method: str, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a group of one"):
        train(runs.config(method, tmp_path / "run", "embedded", problems, num_generations=1))
    assert not (tmp_path / "run").exists()


def test_a_model_that_never_stops_is_cut_off_and_trained_as_it_is(tiny: Path, problems: Path, tmp_path: Path) -> None:
    """The limit is the option's; a cut completion gets no end-of-text token, and its finish says `length`."""
    endless = tmp_path / "endless"
    save_tiny("qwen2", endless)
    config = json.loads((endless / "generation_config.json").read_text())
    options = {"max_steps": 1, "verifier": rewards(tmp_path, LUCKY)}
    train(runs.config("grpo", tmp_path / "run", endless, problems, max_completion_length=7, **options))
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples" / "step-000001.jsonl").read_text().splitlines()]
    cut = [row for row in rows if row["finish"] == "length"]
    stops = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    assert cut and all(len(row["ids"]) == 7 and row["ids"][-1] not in stops for row in cut)
    assert all(len(row["ids"]) <= 7 for row in rows)


def test_sampling_that_takes_too_long_is_cut_off(tiny: Path, problems: Path, tmp_path: Path) -> None:
    config = runs.config(
        "grpo", tmp_path / "run", tiny, problems, max_completion_length=4000, max_sampling_seconds=0.05
    )
    run = prepare(config, SignalWatcher(Silent()))
    params = sampling_params(config, run.collector.renderer.stop_ids)
    assert params.max_tokens == 4000
    made = run.collector.collect(run.problems[:2], run.method, 0, 0.0)
    assert all(sample.finish == "length" for group in made for sample in group.samples if len(sample.ids) > 500)
    assert all(len(sample.ids) < 4000 for group in made for sample in group.samples)


@pytest.mark.parametrize("name", method_stages())
@pytest.mark.parametrize("gap", [200.0, -200.0, 5000.0, -5000.0])
def test_a_log_ratio_beyond_every_float_gives_a_finite_coefficient(name: str, gap: float) -> None:
    method = stage(name)
    data = numbers(groups(2), method)
    assert data is not None
    logp = torch.full_like(data.logp, -0.1 if gap > 0 else gap - 0.1).float()
    other = logp - gap if gap > 0 else torch.full_like(logp, -0.1)
    samples = replace(data.samples, reward=data.samples.reward.float(), memory=data.samples.memory.float())
    tokens = replace(data.tokens, behavior=other, anchor=other, teacher=other)
    inputs = PartInputs(tokens, samples, PolicyOutputs(logp, torch.ones_like(logp), torch.ones_like(logp)))
    assert all(torch.isfinite(coefficient(inputs, method.terms, on)).all() for on in method.streams)
