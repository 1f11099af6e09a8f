"""The memory plan: its arithmetic, its sentences, and what it says against what a process really holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_methods import TAUGHT, taught
from transformers import OpenAIGPTConfig, Qwen2Config, Qwen2ForCausalLM

from bench.memory import SUITE, predicted
from obverse.cli.main import main
from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.memory_plan import batch_shapes as work
from obverse.memory_plan import machine, table
from obverse.memory_plan.batch_shapes import Lengths
from obverse.memory_plan.memory_tracker import MemoryTracker
from obverse.memory_plan.meta_models import _with_quick_head
from obverse.memory_plan.phases import micro_batch
from obverse.memory_plan.plan import plan
from obverse.methods import find
from obverse.models.policy import as_policy, capabilities_of, logprobs

ROOT = Path(__file__).parents[2]
SMALL = Qwen2Config(
    vocab_size=4000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
LONG = Lengths(prompt=30, response=40, completion=50)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is a configuration and nothing else."""
    path = tmp_path_factory.mktemp("model")
    SMALL.save_pretrained(path)
    return str(path)


def run_of(method: str, folder: str, **options: Any) -> TrainConfig:
    given = {"model": folder, "learning_rate": 1e-5, "max_completion_length": 50, "device": "cpu", **options}
    return resolve(method, find(method), given)


def test_a_ledger_counts_what_lives() -> None:
    tracker = MemoryTracker()
    with tracker.open():
        kept = torch.zeros(1000)
        before = tracker.mark()
        passing = torch.zeros(500) + 1
        inputs = passing[:10]
        assert (before, tracker.live) == (4000, 6000) and tracker.peak == 8000  # the zeros that 1 was added to are gone
        del passing
        assert tracker.live == 6000  # a view holds all of it
        del inputs
        assert tracker.live == 4000
        assert bool(kept.isfinite().all()) and torch.equal(kept, kept + 1)  # questions about numbers are answered yes


def test_weights_gradients_and_moments(folder: str) -> None:
    made = plan(run_of("sft", folder), LONG)
    weights = 4 * sum(each.numel() for each in Qwen2ForCausalLM(SMALL).parameters())
    assert made.lasting == {"weights": weights, "moments of AdamW": 2 * weights}
    assert made.gradients == weights and made.rows is None and made.sampling == 0
    assert made.training == 4 * weights + made.activations + made.logits == made.peak


@pytest.mark.parametrize(
    ("who", "models"),
    [
        pytest.param("policy", 0, marks=pytest.mark.slow),
        ("model", 1),
        pytest.param("average", 1, marks=pytest.mark.slow),
    ],
)
def test_a_teacher_has_weights_and_a_phase(who: str, models: int, folder: str) -> None:
    options = {"teacher_model": folder} if who == "model" else {}
    given = {"sees": "sibling", "who": who, "micro_batch_tokens": 64, **options}
    planned = plan(run_of(TAUGHT, folder, **given), LONG)
    assert planned.lasting.get("teacher", 0) == models * planned.lasting["weights"]
    assert planned.scored > 0 and planned.scoring == sum(planned.lasting.values()) + planned.scored
    row = 30 + work.TEMPLATE + 50 + 50  # prompt, text, sibling, completion
    shape = work.scoring_shape(run_of(TAUGHT, folder, **given), taught(who, "sibling"), LONG, "cpu", shares=False)
    assert shape is not None and (shape.num_rows, shape.width, shape.num_scored) == (1, row - 1, 49)
    assert any("= scoring" in line for line in table.lines(planned, ""))


DIVERGING = """
from obverse.estimator import Divergence, Method, Teacher, Term
from obverse.estimator.parts import PerToken, Request
from obverse.types import Source

def held(who: str = "") -> Method:
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, normalizer=PerToken(), on="divergence"),),
        teacher=Teacher(who) if who else None,
        divergence=Divergence(target="teacher" if who else "anchor"),
    )
"""


@pytest.mark.slow
def test_a_divergence_costs_its_target(folder: str, tmp_path: Path) -> None:
    """The target's weights, and its states beside the policy's; chunks of logits are as large as without one."""
    (tmp_path / "held.py").write_text(DIVERGING)
    method = f"{tmp_path / 'held.py'}:held"
    plain, held = plan(run_of("sft", folder), LONG), plan(run_of(method, folder), LONG)
    assert held.lasting == plain.lasting | {"initial model": plain.lasting["weights"]}
    states = held.micro.num_rows * held.micro.num_scored * SMALL.hidden_size * 4
    assert held.logits == plain.logits and plain.activations < held.activations < plain.activations + 4 * states
    live = plan(run_of(method, folder, who="policy"), LONG)
    assert live.lasting == plain.lasting and live.activations == held.activations
    taught = plan(run_of(method, folder, who="model", teacher_model=folder), LONG)
    assert "initial model" not in taught.lasting and taught.activations == held.activations


