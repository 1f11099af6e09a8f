"""Prompts computed once give the gradients of prompts repeated, for every kind of state that a cache holds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import batch, gaps, ours, plain
from exam.batches import sample
from tiny_models import SMALL, architecture, save_tiny
from transformers import CohereConfig, CohereForCausalLM

from obverse.models.batch import Update, blocks, pack
from obverse.models.conformance import Capabilities
from obverse.models.load import load
from obverse.models.policy import Policy, as_policy, logprobs
from obverse.models.prompt_cache import StateLayer
from obverse.models.reduced_model import randomize
from obverse.models.shared_prefix import PromptBatch, SharedPrefix, can_share
from obverse.types import ModelInput, Sample, Source

SHARING = ("qwen2", "qwen3", "llama", "gemma", "gemma2")
# Sliding windows; convolutions; convolutions and recurrent states, alone, beside keys and values, and in other layers;
# indexer keys.
STATE_KINDS = ("gemma2", "lfm2", "mamba2", "falcon_h1", "qwen3_next", "deepseek_v32")
OWN = frozenset({Source.ROLLOUT})


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    found = {}
    for name in SHARING:
        found[name] = load(str(save_tiny(name, tmp_path_factory.mktemp("prompts") / name)), "float64")[0]
    return found


def update(prompt_lengths: tuple[int, ...], response_lengths: tuple[int, ...]) -> Update:
    """A problem per prompt; each with a sample of every response length."""
    rng = random.Random(5)
    groups: list[list[Sample]] = []
    for length in prompt_lengths:
        prompt = ModelInput(tuple(rng.randrange(3, 30) for _ in range(length)))
        groups.append([replace(sample(rng, "rollout", 1.0, num), prompt=prompt) for num in response_lengths])
    made = pack(groups, OWN)
    assert made is not None
    return made


Logps = dict[tuple[int, int], float]  # by sample and position


def gradient(policy: Policy, made: Update, budget: int, shared: bool) -> tuple[Logps, torch.Tensor]:
    """Log-probs by (sample, position), and the gradient of a weighted sum of them."""
    policy.model.zero_grad()
    logps: Logps = {}
    reader = SharedPrefix(policy.model)
    for micro in made.micros(budget, shared=shared, pads_prompts=policy.pads_prompts):
        logp, _ = logprobs(policy, micro, reader=reader)
        places = zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True)
        logps |= dict(zip(places, logp.tolist(), strict=True))
        weight = torch.cos(micro.tokens.sample * 7.0 + micro.tokens.position)
        (logp * weight).sum().backward()
    reader.finish()
    return logps, torch.cat([each.grad.flatten() for each in policy.model.parameters() if each.grad is not None])


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize(
    ("prompts", "responses"),
    [((5, 2, 9), (4, 1, 7)), ((4, 4), (3, 3)), ((1,), (1, 1)), ((6, 3, 3, 8, 1), (1, 2, 12))],
    ids=["ragged", "equal", "one-token", "more"],
)
@pytest.mark.parametrize("budget", [1, 40, 10**6])
def test_shared_prompts_give_the_plain_gradient(
    name: str, prompts: tuple[int, ...], responses: tuple[int, ...], budget: int, policies: dict[str, Policy]
) -> None:
    policy, made = policies[name], update(prompts, responses)
    assert policy.shares
    plain_logps, plain = gradient(policy, made, 10**6, shared=False)
    logps, found = gradient(policy, made, budget, shared=True)
    assert logps.keys() == plain_logps.keys()
    assert max(abs(logps[place] - plain_logps[place]) for place in logps) < 1e-5  # log-probs are float32
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6 * float(plain.abs().max()))


def test_a_prompt_is_computed_once(policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch) -> None:
    policy, made = policies["qwen2"], update((5, 6), (3, 4, 5, 6))
    decoder, num_tokens = policy.model.get_decoder(), []
    real = decoder.forward
    monkeypatch.setattr(
        decoder, "forward", lambda *args, **named: num_tokens.append(named["input_ids"].numel()) or real(*args, **named)
    )
    gradient(policy, made, 12, shared=True)
    assert sum(num_tokens) < made.num_input_tokens - 5 * 6  # each prompt would have been read four times
    responses = [micro.input_ids.numel() for micro in made.micros(12, shared=True)]
    assert sum(num_tokens) - sum(responses) <= 2 * 6


def test_without_gradients_nothing_is_kept(policies: dict[str, Policy]) -> None:
    policy, made = policies["qwen2"], update((5, 6), (3, 4))
    with torch.no_grad():
        reader = SharedPrefix(policy.model)
        for micro in made.micros(10**6, shared=True):
            assert not logprobs(policy, micro, reader=reader)[0].requires_grad
        assert reader.current is not None and not any(leaf.requires_grad for leaf in reader.current.leaves)


def tiny(kind: str) -> Any:
    """A model of the kind with weights far from zero and windows of 8 tokens."""
    config_class, make_model, options = architecture(kind)
    torch.manual_seed(0)
    model = make_model(
        config_class(**SMALL | options | {"vocab_size": 96, "sliding_window": 8, "pad_token_id": 0})
    ).eval()
    randomize(model)
    return model


@pytest.mark.parametrize("kind", STATE_KINDS)
def test_responses_continue_from_every_state_of_a_prompt(kind: str) -> None:
    """Prompts beyond windows and shorter than convolutions; responses of two tokens, of which one is read."""
    model, rows = tiny(kind), batch({2: (2, 9), 12: (1, 4), 9: (2, 10)})
    expected = plain(model, rows)
    for pads_prompts in (True, False):
        capabilities = Capabilities(has_head=True, shares=True, pads_prompts=pads_prompts)
        policy = as_policy(model, capabilities=capabilities)
        logp, gradient_gap = gaps(ours(policy, rows, 30, shared=True), expected)
        assert logp < 1e-5 and gradient_gap < 2e-5


def test_the_logits_of_a_model_with_a_scaled_head_continue_from_a_prompt() -> None:
    """Only the model's own forward pass computes them."""
    config = CohereConfig(**SMALL | {"vocab_size": 96, "logit_scale": 0.25})
    torch.manual_seed(0)
    model, rows = CohereForCausalLM(config).eval(), batch({2: (2, 9), 12: (1, 4), 9: (2, 10)})
    randomize(model)
    policy = as_policy(model)
    assert policy.head is None and policy.shares
    logp, gradient_gap = gaps(ours(policy, rows, 30, shared=True), plain(model, rows))
    assert logp < 1e-5 and gradient_gap < 2e-5


