"""N6: the first ratio of policy to sampler is 1, under every law; where it is not the run says so, and ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny
from torch import Tensor

import obverse.inference.partial as sampled_tokens
import runs
from obverse.errors import DivergedError
from obverse.inference.distribution import sample_tokens
from obverse.inference.hf import HFSampler
from obverse.models.batch import pack
from obverse.models.load import load
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train
from obverse.training.setup import prepare
from obverse.training.train_inference_kl import MismatchCheck, kl_per_token, logprobs_under
from obverse.types import Source

LAWS: list[dict[str, float]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"temperature": 0.6, "top_k": 20},
    {"temperature": 0.6, "top_p": 0.8},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.05},
]


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose logits spread by about 2, so that a law matters: those of the tiny ones are nearly equal."""
    folder = save_tiny("qwen2", tmp_path_factory.mktemp("mismatch") / "sharp")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 20
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def uniforms(tmp_path: Path, problems: Path) -> dict[str, str]:
    """Data and a reward by which most groups have right and wrong answers: a random model solves nothing."""
    file = tmp_path / "reward.py"
    file.write_text("def lucky(problem, text):\n    return sum(map(ord, text)) % 2\n")
    return {"dataset": str(problems), "verifier": f"{file}:lucky"}


@pytest.mark.parametrize(
    "params", LAWS, ids=lambda params: " ".join(f"{name}={value:g}" for name, value in params.items())
)
def test_n6_the_first_ratio_is_1_under_every_law(
    params: dict[str, Any], sharp: Path, problems: Path, tmp_path: Path
) -> None:
    """At most 1e-4 from 1 for every token, in float32: the bar."""
    config = runs.config("grpo", tmp_path / "run", sharp, problems, **params)
    run = prepare(config, SignalWatcher(Silent()))
    groups = run.collector.collect(run.problems[:6], run.method, 0, 0.0)
    update = pack([group.samples for group in groups], frozenset({Source.ROLLOUT}), config.temperature)
    assert update is not None and run.learner.params is not None
    ratios = [
        (logprobs_under(run.learner.policy, micro, run.learner.params) - micro.tokens.sampler).exp()
        for shared in (True, False)  # prompts computed once, and rows that hold them
        for micro in update.micros(256, shared=shared)
    ]
    run.folder.release()
    found = torch.cat(ratios)
    assert len(found) > 120 and float((found - 1).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.7}, {"top_k": 20, "top_p": 0.8}], ids=["whole", "cold", "cut"]
)
def test_n6_every_step_has_the_figure_once_per_collection(
    params: dict[str, Any], sharp: Path, uniforms: dict[str, str], tmp_path: Path
) -> None:
    """Two mini batches and two passes: the ratio is 1 in the first update alone, and the figure is of that one."""
    options = {"max_steps": 3, "num_iterations": 2, "num_mini_batches": 2, **uniforms, **params}
    train(runs.config("grpo", tmp_path / "run", sharp, max_mismatch_kl=1e-6, **options))
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["step_taken"] for row in rows] == [1.0] * 3
    assert all(0 <= row["mismatch_kl"] < 1e-6 for row in rows)
    assert all(row["sampler_gap"] > 1e-3 for row in rows)  # the later updates' own drift, which is no mismatch


@pytest.mark.parametrize(("method", "measured"), [("sft", False), ("rft", False), ("hpt", True), ("ppo", True)])
def test_n6_only_the_present_policys_own_samples_are_compared(
    method: str, measured: bool, sharp: Path, uniforms: dict[str, str], tmp_path: Path
) -> None:
    """Demonstrations have no sampler; rft trains on what the initial model wrote, whose ratio is not 1."""
    train(runs.config(method, tmp_path / "run", sharp, max_steps=2, **uniforms))
    rows = RunFolder(tmp_path / "run").metrics()
    assert any("mismatch_kl" in row for row in rows) == measured