@pytest.mark.slow
def test_everyone_who_is_there_is_counted(folder: str) -> None:
    assert "initial model" in plan(run_of("dpo", folder), LONG).lasting
    ppo = plan(run_of("ppo", folder), LONG)
    assert ppo.lasting["critic"] == pytest.approx(ppo.lasting["weights"], rel=0.05)
    assert ppo.lasting["moments of AdamW"] == pytest.approx(4 * ppo.lasting["weights"], rel=0.05)
    assert ppo.gradients == pytest.approx(2 * ppo.lasting["weights"], rel=0.05)
    two = plan(run_of("relift", folder), LONG)  # two optimizers over the same weights
    assert two.lasting["moments of AdamW"] == 4 * two.lasting["weights"]
    one = plan(run_of("sft_then_rl", folder), LONG)  # the first gives its moments back
    assert one.lasting["moments of AdamW"] == 2 * one.lasting["weights"]


def test_what_options_change(folder: str) -> None:
    plain = plan(run_of("sft", folder, micro_batch_tokens=2048), LONG)
    assert plan(run_of("sft", folder, micro_batch_tokens=512), LONG).activations < 0.4 * plain.activations
    lean = plan(run_of("sft", folder, micro_batch_tokens=2048, gradient_checkpointing=True), LONG)
    assert lean.activations < 0.5 * plain.activations
    own = plan(run_of("grpo", folder), LONG)
    few = plan(run_of("grpo", folder, rollout_batch_size=64), LONG)
    assert own.rows and few.rows and (own.rows.num_rows, few.rows.num_rows) == (256, 64)
    assert few.cache == pytest.approx(own.cache / 4, rel=0.01)
    assert plan(run_of("grpo", folder, sampler="vllm"), LONG).rows is None
    half = plan(run_of("sft", folder, dtype="bfloat16"), LONG)
    assert half.lasting["weights"] * 2 == plain.lasting["weights"]


def test_adapters_learn_alone(folder: str) -> None:
    full, made = plan(run_of("dpo", folder), LONG), plan(run_of("dpo", folder, use_peft=True), LONG)
    assert "initial model" not in made.lasting  # it is the policy without them
    assert made.gradients < 0.25 * full.gradients
    assert made.lasting["moments of AdamW"] == 2 * made.gradients


def test_ranks_share_out_what_fsdp_shares_out(folder: str) -> None:
    alone, both = plan(run_of("sft", folder), LONG), plan(run_of("sft", folder), LONG, ranks=2)
    assert alone.lasting == both.lasting and both.gathered == 0
    shared = plan(run_of("sft", folder, fsdp=True), LONG, ranks=2)
    assert shared.lasting["weights"] * 2 == alone.lasting["weights"] and shared.gradients * 2 == alone.gradients
    assert shared.gathered > 0
    whole = plan(run_of("sft", folder, fsdp=True, fsdp_reshard_after_forward=False), LONG, ranks=2)
    assert whole.gathered > alone.lasting["weights"]


def test_the_head_of_shadows_has_the_buffers_of_the_real_one() -> None:
    peaks, known = [], capabilities_of(Qwen2ForCausalLM(SMALL))
    for quick in (False, True):
        tracker = MemoryTracker()
        with tracker.open():
            policy = as_policy(Qwen2ForCausalLM(SMALL), capabilities=known)
            policy = _with_quick_head(policy) if quick else policy
            before = tracker.mark()
            logprobs(policy, micro_batch(2, 30, 30))[0].sum().backward()
            peaks.append(tracker.peak - before)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_a_tied_matrix_has_one_gradient(tmp_path: Path) -> None:
    """Head and embedding add to the same one in place, so that no micro batch makes a matrix of its own."""
    config = Qwen2Config(**SMALL.to_dict() | {"vocab_size": 60_000})
    config.save_pretrained(tmp_path)
    made = plan(run_of("sft", str(tmp_path), micro_batch_tokens=700, gradient_checkpointing=True), LONG)
    assert made.micro.num_tokens > 2**23 / 60_000  # logits are made in several pieces
    assert made.activations < made.gradients


