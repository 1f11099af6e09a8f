"""The divergence's gradient in an update: that of autograd over whole distributions, for any split, head and target."""

from __future__ import annotations

import random
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from exam.batches import sample
from models.test_fused_divergence import literal
from tiny_models import save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import runs
from obverse.estimator.divergence import Divergence
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import PerToken, Request, Unit
from obverse.estimator.teacher import Teacher
from obverse.models.batch import Update, pack
from obverse.models.float64 import in_float64
from obverse.models.fused_divergence import Comparison
from obverse.models.lora import load_adapted, merged, without
from obverse.models.policy import Policy, as_policy, target_of, with_checkpoints, with_compiled_layers
from obverse.models.router_loss import balance_of
from obverse.training.learners import Learner
from obverse.training.loop import train
from obverse.training.prepared_update import prepare_update
from obverse.training.update import BackwardPass
from obverse.types import ModelInput, Source

EXPERTS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS |= {"num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": 4, "vocab_size": 64}
BOTH = (Source.ROLLOUT, Source.DEMONSTRATION)


@cache
def model(family: str, seed: int = 0) -> Any:
    return tiny_model(family, tiny_tokenizer(family), seed)


def update(sources: frozenset[Source] = frozenset(BOTH)) -> Update:
    """Three problems, each with a demonstration and three rollouts behind one prompt, at temperature 0.75."""
    rng, groups = random.Random(5), []
    for _ in range(3):
        prompt = ModelInput(tuple(rng.randrange(3, 30) for _ in range(rng.randrange(1, 8))))
        group = [sample(rng, "demonstration", 1.0, 3), *(sample(rng, "rollout", num % 2, num) for num in (4, 1, 7))]
        groups.append([replace(one, prompt=prompt) for one in group])
    packed = pack(groups, sources, 0.75, dtype=torch.float64)
    assert packed is not None
    return packed


def method(form: Divergence, weighs_tokens: bool = False) -> Method:
    """A divergence on both sources; with `weighs_tokens` beside log-prob terms whose coefficient is p."""
    normalizer = PerToken(BOTH)
    terms = [Term(source, normalizer=normalizer, weight=0.3, on="divergence") for source in BOTH]
    if weighs_tokens:
        terms += [Term(source, reference=Unit(), normalizer=normalizer) for source in BOTH]
    return Method(ask=Request(3, 1), terms=tuple(terms), divergence=form)


def gradients(learner: Learner, packed: Update, is_repeated: bool = False) -> tuple[dict[str, Tensor], float]:
    """The gradients of the policy's weights by name, and the mean divergence."""
    learner.policy.model.zero_grad()
    prepared = prepare_update(learner, packed, is_repeated)
    backward = BackwardPass(learner, prepared, 0.0, compares_sampler=False)
    for number, micro in enumerate(prepared.micros):
        backward.run(micro, number)
    backward.readers.policy.finish()
    named = learner.policy.model.named_parameters()
    found = {name: weight.grad.clone() for name, weight in named if weight.grad is not None}
    return found, backward.metrics.row()["divergence"]


def by_autograd(policy: Policy, anchor: Any, method: Method, packed: Update) -> tuple[dict[str, Tensor], float]:
    """The same from whole distributions: logits of the models' own forward passes, sample by sample."""
    policy.model.zero_grad()
    form, num = method.divergence, packed.num_tokens
    assert form is not None
    total, divergence = torch.zeros(()).double(), torch.zeros(()).double()
    for row in packed.rows:
        ids = torch.tensor([[*row.prompt.token_ids, *row.ids]])
        start, temperature = len(row.prompt) - 1, 0.75 if row.kind == "rollout" else 1.0
        z = policy.model(input_ids=ids).logits[0, start:-1] / temperature
        read = row.prompt if row.teacher_prompt is None else row.teacher_prompt
        w = anchor(input_ids=torch.tensor([[*read.token_ids, *row.ids]])).logits[0, len(read) - 1 : -1] / temperature
        observed = torch.tensor(row.ids)
        logp = z.log_softmax(-1).gather(-1, observed[:, None])[:, 0]
        distance = literal(form, z, w.detach(), observed)
        divergence = divergence + distance.sum() / num
        total = total + 0.3 * distance.sum() / num
        if "logp" in method.streams:
            total = total - (logp.detach().exp() * logp).sum() / num
    total.backward()
    named = policy.model.named_parameters()
    return {name: weight.grad.clone() for name, weight in named if weight.grad is not None}, float(divergence.detach())


