"""Laws of whole runs: 10, 11 and 12, of which the last has every method's same seed twice in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exam.batches import method_stages
from mechanisms import REPRESENTATIVES, mechanisms, representatives_first
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.config.resolve import resolve
from obverse.config.yaml_file import read, write
from obverse.estimator.formula import loss
from obverse.estimator.method_state import memory_values
from obverse.estimator.schedule import as_schedule
from obverse.models.batch import pack
from obverse.models.load import load, load_scalar
from obverse.models.policy import Policy
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.divergence_target import comparison_of
from obverse.training.loop import train
from obverse.training.metrics import PhaseTimer
from obverse.training.prepared_update import PromptReaders, prepare_updates
from obverse.training.rollout_phase import Rollouts
from obverse.training.setup import prepare
from obverse.training.streams import forward
from obverse.training.teacher_scores import score_rollouts
from obverse.training.whole_update import whole_update
from obverse.types import Source

NAMES = methods.names()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("exam") / "qwen2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("exam") / "chains.jsonl")


def test_the_representatives_use_every_mechanism() -> None:
    everything = {mechanism for name in NAMES for mechanism in mechanisms(name)}
    assert everything == {mechanism for name in REPRESENTATIVES for mechanism in mechanisms(name)}
    assert len(everything) > 15


@pytest.mark.parametrize("name", NAMES)
def test_law_10_options_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    make = methods.find(name)
    changed = {key: 7 for key, parameter in methods.parameters(make).items() if parameter.annotation is int}
    first = resolve(name, make, {**changed, "learning_rate": 3e-5, "seed": 5})
    path = tmp_path / "config.yaml"
    path.write_text(write(first))
    second = resolve(name, make, {}, read(path))
    assert second.model_dump() == first.model_dump()
    assert methods.build(name, second.method_options) == methods.build(name, first.method_options)


@pytest.mark.parametrize("name", representatives_first(method_stages()))
def test_law_11_micro_batches_and_chunks_do_not_change_a_gradient(
    name: str, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, number = name.partition(":")
    config = runs.config(base, tmp_path / "run", tiny, problems, dtype="float32", **runs.short_run(base))
    run = prepare(config, SignalWatcher(Silent()))
    learner = run.learners[int(number or 0)]
    method, model = learner.method, learner.policy.model.double()
    networks = [model] + ([learner.critic.model.double()] if learner.critic else [])
    groups = run.collector.collect(run.problems[:4], method, 0, 0.0)
    run.collector.grade(groups)
    for group in groups:  # a random model solves nothing: let every second answer of its own count as right
        for sample in group.of("rollout")[::2] if Source.ROLLOUT in method.sources else []:
            sample.grade = type(sample.grade).passed()
    kept, memories = [method.select(group) for group in groups], memory_values(method, {}, groups)
    score_rollouts(run, int(number or 0), Rollouts(groups, kept), PhaseTimer())
    update = pack(kept, method.sources, 1.0, memories, "score" in method.streams)
    assert update is not None

    def gradient(budget: int, head: bool) -> torch.Tensor:
        for network in networks:
            network.zero_grad()
        policy = learner.policy if head else Policy(model, head=None, entropy_top_k=learner.policy.entropy_top_k)
        table = learner.table and learner.table.double()
        each = replace(learner, policy=policy, micro_batch_tokens=budget, table=table)
        (made,) = prepare_updates(each, [update], is_repeated=True)
        assert made is not None
        readers, update_outputs = PromptReaders(each), whole_update(each, made, 0.0)
        of_update = None if update_outputs is None else update_outputs.inputs
        for micro in made.micros:
            outputs = forward(each, micro, readers.policy, comparison=comparison_of(each, micro, readers))
            streams = {"value": outputs.value, "divergence": outputs.divergence, "update": of_update}
            loss(micro.tokens, made.samples, outputs.logp, outputs.entropy, method.terms, **streams).backward()
        readers.policy.finish()
        parameters = [parameter for network in networks for parameter in network.parameters()]
        return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])

    plain = gradient(10**9, head=False)
    assert plain.abs().max() > 0
    tiny_part = 1e-6 * float(plain.abs().max())
    for budget in (1, 90, 10**9):
        torch.testing.assert_close(gradient(budget, head=True), plain, rtol=1e-5, atol=tiny_part)
    monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", 3000)
    torch.testing.assert_close(gradient(10**9, head=True), plain, rtol=1e-5, atol=tiny_part)


def saved_state(folder: Path, step: int) -> dict[str, object]:
    """A checkpoint's state without the size of metrics.jsonl, which has seconds in it."""
    state = json.loads((folder / f"checkpoint-{step}" / "state.json").read_text())
    return {name: value for name, value in state.items() if name != "metrics"}


