"""The critic in a run: whitening over everything that was collected, and a value that comes to be right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from exam.batches import sample
from tiny_models import save_tiny

import runs
from obverse.estimator.parts import GAE
from obverse.estimator.tables import Samples
from obverse.models.batch import Micro, pack
from obverse.models.load import load, load_scalar
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.training.optimizer import Optimizer
from obverse.training.value_model import Critic, fill_advantages
from obverse.types import Source

OWN = frozenset({Source.ROLLOUT})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("critic") / "llama")


@pytest.fixture(scope="module")
def critic(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Critic:
    model, _, _ = load_scalar(str(tiny), dtype="float32")
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    config = runs.config("ppo", tmp_path_factory.mktemp("run"), tiny, "arithmetic")
    return Critic(model, Optimizer(model, config, 1))


def collected(parts: list[list[int]], budget: int) -> list[tuple[Samples, list[Micro]]]:
    """The same eight samples, dealt to updates as `parts` says and split by `budget`."""
    rng = random.Random(4)
    every = [sample(rng, "rollout", float(n % 3 == 0), rng.randint(1, 9)) for n in range(8)]
    found = []
    for members in parts:
        update = pack([[every[n]] for n in members], OWN)
        assert update is not None
        found.append((update.samples, list(update.micros(budget))))
    return found


def by_token(critic: Critic, gae: GAE, parts: list[list[int]], budget: int) -> dict[tuple[int, int], list[float]]:
    """(advantage, returns, value) by sample and position."""
    written = fill_advantages(critic, gae, collected(parts, budget))
    found: dict[tuple[int, int], list[float]] = {}
    for members, micros in zip(parts, written, strict=True):
        for tokens in (micro.tokens for micro in micros):
            columns = torch.stack([tokens.advantage, tokens.returns, tokens.value], dim=1).tolist()
            places = zip(tokens.sample.tolist(), tokens.position.tolist(), columns, strict=True)
            found |= {(members[row], position): numbers for row, position, numbers in places}
    return found


@pytest.mark.parametrize("whitens", [True, False])
def test_updates_and_micro_batches_do_not_change_what_is_written(critic: Critic, whitens: bool) -> None:
    gae = GAE(0.9, 0.8, whitens=whitens)
    whole = by_token(critic, gae, [list(range(8))], 10**6)
    pieces = by_token(critic, gae, [[0, 3, 6], [1, 2, 4, 5], [7]], 16)
    assert pieces.keys() == whole.keys()
    for place, numbers in whole.items():
        assert pieces[place] == pytest.approx(numbers, abs=1e-4), place
    advantages = torch.tensor([numbers[0] for numbers in whole.values()])
    mean, std = float(advantages.mean()), float(advantages.std(unbiased=False))
    assert ((mean, std) == pytest.approx((0.0, 1.0), abs=1e-4)) == whitens


def test_returns_are_what_was_expected_before_whitening_plus_the_advantage(critic: Critic) -> None:
    white, plain = (by_token(critic, GAE(1.0, 0.5, whitens=each), [list(range(8))], 99) for each in (True, False))
    for place, (advantage, returns, value) in plain.items():
        assert white[place][1:] == pytest.approx([returns, value], abs=1e-5)
        assert returns == pytest.approx(advantage + value, abs=1e-5)


def test_the_value_is_that_of_the_state_before_the_token(critic: Critic) -> None:
    one = sample(random.Random(0), "rollout", 1.0, 3)
    update = pack([[one]], OWN)
    assert update is not None
    (micro,) = update.micros(99)
    whole = torch.tensor([one.model_input.token_ids])
    with torch.no_grad():
        every = critic.model.score(critic.model.base_model(input_ids=whole).last_hidden_state)[0, :, 0]
    start = len(one.prompt) - 1
    torch.testing.assert_close(critic.values(micro).detach(), every[start : start + 3], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_critic_learns_what_to_expect_and_the_policy_from_it(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"  # the first character decides: a few steps are enough to see it
    reward.write_text("def digit(problem, text):\n    return float(text[:1].isdigit() and text[:1] in '1234')\n")
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    options = {"verifier": f"{reward}:digit", "max_steps": 12, "prompts_per_step": 16, "num_generations": 2}
    options |= {"max_completion_length": 4, "learning_rate": 1e-3, "critic_learning_rate": 3e-3}
    train(runs.config("ppo", tmp_path / "run", "embedded", problems, **options))
    rows = RunFolder(tmp_path / "run").metrics()
    early, late = rows[:3], rows[-3:]
    for name, sign in (("critic/error", -1), ("reward", 1)):
        before, after = (sum(row[name] for row in part) / 3 for part in (early, late))
        assert sign * (after - before) > 0.1, (name, [row[name] for row in rows])
    assert all(row["critic/grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_critic_goes_on_where_it_was(tiny: Path, tmp_path: Path, whole: bool) -> None:
    """On a family whose tokenizer is not made of nothing: the critic's folder is whole as the policy's."""
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    reward = tmp_path / "reward.py"
    reward.write_text("def lucky(problem, text):\n    return len(text) % 2\n")
    options = {"verifier": f"{reward}:lucky", "save_steps": 1, "critic_learning_rate": 1e-2}
    train(runs.config("ppo", tmp_path / "run", tiny, problems, max_steps=2, **options))
    folder = tmp_path / "run" / "checkpoint-2" / "critic"
    assert load_scalar(str(folder), trained=True)[1].get_vocab() == load(str(tiny))[1].get_vocab()
    if not whole:
        (folder / "model.safetensors").write_bytes(b"")
        from obverse.errors import CheckpointError

        given = {"resume_from_checkpoint": str(folder.parent), "max_steps": 4}
        with pytest.raises(CheckpointError, match=r"critic/model\.safetensors"):
            train(runs.config("ppo", tmp_path / "run", tiny, problems, **options, **given))
    train(runs.config("ppo", tmp_path / "run", tiny, problems, max_steps=4, resume_from_checkpoint="auto", **options))
    train(runs.config("ppo", tmp_path / "straight", tiny, problems, max_steps=4, **options))
    assert runs.figures(tmp_path / "run") == runs.figures(tmp_path / "straight")