def reports(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`draw`, whose log-probs are made of the right ones and of those at temperature 1."""

    def wrong(logits: Tensor, params: Any, uniform: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        chosen, logp = sample_tokens(logits, params, uniform, row)
        return chosen, change(logp, logits.log_softmax(-1)[row, chosen])

    return wrong


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("params", [{"temperature": 0.5}, {"temperature": 0.5, "top_k": 20}], ids=["whole", "cut"])
def test_n6_a_sampler_that_forgets_the_temperature_ends_the_run(
    params: dict[str, Any], sharp: Path, uniforms: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_steps": 3, "save_steps": 1, **uniforms, **params}

    class LaterWrong(Silent):
        def step(self, step: int, total_steps: int, metrics: object) -> None:
            monkeypatch.setattr(sampled_tokens, "sample_tokens", reports(lambda logp, raw: raw))

    with pytest.raises(DivergedError, match=r"step 2: .*--max_mismatch_kl 0.01; .*checkpoint-1"):
        train(runs.config("grpo", tmp_path / "run", sharp, **options), LaterWrong())
    assert [row["step"] for row in RunFolder(tmp_path / "run").metrics()] == [1]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    free = Notes()
    train(runs.config("grpo", tmp_path / "free", sharp, max_mismatch_kl=None, **options | {"max_steps": 2}), free)
    told = [text for text in free.texts if "mismatch_kl" in text]
    assert len(told) == 1 and "off by as much" in told[0]
    assert all(row["mismatch_kl"] > 0.01 for row in RunFolder(tmp_path / "free").metrics())


def test_n6_a_small_mismatch_is_said_once_and_the_run_goes_on(
    sharp: Path, uniforms: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HFSampler(load(str(sharp))[0].model)  # its architecture is tried before the fault
    monkeypatch.setattr(
        sampled_tokens, "sample_tokens", reports(lambda logp, raw: logp - 0.08)
    )  # exp(r) - 1 - r is 0.0033
    watch = Notes()
    train(runs.config("grpo", tmp_path / "run", sharp, max_steps=3, **uniforms), watch)
    assert sum("0.0033" in text for text in watch.texts) == 1
    rows = RunFolder(tmp_path / "run").metrics()
    assert [row["mismatch_kl"] for row in rows] == pytest.approx([0.08 * 0.08 / 2 * 1.0270] * 3, rel=2e-3)


def test_n6_the_estimate_is_the_divergence() -> None:
    """Over every token of a small vocabulary, each as often as the sampler draws it."""
    sampled, trained = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
    exact = float((sampled.exp() * (sampled - trained)).sum())
    assert float((sampled.exp() * kl_per_token(trained, sampled)).sum()) == pytest.approx(exact, rel=1e-6)
    assert float(kl_per_token(torch.tensor([-torch.inf]), torch.tensor([-1.0]))) == 1.0


@pytest.mark.parametrize(("limit", "found", "ends"), [(0.01, 0.0101, True), (0.01, 0.0099, False), (None, 9.0, False)])
def test_n6_the_limit_is_the_options(limit: float | None, found: float, ends: bool) -> None:
    rule, watch = MismatchCheck(limit), Notes()
    for _ in range(3):
        if ends:
            with pytest.raises(DivergedError):
                rule.check({"mismatch_kl": found, "loss": 0.0}, watch)
        else:
            rule.check({"mismatch_kl": found, "loss": 0.0}, watch)
    assert len(watch.texts) == (0 if ends else 1)


def test_n6_mixed_precision_stays_below_the_limit(sharp: Path, uniforms: dict[str, str], tmp_path: Path) -> None:
    for name in ("mixed", "bfloat16"):
        train(runs.config("grpo", tmp_path / name, sharp, max_steps=2, dtype=name, **uniforms))
        found = [row["mismatch_kl"] for row in RunFolder(tmp_path / name).metrics()]
        assert all(0 < each < 1e-3 for each in found), found
