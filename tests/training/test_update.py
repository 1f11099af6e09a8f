"""Several updates on one collection: the samples' numbers are those of the policy that drew them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_models import save_tiny

import runs
from obverse.config.train import TrainConfig
from obverse.estimator.tables import Samples, Tokens
from obverse.runtime.callbacks import Phase, Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training import update as module
from obverse.training.loop import train, train_step
from obverse.training.metrics import PhaseTimer
from obverse.training.rollout_phase import Rollouts, collect_rollouts
from obverse.training.run import Run
from obverse.training.setup import prepare

METHOD = """
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import Behavior, Centered, Clip, One, PerToken, Request, TowardsAnchor
from obverse.types import Source

def mine(num_generations: int = 3) -> Method:
    normalizer = PerToken((Source.ROLLOUT, Source.DEMONSTRATION))
    terms = (
        Term(Source.ROLLOUT, Centered(), Behavior(), Clip(0.001, 0.001), normalizer=normalizer),
        Term(Source.ROLLOUT, TowardsAnchor(), normalizer=normalizer),
        Term(Source.DEMONSTRATION, One(), Behavior(), normalizer=normalizer),
    )
    return Method(ask=Request(num_generations, 1), terms=terms, run={"learning_rate": 1e-3})
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("learn") / "qwen2")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "lucky.py").write_text("def lucky(problem, text):\n    return len(text) % 2\n")
    return f"{tmp_path / 'mine.py'}:mine"


def seen(
    monkeypatch: pytest.MonkeyPatch, method: str, tiny: Path, folder: Path, **options: object
) -> list[tuple[Tokens, Samples, torch.Tensor]]:
    """The tables and log-probs of every loss of a one-step run, in order."""
    found = []
    real = module.loss

    def spy(tokens: Tokens, samples: Samples, logp: torch.Tensor, *rest: object) -> torch.Tensor:
        found.append((tokens, samples, logp.detach()))
        return real(tokens, samples, logp, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "loss", spy)
    problems = runs.write_problems(folder.parent / "chains.jsonl")
    given = {"max_steps": 1, "micro_batch_tokens": 10**6, "verifier": f"{folder.parent / 'lucky.py'}:lucky"}
    train(runs.config(method, folder, tiny, problems, **(given | options)))
    return found


