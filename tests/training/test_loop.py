"""Whole runs: every family of models, stops and refusals, and the one-file oracle."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import save_tiny

import runs
from obverse.errors import CheckpointError, ConfigError, DataError, DivergedError, GraderError
from obverse.estimator.schedule import as_schedule
from obverse.methods import build
from obverse.models.load import load
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.types import Problem

ROOT = Path(__file__).parents[2]
EXCERPT = ROOT / "tests" / "data" / "gsm8k_excerpt.jsonl"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("train") / "llama")


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    return runs.write_problems(tmp_path / "chains.jsonl")


class Watch(Silent):
    """Keeps what a run reported, and may do something after a step."""

    def __init__(self, after: int = 0, signal_number: int = 0) -> None:
        self.after, self.signal_number = after, signal_number
        self.notes: list[str] = []
        self.facts: dict[str, str] = {}
        self.steps: list[int] = []

    def banner(self, facts: object) -> None:
        self.facts = dict(facts)  # type: ignore[call-overload]

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        self.steps.append(step)
        if step == self.after:
            os.kill(os.getpid(), self.signal_number)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("method", ["hpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sft", "grpo"))])
def test_every_family_trains_on_real_rows(tiny_dir: Path, method: str, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"  # a random model solves nothing: half of its answers count as right
    reward.write_text("def lucky(problem, text):\n    return len(text) % 2\n")
    before = load(str(tiny_dir), dtype="float32")[0].model.state_dict()
    options = {"max_steps": 2, "verifier": f"{reward}:lucky"}
    outcome = train(runs.config(method, tmp_path / "run", tiny_dir, EXCERPT, **options))
    after, tokenizer = load(str(outcome.folder / "checkpoint-2"), dtype="float32")
    rows = RunFolder(outcome.folder).metrics()
    assert [row["step"] for row in rows] == [1, 2]
    assert any(not torch.equal(value, before[name]) for name, value in after.model.state_dict().items())
    assert method == "sft" or any(row["problems/rollout"] > 0 for row in rows)
    assert tokenizer.chat_template
    assert all(row["step_taken"] == 1.0 for row in rows)


def test_the_sampler_and_the_trainer_agree_on_every_family(tiny_dir: Path, tmp_path: Path) -> None:
    train(runs.config("grpo", tmp_path / "run", tiny_dir, EXCERPT, max_steps=1, temperature=0.7))
    assert RunFolder(tmp_path / "run").metrics()[0]["sampler_gap"] < 1e-5


def test_a_run_folder_holds_what_is_promised(tiny: Path, chains: Path, tmp_path: Path) -> None:
    watch = Watch()
    train(runs.config("hpt", tmp_path / "run", tiny, chains, max_steps=2), watch)
    folder = tmp_path / "run"
    promised = {"config.yaml", "environment.json", "metrics.jsonl", "run.lock", "samples", "checkpoint-2"}
    assert {path.name for path in folder.iterdir()} == promised
    rows = [json.loads(line) for line in (folder / "samples" / "step-000001.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * (1 + 3)
    assert {row["kept"] for row in rows if row["kind"] == "demonstration"} == {True}  # a random model solves nothing
    assert {row["kept"] for row in rows if row["kind"] == "rollout"} == {False}
    assert "4 problems x (3 completions + 1 demonstrations) = 12 sampled, 4 shown a step" in watch.facts["batch"]
    metrics = RunFolder(folder).metrics()[0]
    generated = sum(len(row["ids"]) for row in rows if row["kind"] == "rollout")
    trained = sum(len(row["ids"]) for row in rows if row["kept"])
    assert metrics["num_tokens"] == generated + trained
    assert metrics["problems/demonstration"] == 1.0


def test_a_signal_saves_the_last_whole_step_and_says_how_to_go_on(tiny: Path, chains: Path, tmp_path: Path) -> None:
    """That it goes on as if nothing had been, after either signal in any phase: reliability/test_c_kills.py."""
    watch = Watch(after=1, signal_number=signal.SIGTERM)
    outcome = train(runs.config("sft", tmp_path / "a run", tiny, chains, max_steps=2), watch)
    assert (outcome.stopped, outcome.exit_code, outcome.step) == (True, 143, 1)
    assert "checkpoint-1" in watch.notes[-2]
    assert watch.notes[-1].startswith("go on with: obverse train --config '")  # quoted: the folder has a space
    assert signal.getsignal(signal.SIGTERM) is not None


def test_the_budget_of_tokens_ends_a_run(tiny: Path, chains: Path, tmp_path: Path) -> None:
    train(runs.config("hpt", tmp_path / "run", tiny, chains, max_steps=50, budget=600))
    tokens = [row["num_tokens"] for row in RunFolder(tmp_path / "run").metrics()]
    assert tokens[-2] < 600 <= tokens[-1]


@pytest.mark.parametrize("unit", ["flops", "seconds", "steps"])
def test_a_budget_has_a_unit(tiny: Path, chains: Path, tmp_path: Path, unit: str) -> None:
    budget = {"flops": "0.0001G", "seconds": 1, "steps": 3}[unit]
    train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=500, budget=budget, budget_in=unit))
    rows = RunFolder(tmp_path / "run").metrics()
    policy, _ = load(str(tmp_path / "run" / f"checkpoint-{len(rows)}"))
    size = sum(parameter.numel() for parameter in policy.model.parameters())
    assert rows[-1]["flops"] == 6.0 * size * rows[-1]["num_tokens"]  # nothing was generated
    seconds = [sum(row["step_time"] for row in rows[:end]) for end in range(len(rows) + 1)]
    spent = {"flops": [0.0, *(row["flops"] for row in rows)], "seconds": seconds, "steps": range(len(rows) + 1)}[unit]
    limit = 100_000 if unit == "flops" else budget
    assert spent[-2] < limit <= spent[-1] and len(rows) < 500


def test_a_share_of_the_run_is_a_mark(tiny: Path, chains: Path, tmp_path: Path) -> None:
    """Marks lie at the first step behind each share, also for a run that was resumed between two of them."""
    held_out = {"eval_dataset": "arithmetic:1", "num_eval_problems": 2, "num_generations_eval": 1}
    options = {
        "max_steps": 500,
        "budget": 1_000,
        "eval_steps": 0.25,
        "save_steps": 0.25,
        "save_total_limit": 9,
        **held_out,
    }
    folders = [tmp_path / "whole", tmp_path / "halves"]
    train(runs.config("sft", folders[0], tiny, chains, **options))
    train(runs.config("sft", folders[1], tiny, chains, **options), Watch(after=4, signal_number=signal.SIGTERM))
    train(runs.config("sft", folders[1], tiny, chains, **options, resume_from_checkpoint="auto"))
    tokens = [0.0, *(row["num_tokens"] for row in RunFolder(folders[0]).metrics())]
    passed = [int(min(each, 1_000) / 250) for each in tokens]
    marks = [step for step in range(1, len(tokens)) if passed[step] > passed[step - 1]]
    assert len(marks) == 4
    for folder in folders:
        assert [int(path.stem[-6:]) for path in sorted((folder / "eval").glob("*.json"))] == [0, *marks]
    assert [int(path.name[11:]) for path in checkpoint.folders(folders[0])] == marks


def test_old_checkpoints_leave_and_damaged_ones_are_refused_by_name(tiny: Path, chains: Path, tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_steps": 1, "save_total_limit": 2}
    train(runs.config("sft", tmp_path / "run", tiny, chains, **options))
    assert [path.name for path in checkpoint.folders(tmp_path / "run")] == ["checkpoint-3", "checkpoint-4"]
    weights = tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    weights.write_bytes(content)
    assert checkpoint.newest(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load(weights.parent)


def test_resuming_a_folder_without_a_checkpoint_is_an_error(tiny: Path, chains: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        train(runs.config("sft", tmp_path, tiny, chains, resume_from_checkpoint="auto"))


@pytest.mark.parametrize("method", ["sft", "hpt"])
def test_a_method_that_needs_demonstrations_says_so(method: str, tiny: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "2+2=", "answer": "4"}\n')
    with pytest.raises(ConfigError, match="needs demonstrations"):
        train(runs.config(method, tmp_path / "run", tiny, rows))


def test_a_method_that_needs_answers_says_so(tiny: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "2+2=", "demonstration": "4"}\n')
    with pytest.raises(ConfigError, match="answers"):
        train(runs.config("grpo", tmp_path / "run", tiny, rows))


@pytest.mark.parametrize("method", ["grpo", "sft"])  # on own samples, and on demonstrations
def test_a_broken_verifier_stops_the_run(method: str, tiny: Path, chains: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "from obverse.types import GradeResult\n\n"
        "def broken(problem, text):\n    return GradeResult(None, 0.0, 'no connection')\n"
    )
    with pytest.raises(GraderError, match="no connection"):
        train(runs.config(method, tmp_path / "run", tiny, chains, verifier=f"{reward}:broken"))


def test_a_reward_that_does_not_apply_leaves_demonstrations_in(tiny: Path, chains: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def score(prompts, completions, **columns):\n    return [None] * len(completions)\n")
    train(runs.config("hpt", tmp_path / "run", tiny, chains, max_steps=1, verifier=f"{reward}:score"))
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["problems/demonstration"] == 1.0 and row["step_taken"] == 1.0
    assert "accuracy" not in row  # no own sample has a verdict


def test_gradients_that_are_no_numbers_never_reach_the_weights(
    tiny: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obverse.training.update as update

    real = update.loss
    monkeypatch.setattr(update, "loss", lambda *args: real(*args) * torch.nan)
    with pytest.raises(DivergedError, match="3 steps"):
        train(runs.config("sft", tmp_path / "run", tiny, chains, max_steps=9))
    assert [row["step_taken"] for row in RunFolder(tmp_path / "run").metrics()] == [0.0, 0.0]


def test_obverse_and_the_one_file_oracle_draw_the_same_curve(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("one_file", ROOT / "examples" / "one_file.py")
    assert spec is not None and spec.loader is not None
    one_file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(one_file)
    problems = runs.write_problems(tmp_path / "chains.jsonl", num_problems=60, difficulty=(1, 5))
    shared = {
        "prompts_per_step": 8,
        "num_generations": 4,
        "max_completion_length": 64,
        "seed": 11,
    }
    base = ROOT / "obverse" / "assets" / "base"
    words = [f"--{name}={value}" for name, value in shared.items()]
    theirs = one_file.train(
        one_file.options().parse_args([f"--model={base}", f"--problems={problems}", "--steps=6", *words])
    )
    # everything else is what each of them does by itself
    train(runs.config("hpt", tmp_path / "run", "embedded", problems, max_steps=6, learning_rate=5e-4, **shared))
    ours = RunFolder(tmp_path / "run").metrics()
    assert len({row["sft"] for row in theirs}) > 1  # the gate really switches
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4)
        assert mine["reward"] == pytest.approx(other["reward"])
        assert mine["problems/demonstration"] == pytest.approx(other["sft"])


def test_bad_rows_leave_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: prompt: empty"):
        train(runs.config("sft", tmp_path / "run", tiny, rows))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "options", "lines"),
    [
        ("dpo", {}, {"batch": "4 problems x (1 pairs) = 0 sampled, 8 shown a step"}),
        (
            "reinforce",
            {"baseline": "greedy"},
            {"batch": "4 problems x (3 completions + 1 greedy) = 16 sampled, 0 shown a step"},
        ),
        ("dapo", {}, {"batch": "4 problems x (3 completions) = 12 sampled, 0 shown a step, in up to 10 rounds"}),
        (
            "relift",
            {"num_waiting": 7, "imitation_learning_rate": 0.5},
            {
                "batch of stage 0": "4 problems x (3 completions) = 12 sampled, 0 shown a step",
                "batch of stage 1": "7 problems x (1 demonstrations) = 0 sampled, 7 shown a step",
                "stages": "when_waiting(num=7), now stage 0",
                "rate": "learning_rate 0.001, stage 1 0.5, constant",
                "sampling": "at most 12 new tokens each, 144 a step",
            },
        ),
        ("ppo", {"critic_learning_rate": 0.25}, {"rate": "learning_rate 0.001, critic 0.25, constant"}),
    ],
)
def test_the_banner_tells_the_batch_of_every_method(
    method: str, options: dict[str, object], lines: dict[str, str], tiny: Path, chains: Path, tmp_path: Path
) -> None:
    from obverse.runtime.signals import SignalWatcher
    from obverse.training.banner import facts
    from obverse.training.setup import prepare

    config = runs.config(method, tmp_path / "run", tiny, chains, **options)
    found = dict(facts(prepare(config, SignalWatcher(Silent()))))
    assert {name: found[name] for name in lines} == lines


def test_the_banner_has_both_batches_of_a_method_that_draws_one() -> None:
    from obverse.training.banner import batch

    problem = Problem("p", "1+1", answer="2", demonstration=("2",))
    config = SimpleNamespace(prompts_per_step=4)
    run = SimpleNamespace(schedule=as_schedule(build("gkd")), problems=[problem], progress=0.0, config=config)
    text = "4 problems x (1 completions or 1 demonstrations) = at most 4 sampled, at most 4 shown a step"
    assert batch(run, 0) == text  # type: ignore[arg-type]