def assert_law_12(method: str, tiny: Path, problems: Path, root: Path, **updates: int) -> None:
    """A run that stops after step 2, and goes on from checkpoint 1, against one that nothing stopped."""
    whole, halves = root / "whole", root / "halves"
    # 4 x 7 problems cross an epoch
    options = {"max_steps": 4, "lr_scheduler_type": "linear", "save_steps": 2, "prompts_per_step": 7, **updates}
    options |= runs.short_run(method)
    train(runs.config(method, whole, tiny, problems, **options))

    class StopAfterTwo(Silent):
        def step(self, step: int, total_steps: int, metrics: object) -> None:
            if step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(runs.config(method, halves, tiny, problems, **(options | {"save_steps": 1})), StopAfterTwo())
    assert [path.name for path in halves.glob("checkpoint-*")] == ["checkpoint-1"]
    train(runs.config(method, halves, tiny, problems, resume_from_checkpoint="auto", **options))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert runs.fingerprint(halves, 4)[name] == runs.fingerprint(whole, 4)[name]
    assert saved_state(halves, 4) == saved_state(whole, 4)
    assert runs.figures(halves) == runs.figures(whole)
    reader = load if as_schedule(methods.build(method)).stages[0].method.trains_policy else load_scalar
    assert reader(str(halves / "checkpoint-4"))[1].vocab_size > 0


# reft is stopped and resumed around its switch in tests/training/test_stages.py.
# resuming has nothing of its own to restore for hints, pairs and prefixes
@pytest.mark.parametrize(
    "name", representatives_first(NAMES, without={"reft", "una", "hint_stages", "upft", "trapo", "exgrpo"})
)
def test_law_12_a_resumed_run_equals_an_uninterrupted_one(
    name: str, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """Both runs begin with the same seed in different folders: that this gives the same bits is a part of it."""
    assert_law_12(name, tiny, problems, tmp_path, num_iterations=2, num_mini_batches=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_law_12_with_one_update_a_step(name: str, tiny: Path, problems: Path, tmp_path: Path) -> None:
    assert_law_12(name, tiny, problems, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "grpo", "hpt"])
def test_fifty_steps_of_the_same_seed_have_the_same_bits(name: str, tiny: Path, problems: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        train(runs.config(name, tmp_path / folder, tiny, problems, max_steps=50, log_completions=False))
    first, second = (runs.fingerprint(tmp_path / folder, 50) for folder in ("first", "second"))
    assert first["model.safetensors"] == second["model.safetensors"]
    assert first["optimizer.safetensors"] == second["optimizer.safetensors"]
    assert runs.figures(tmp_path / "first") == runs.figures(tmp_path / "second")


def test_another_seed_gives_another_run(tiny: Path, problems: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(runs.config("hpt", tmp_path / str(seed), tiny, problems, max_steps=2, seed=seed))
    assert (
        runs.fingerprint(tmp_path / "1", 2)["model.safetensors"]
        != runs.fingerprint(tmp_path / "2", 2)["model.safetensors"]
    )