def test_a_second_pass_sees_a_moved_policy_and_the_old_numbers(
    mine: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = seen(monkeypatch, mine, tiny, tmp_path / "run", num_iterations=2)
    assert torch.equal(first[0].behavior, second[0].behavior)
    assert torch.equal(first[0].anchor, second[0].anchor)
    torch.testing.assert_close(first[0].behavior, first[2], atol=1e-5, rtol=0)  # nothing has moved yet: the ratio is 1
    assert (second[2] - second[0].behavior).abs().max() > 1e-3
    assert RunFolder(tmp_path / "run").metrics()[0]["clip_ratio"] > 0


def test_one_update_needs_no_second_forward_and_gives_the_same_numbers(
    mine: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (once,) = seen(monkeypatch, mine, tiny, tmp_path / "once")
    twice = seen(monkeypatch, mine, tiny, tmp_path / "twice", num_iterations=2)[0]
    torch.testing.assert_close(once[0].behavior, twice[0].behavior)
    torch.testing.assert_close(once[0].anchor, twice[0].anchor)
    assert RunFolder(tmp_path / "once").metrics()[0]["clip_ratio"] == 0


def test_mini_batches_are_updates_of_whole_problems(
    mine: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = seen(monkeypatch, mine, tiny, tmp_path / "run", num_mini_batches=2)
    assert [len(samples) for _, samples, _ in both] == [8, 8]  # 2 problems x (3 rollouts + 1 demonstration) each
    assert all(samples.group.unique().tolist() == [0, 1] for _, samples, _ in both)
    row = RunFolder(tmp_path / "run").metrics()[0]
    assert row["num_tokens"] > sum(len(tokens) for tokens, _, _ in both)  # generated tokens come on top


def test_a_signal_between_two_updates_waits_for_the_whole_step(mine: str, tiny: Path, tmp_path: Path) -> None:
    class Stop(Silent):
        num_done = 0

        def phase(self, phase: Phase, done: int, total: int) -> None:
            self.num_done += phase == "train"
            if self.num_done == 3:  # in the second of the first step's four updates
                os.kill(os.getpid(), signal.SIGTERM)

    problems = runs.write_problems(tmp_path / "chains.jsonl")
    options = {"max_steps": 3, "num_iterations": 2, "num_mini_batches": 2, "micro_batch_tokens": 10**6}
    train(runs.config(mine, tmp_path / "whole", tiny, problems, **options))
    outcome = train(runs.config(mine, tmp_path / "run", tiny, problems, **options), Stop())
    assert (outcome.stopped, outcome.exit_code, outcome.step) == (True, 143, 1)
    train(runs.config(mine, tmp_path / "run", tiny, problems, resume_from_checkpoint="auto", **options))
    assert runs.figures(tmp_path / "run") == runs.figures(tmp_path / "whole")
    ours, theirs = (runs.fingerprint(tmp_path / name, 3)["model.safetensors"] for name in ("run", "whole"))
    assert ours == theirs


def test_more_mini_batches_than_problems_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_mini_batches 9"):
        TrainConfig(method="sft", prompts_per_step=4, num_mini_batches=9)


# Collecting until there is enough


def lucky(folder: Path, rule: str) -> str:
    """A verifier by a rule over the problem's number `n` and the answer's length."""
    path = folder / "rule.py"
    path.write_text(f"def rule(problem, text):\n    n = int(problem.id.split('-')[-1])\n    return float({rule})\n")
    return f"{path}:rule"


def stepped(method: str, tiny: Path, folder: Path, rule: str, **options: object) -> tuple[Rollouts, Run]:
    """What the first step of a run gathers."""
    problems = runs.write_problems(folder / "chains.jsonl")
    given = {"max_steps": 3, "verifier": lucky(folder, rule), **options}
    run = prepare(runs.config(method, folder / "run", tiny, problems, **given), SignalWatcher(Silent()))
    return collect_rollouts(run, 0, 0.0, PhaseTimer()), run


MIXED = "len(text) % 2 if n % 3 == 0 else 1"  # every third problem has right and wrong answers


def test_dapo_goes_on_until_enough_problems_are_mixed_and_trains_no_more(tiny: Path, tmp_path: Path) -> None:
    found, run = stepped("dapo", tiny, tmp_path, MIXED, num_generations=8, prompts_per_step=5)
    useful = [group for group, kept in zip(found.groups, found.selected, strict=True) if kept]
    assert len(useful) == 5, "more than were asked for are trained, or fewer"
    assert all(int(group.problem.id.split("-")[-1]) % 3 == 0 for group in useful)
    assert found.num_taken == len(found.groups) in (15, 20, 25) and run.state.cursor == 0
    places = [group.problem.id for group in found.groups]
    assert len(set(places[:24])) == len(places[:24]), "each round takes the next problems of the stream"
    train_step(run)
    assert run.state.cursor == found.num_taken
    row = RunFolder(tmp_path / "run").metrics()[0]
    assert row["problems/rollout"] == pytest.approx(5 / found.num_taken)
    assert row["problems/none"] == pytest.approx(1 - 5 / found.num_taken)


def test_what_the_last_round_brought_too_much_is_left_out(tiny: Path, tmp_path: Path) -> None:
    often = "len(text) % 2 if n % 4 else 1"
    found, run = stepped("dapo", tiny, tmp_path, often, num_generations=8, prompts_per_step=7)
    mixed = [bool(run.method.select(group)) for group in found.groups]
    assert sum(mixed) > 7, "this data set does not put it to the test"
    first = [index for index, useful in enumerate(mixed) if useful][:7]
    assert [index for index, kept in enumerate(found.selected) if kept] == first


def test_dapo_takes_what_it_has_after_its_last_round(tiny: Path, tmp_path: Path) -> None:
    options = {"max_num_gen_batches": 2, "prompts_per_step": 4}
    found, run = stepped("dapo", tiny, tmp_path, "1", **options)  # everything is right: nothing is mixed
    assert found.num_taken == 8 and not any(found.selected)
    train_step(run)
    assert RunFolder(tmp_path / "run").metrics()[0]["step_taken"] == 0.0
    (tmp_path / "grpo").mkdir()
    grpo, _ = stepped("grpo", tiny, tmp_path / "grpo", "1", prompts_per_step=4)
    assert grpo.num_taken == 4, "who asks for one round gets one"


def test_what_trains_is_dealt_evenly_to_mini_batches(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mixed problems lie anywhere among the collected ones; an update without any would be a step of nothing."""
    sizes: list[int] = []
    real = module.loss

    def spy(tokens: Tokens, samples: Samples, *rest: object) -> torch.Tensor:
        sizes.append(int(samples.group.max()) + 1)
        return real(tokens, samples, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "loss", spy)
    options = {"num_generations": 8, "prompts_per_step": 6, "num_mini_batches": 3, "micro_batch_tokens": 10**6}
    _, run = stepped("dapo", tiny, tmp_path, MIXED, **options)
    train_step(run)
    assert sizes == [2, 2, 2]
    assert RunFolder(tmp_path / "run").metrics()[0]["step_taken"] == 1.0