def test_a_state_that_no_forward_pass_continues_from_is_not_shared() -> None:
    """The scan of Mamba-1 over several tokens starts from zero."""
    policy = as_policy(tiny("mamba"))
    assert not policy.shares and "cache of a prompt" in policy.unshared


def test_states_without_a_gradient_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel would give them that returns the final state of a scan and does not differentiate it."""
    model, update_state = tiny("mamba2"), StateLayer.update_recurrent_state
    assert can_share(model, pads=True)
    monkeypatch.setattr(
        StateLayer, "update_recurrent_state", lambda layer, states, *args: update_state(layer, states.detach(), *args)
    )
    assert not can_share(model, pads=True)


def test_prompts_are_padded_on_the_left_and_only_where_they_differ() -> None:
    ragged = PromptBatch.of([ModelInput((1, 2, 3)), ModelInput((4,))])
    assert ragged.input_ids.tolist() == [[1, 2, 3], [0, 0, 4]] and ragged.mask is not None
    assert ragged.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert PromptBatch.of([ModelInput((1, 2)), ModelInput((3, 4))]).mask is None
    assert ragged.to(torch.device("cpu")) is ragged


def test_blocks_without_padding_hold_prompts_of_one_length() -> None:
    prompts = [ModelInput((token,) * length) for token, length in ((3, 2), (4, 2), (5, 3), (6, 3), (7, 3))]
    assert [len(block) for block in blocks(prompts, 100, pads=False)] == [2, 3]
    assert [len(block) for block in blocks(prompts, 6, pads=False)] == [2, 2, 1]
    made = pack([[replace(sample(random.Random(5), "rollout", 1.0, 4), prompt=prompt)] for prompt in prompts], OWN)
    assert made is not None
    assert all(micro.prompts.mask is None for micro in made.micros(100, shared=True, pads_prompts=False))


def test_blocks_hold_as_many_prompts_as_fit() -> None:
    prompts = [ModelInput((5,) * length) for length in (1, 2, 3, 7)]
    assert [len(block) for block in blocks(prompts, 6)] == [2, 1, 1]
    assert [len(block) for block in blocks(prompts, 100)] == [4]