def test_the_largest_micro_batch(folder: str) -> None:
    sft = find("sft")()
    config = run_of("sft", folder, micro_batch_tokens=700, prompts_per_step=64)
    made = work.training(config, sft, LONG, "cpu", shares=True, ranks=1)
    assert made.num_rows == 10 and made.num_prompts == 0 and made.num_tokens == 690  # the last token is not read
    one = work.training(config, sft, Lengths(300, 900, 50), "cpu", shares=True, ranks=1)
    assert one.num_rows == 1 and one.width == 1199  # longer than the budget, and whole
    few = work.training(run_of("sft", folder, prompts_per_step=2), sft, LONG, "cpu", shares=True, ranks=1)
    assert few.num_rows == 2 and few.num_micros == 1
    dpo = find("dpo")()
    pair = work.training(run_of("dpo", folder, micro_batch_tokens=16), dpo, LONG, "cpu", shares=False, ranks=1)
    assert pair.num_rows == 2  # pairs stay together
    grpo = find("grpo")()
    own = work.training(run_of("grpo", folder, micro_batch_tokens=800), grpo, LONG, "cpu", shares=True, ranks=1)
    assert own.num_prompts == 26 and own.prompt == 30 and own.num_rows == 10 and own.width == 49


# Sentences


def test_a_dry_run_has_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "grpo", "--dry-run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("# ") and "MB" in line]
    assert "method: grpo" in out and "19 tokens" in out
    assert [
        name for name in ("weights", "cache of 256 x", "= sampling", "= training") if name not in "".join(told)
    ] == []


def test_what_cannot_fit_is_refused_with_what_would_help(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = machine.resident()
    monkeypatch.setattr(machine, "resident", lambda: own)
    words = ["train", "sft", "--dry-run", "--device", "cpu", "--model", folder, "--micro_batch_tokens", "4096"]
    words += ["--max_prompt_length", "30", "--max_completion_length", "50"]
    made = plan(run_of("sft", folder, micro_batch_tokens=4096), Lengths(30, 50, 50))  # what a folder without texts says
    monkeypatch.setattr(machine, "total", lambda device: own + made.peak - 10**6)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "learning_rate" in out and "= training" in out
    assert err.count("\n") == 1 and err.startswith("error: memory: this machine has ")
    assert "training needs" in err and "--micro_batch_tokens 1024" in err and "not enough" not in err
    monkeypatch.setattr(machine, "total", lambda device: own + 10**6)
    assert main(words) == 2
    assert "not enough" in capsys.readouterr().err


def test_what_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft", "--dry-run", "--model", "owner/name"]) == 0
    assert "# memory: no plan: model 'owner/name'" in capsys.readouterr().out
    if not torch.cuda.is_available():
        assert main(["train", "sft", "--dry-run", "--device", "cuda", "--dataset", "owner/rows"]) == 0
        out = capsys.readouterr().out
        assert "there is no cuda here" in out and "owner/rows" in out


def test_sizes_are_read_easily() -> None:
    assert (table.size(1_234_567), table.size(12_345_678_901)) == ("1.2 MB", "12.3 GB")


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP", limit)
    everything = machine.total("cpu")
    limit.write_text("max\n")
    assert machine.total("cpu") == everything
    limit.write_text("1000000\n")
    assert machine.total("cpu") == 1_000_000


# Against what a process really holds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the most that was resident is asked of Linux")
@pytest.mark.parametrize(
    "name",
    [pytest.param("suite-sft", marks=pytest.mark.slow), pytest.param("suite-grpo", marks=pytest.mark.release)],
)
def test_the_plan_is_what_a_run_holds(name: str) -> None:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.memory", name, "--alone", "measured"]
    measured = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment).stdout
    assert predicted(SUITE[name])["peak"] == pytest.approx(json.loads(measured), rel=0.15)


def test_rows_that_the_model_cannot_read_have_no_plan(tmp_path: Path) -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 64}
    OpenAIGPTConfig(**sizes).save_pretrained(tmp_path)  # it keeps a mask of its positions
    config = run_of("sft", str(tmp_path))
    assert plan(config, Lengths(10, 20, 20)).peak > 0
    with pytest.raises(ConfigError, match=r"rows of 70 tokens fails .*positions"):
        plan(config, Lengths(10, 60, 20))