def same(found: tuple[dict[str, Tensor], float], expected: tuple[dict[str, Tensor], float]) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, gradient in expected[0].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-9, atol=1e-11, msg=name)
    assert found[1] == pytest.approx(expected[1], rel=1e-9)


def learner_of(method: Method, policy: Policy, anchor: Policy | None, budget: int = 10**6, **more: Any) -> Learner:
    return Learner(policy, anchor, method, None, budget, **more)  # type: ignore[arg-type]


ANCHOR = Divergence(target="anchor", beta=0.0)


TOP = replace(ANCHOR, beta=0.5, top_k=9)


@pytest.mark.parametrize(
    ("family", "form", "budget"),  # with a tied head, an untied one, and capped logits
    [
        ("qwen2", TOP, 30),
        pytest.param("qwen2", ANCHOR, 10**6, marks=pytest.mark.slow),
        pytest.param("llama", TOP, 30, marks=pytest.mark.slow),
        pytest.param("llama", ANCHOR, 10**6, marks=pytest.mark.slow),
        pytest.param("gemma2", TOP, 30, marks=pytest.mark.slow),
        pytest.param("gemma2", ANCHOR, 10**6, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_autograd(
    family: str, form: Divergence, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", 3000)
    policy, anchor, packed = as_policy(deepcopy(model(family))), as_policy(model(family, 1)), update()
    with in_float64(policy.model, anchor.model):
        for weighs_tokens in (False, True):
            both = method(form, weighs_tokens)
            expected = by_autograd(policy, anchor.model, both, packed)
            for shares in (True, False):
                learner = learner_of(both, replace(policy, shares=shares), anchor, budget)
                same(gradients(learner, packed), expected)


def with_teacher_prompts(packed: Update) -> Update:
    """Rollouts of a problem share a longer prompt of the teacher, demonstrations have one each."""
    rng, prompts = random.Random(7), {}
    for row, group in zip(packed.rows, packed.samples.group.tolist(), strict=True):
        key = (group, 0 if row.kind == "rollout" else id(row))
        prompt = ModelInput(tuple(rng.randrange(3, 30) for _ in range(rng.randrange(9, 20))))
        row.teacher_prompt = prompts.setdefault(key, prompt)
    return packed


TAUGHT = Divergence(target="teacher", beta=0.5)


@pytest.mark.parametrize(
    ("family", "who"),
    [
        ("qwen2", "model"),
        pytest.param("qwen2", "initial", marks=pytest.mark.slow),
        pytest.param("qwen2", "policy", marks=pytest.mark.slow),
        pytest.param("gemma2", "model", marks=pytest.mark.slow),
    ],
)
def test_a_teacher_reads_the_same_tokens_behind_its_prompts(family: str, who: str) -> None:
    policy, other = as_policy(deepcopy(model(family))), as_policy(model(family, 1))
    packed, taught = with_teacher_prompts(update()), replace(method(ANCHOR), divergence=TAUGHT, teacher=Teacher(who))
    models = {"model": {"teachers": {"": other}}, "initial": {"anchor": other}, "policy": {}}[who]
    with in_float64(policy.model, other.model):
        expected = by_autograd(policy, (policy if who == "policy" else other).model, taught, packed)
        for budget in (10**6, 60):
            for shares in (True, False):
                plain = replace(other, shares=shares)
                ours = {name: plain if name == "anchor" else {"": plain} for name in models}
                learner = learner_of(taught, replace(policy, shares=shares), **{"anchor": None, **ours}, budget=budget)
                same(gradients(learner, packed), expected)


def test_an_id_that_only_the_policys_padded_vocabulary_has_is_read_as_another() -> None:
    policy, other = as_policy(model("qwen2")), as_policy(deepcopy(model("qwen2", 1)))
    packed, taught = with_teacher_prompts(update()), replace(method(ANCHOR), divergence=TAUGHT, teacher=Teacher())
    other.model.config.vocab_size = 25
    (micro,) = prepare_update(learner_of(taught, policy, None, teachers={"": other}), packed, False).micros
    assert micro.teacher is not None and int(micro.teacher.input_ids.max()) < 25 <= int(micro.target.max())


def test_chunks_of_both_heads_are_as_large_as_one_without() -> None:
    policy, (micro,) = as_policy(model("qwen2")), update().micros(10**6)
    for form, device, num in ((ANCHOR, "cpu", 2), (TOP, "cpu", 2), (TOP, "cuda", 3)):
        comparison = Comparison(form, target_of(policy, micro), micro.target, micro.temperature)
        assert comparison.num_buffers(torch.device(device)) == num
    at_once = policy.tokens_compared_at_once(comparison)
    assert 2 * at_once in (len(micro.target), len(micro.target) + 1) and len(micro.target) < policy.tokens_at_once


def test_the_budget_counts_the_longer_of_both_prompts() -> None:
    packed, budget = with_teacher_prompts(update()), 60
    for micro in packed.micros(budget, with_teacher=True):
        taught = packed.teacher_micro(micro)
        assert len(taught.input_ids) == 1 or taught.input_ids.numel() <= budget
    assert any(packed.teacher_micro(micro).input_ids.numel() > budget for micro in packed.micros(budget))


def test_a_prompt_of_the_teacher_that_samples_share_is_computed_once() -> None:
    packed = with_teacher_prompts(update())
    (micro,) = packed.micros(10**6)
    taught = packed.teacher_micro(micro, shares=True)
    assert taught.prompts is not None and len(taught.prompts.input_ids) == 6 and len(taught.input_ids) == 12
    assert packed.teacher_micro(micro, shares=True, pads_prompts=False).prompts is None
    assert all(packed.teacher_micro(single, shares=True).prompts is None for single in packed.micros(1))


def test_samples_without_a_teacher_keep_their_prompt() -> None:
    packed = with_teacher_prompts(update())
    (micro,) = packed.micros(10**6)
    packed.rows[0].teacher_prompt = None
    assert packed.behind_teacher_prompts.rows[0].prompt == packed.rows[0].prompt
    with pytest.raises(ValueError, match="no sample"):
        update().teacher_micro(micro)


METHOD = """
from obverse.estimator import Divergence, Method, Term
from obverse.estimator.parts import PerToken, Request, Standardized
from obverse.types import Source

BOTH = (Source.ROLLOUT, Source.DEMONSTRATION)

def held(num_generations: int = 3, beta: float = 0.5) -> Method:
    terms = tuple(Term(source, normalizer=PerToken(BOTH), weight=0.1, on="divergence") for source in BOTH)
    return Method(
        ask=Request(num_generations, 1),
        terms=(Term(Source.ROLLOUT, Standardized(), normalizer=PerToken(BOTH)), *terms),
        divergence=Divergence(target="anchor", beta=beta),
    )
"""


@pytest.mark.slow
def test_a_method_of_ones_own_trains_and_resumes(tmp_path: Path) -> None:
    """Killed after two of four steps and resumed, with two passes over each update; the figure is in metrics.jsonl."""
    tiny, method = save_tiny("qwen2", tmp_path / "qwen2"), tmp_path / "held.py"
    method.write_text(METHOD)
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    options = {"num_iterations": 2, "max_steps": 4}
    train(runs.config(f"{method}:held", tmp_path / "whole", tiny, problems, **options))
    train(runs.config(f"{method}:held", tmp_path / "run", tiny, problems, **options, save_steps=2))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    train(runs.config(f"{method}:held", tmp_path / "run", tiny, problems, **options, resume_from_checkpoint="auto"))
    assert runs.figures(tmp_path / "run") == runs.figures(tmp_path / "whole")
    resumed, whole = (runs.fingerprint(tmp_path / name, 4) for name in ("run", "whole"))
    assert all(resumed[name] == whole[name] for name in ("model.safetensors", "optimizer.safetensors"))
    divergences = [row["divergence"] for row in runs.figures(tmp_path / "whole")]
    assert divergences == sorted(divergences) and 0 < divergences[0] < divergences[-1] < 1


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base_on_the_same_model(tmp_path: Path) -> None:
    """W = W0 + s B A: the gradient by B is s times that by W, times A transposed."""
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    tiny = save_tiny("qwen2", tmp_path / "qwen2")
    adapted, _ = load_adapted(runs.config("grpo", tmp_path / "run", tiny, use_peft=True, lora_r=4), None)
    torch.manual_seed(1)
    for name, weight in adapted.adapter.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    whole = model("qwen2").from_pretrained(tiny)
    whole.load_state_dict({**whole.state_dict(), **merged(adapted)})
    base = as_policy(model("qwen2").from_pretrained(tiny))
    ours, value = gradients(learner_of(method(TOP), adapted, without(adapted)), update())
    theirs, expected = gradients(learner_of(method(TOP), as_policy(whole), base), update())
    assert value == pytest.approx(expected, rel=1e-4) and value > 0
    assert ours and all("lora" in name for name in ours)
    by_b = next(name for name in ours if "q_proj.lora_B" in name)
    layer = by_b.partition(".lora_B")[0]
    low = dict(adapted.model.named_parameters())[by_b.replace("lora_B", "lora_A")]
    scale = next(iter(adapted.model.get_submodule(layer).scaling.values()))
    torch.testing.assert_close(ours[by_b], theirs[layer + ".weight"] @ low.T * scale, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", [TOP, ANCHOR], ids=str)
def test_checkpointed_and_compiled_layers_give_the_same(form: Divergence) -> None:
    anchor, taught = as_policy(model("llama", 1)), method(form, True)
    plain, value = gradients(learner_of(taught, as_policy(deepcopy(model("llama"))), anchor), update())
    for change in (with_checkpoints, with_compiled_layers):
        policy = change(as_policy(deepcopy(model("llama"))))
        found, divergence = gradients(learner_of(taught, policy, anchor, 30), update())
        assert divergence == pytest.approx(value, rel=1e-5)
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.slow
def test_products_in_bfloat16_are_close() -> None:
    """Autocast: states are bfloat16, sums over the vocabulary are not; the target's head is converted as well."""
    anchor, taught = as_policy(model("llama", 1)), method(ANCHOR, True)
    plain, value = gradients(learner_of(taught, as_policy(deepcopy(model("llama"))), anchor), update())
    policy, low = as_policy(deepcopy(model("llama")), mixed=True), as_policy(model("llama", 1), mixed=True)
    found, divergence = gradients(learner_of(taught, policy, low), update())
    assert divergence == pytest.approx(value, rel=0.02)
    for name, gradient in plain.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - gradient).norm() < 0.05 * gradient.norm() + 1e-7, name
    half = as_policy(deepcopy(model("llama")).bfloat16())
    assert gradients(learner_of(taught, half, anchor), update())[1] == pytest.approx(value, rel=0.02)


@pytest.mark.slow
def test_routers_are_balanced_by_the_policys_tokens_alone() -> None:
    """A live teacher reads the same routers: its passes are no part of the balancing loss."""
    config = AutoConfig.for_model("mixtral", **EXPERTS)
    torch.manual_seed(0)
    policy = as_policy(AutoModelForCausalLM.from_config(config))
    losses = []
    live = replace(method(ANCHOR, True), divergence=TAUGHT, teacher=Teacher("policy"))
    for taught in (live, replace(live, terms=live.terms[2:], divergence=None, teacher=None)):
        learner = learner_of(taught, policy, None, 30, balance=balance_of(policy.model, 0.5))
        prepared = prepare_update(learner, with_teacher_prompts(update()), is_repeated=False)
        backward = BackwardPass(learner, prepared, 0.0, compares_sampler=False)
        for number, micro in enumerate(prepared.micros):
            backward.run(micro, number)
        losses.append((backward.router_loss.counts.tolist(), backward.router_loss.loss))
    assert losses[0][0] == losses[1][0] and losses[0][1] == pytest.approx(losses[1][1], rel=1e-6)
