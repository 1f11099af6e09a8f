"""Every kind of model that obverse would compute otherwise than its own plain forward: right, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import Results, batch, gaps, ours, plain, sampled_gap
from tiny_models import tiny_tokenizer
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.models.gemma4.configuration_gemma4 import Gemma4Config, Gemma4VisionConfig

import runs
from obverse.errors import ConfigError
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.conformance import decode_path
from obverse.inference.decode_paths import PATHS
from obverse.inference.hf import HFSampler
from obverse.models import conformance
from obverse.models.conformance import check_architecture
from obverse.models.policy import IMPLEMENTATION, as_policy
from obverse.models.reduced_model import MAX_PARAMETERS, reduced
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.setup import prepare
from obverse.types import ModelInput

SWITCH = 24  # tokens
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 8.0, 16.0],
    "original_max_position_embeddings": SWITCH,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def made(kind: Any, config: Any) -> Any:
    """A model whose weights are large enough for every difference to show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():
            for each in model.parameters():
                if each.ndim >= 2:
                    each.normal_(0, 0.15)
    return model


def phi3(**options: Any) -> Any:
    options |= {"max_position_embeddings": 512, "original_max_position_embeddings": SWITCH, "sliding_window": None}
    return made(Phi3ForCausalLM, Phi3Config(**SMALL | options, rope_parameters=LONGROPE))


def dynamic(**options: Any) -> Any:
    options |= {"max_position_embeddings": SWITCH}
    return made(LlamaForCausalLM, LlamaConfig(**SMALL | options, rope_parameters=DYNAMIC))


def assert_same(results: Results, expected: Results) -> None:
    logp, gradient = gaps(results, expected)
    assert logp < 2e-5 and gradient < 1e-4


def assert_sampled_as_plain(model: Any, params: SamplingParams) -> None:
    assert sampled_gap(model, params, (3, 9)) < 1e-4


@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_longrope_rows_have_the_frequencies_of_their_own_length(budget: int) -> None:
    """Rows below, at and beyond the switch, one token around it each, in one batch or in several."""
    model = phi3()
    update = batch({3: (2, 20, 21, 22, 23, 30), 12: (5, 11, 12, 13, 30), 30: (1, 2)})
    policy = as_policy(model)
    assert not policy.shares and policy.head is not None
    assert_same(ours(policy, update, budget), plain(model, update))


def test_longrope_is_sampled_up_to_the_switch_and_refused_beyond() -> None:
    model = phi3()
    assert_sampled_as_plain(model, SamplingParams((), SWITCH - 9))
    with pytest.raises(ConfigError, match="--max_completion_length") as caught:
        HFSampler(model, 4).sample([SamplingRequest(ModelInput((5,) * 9), [0])], SamplingParams((), SWITCH - 8))
    assert f"beyond {SWITCH} " in str(caught.value)


def test_dynamic_rope_is_right_up_to_its_positions_and_refused_beyond() -> None:
    model = dynamic()
    policy, short = as_policy(model), batch({3: (2, 21), 12: (5, 12)})
    expected = plain(model, short)
    for shared in (False, policy.shares):  # the padding behind responses has no positions beyond
        assert_same(ours(policy, short, 10**6, shared), expected)
    assert_sampled_as_plain(model, SamplingParams((), SWITCH - 9))
    for shared in (False, policy.shares):
        with pytest.raises(ConfigError, match=f"beyond {SWITCH} "):
            ours(policy, batch({3: (2, 22)}), 10**6, shared)
    with pytest.raises(ConfigError, match=f"beyond {SWITCH} "):
        HFSampler(model, 4).sample([SamplingRequest(ModelInput((5,) * 9), [0])], SamplingParams((), SWITCH - 8))


@pytest.mark.parametrize(
    ("model", "method", "refused"),
    [("dynamic", "sft", True), ("dynamic", "grpo", True), ("longrope", "sft", False), ("longrope", "grpo", True)],
)
def test_a_run_beyond_the_switch_is_refused_before_step_1(
    model: str, method: str, refused: bool, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer("llama")
    kind = dynamic if model == "dynamic" else phi3
    kind(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    long = "nine nine nine nine nine " * 4
    row = {"prompt": "1 + 3", "answer": "4", "demonstration": long if method == "sft" else "4"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "2 + 2"}) + "\n")
    options = {"prompts_per_step": 2, "max_completion_length": SWITCH, "chat_template": "none", "verifier": "math"}
    config = runs.config(method, tmp_path / "run", tmp_path / "model", tmp_path / "rows.jsonl", **options)
    if refused:
        with pytest.raises(ConfigError, match=f"rotary frequencies beyond {SWITCH} tokens"):
            prepare(config, SignalWatcher(Silent()))
    else:
        prepare(config, SignalWatcher(Silent())).folder.release()


def test_an_encoder_is_refused_and_the_same_as_a_decoder_is_right() -> None:
    sizes = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
    with pytest.raises(ConfigError, match="not causal"):
        as_policy(made(BertLMHeadModel, BertConfig(**sizes)))
    model, update = made(BertLMHeadModel, BertConfig(**sizes, is_decoder=True)), batch({3: (2, 9), 11: (4,)})
    assert_same(ours(as_policy(model), update, 10**6), plain(model, update))


def bart(**options: Any) -> Any:
    sizes = {"vocab_size": 96, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    return made(BartForCausalLM, BartConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options))


def rwkv() -> Any:
    config = RwkvConfig(
        vocab_size=96, hidden_size=32, attention_hidden_size=32, intermediate_size=48, num_hidden_layers=2
    )
    return made(RwkvForCausalLM, config)


@pytest.mark.parametrize(("error", "pads"), [(0.0, True), (1e-5, False)])
def test_an_error_of_a_hundred_thousandth_is_not_taken_for_rounding(
    error: float, pads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in batches of several rows shows in float64, where rounding is smaller by ten orders of magnitude."""
    forward = LlamaModel.forward

    @wraps(forward)
    def inexact(self: Any, *args: Any, **named: Any) -> Any:
        output = forward(self, *args, **named)
        if len(output.last_hidden_state) > 1:
            output.last_hidden_state = output.last_hidden_state * (1 + error)
        return output

    monkeypatch.setattr(LlamaModel, "forward", inexact)
    config = LlamaConfig(**SMALL | {"vocab_size": 94 if pads else 95})  # capabilities are stored by configuration
    assert as_policy(made(LlamaForCausalLM, config)).rows.pads == pads


def test_half_of_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="BartForConditionalGeneration"):
        as_policy(bart(architectures=["BartForConditionalGeneration"]))


@pytest.mark.parametrize("cap", [2.0, 30.0])
def test_a_cap_that_stands_in_the_text_config_is_applied(cap: float) -> None:
    """Looked at with the logits of a fresh model, which are too small to show it."""
    text = Gemma4TextConfig(
        **SMALL,
        vocab_size_per_layer_input=96,
        head_dim=8,
        global_head_dim=8,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        final_logit_softcapping=cap,
    )
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    vision = Gemma4VisionConfig(**sizes, num_key_value_heads=2)
    names = ("image", "boi", "eoi", "video", "audio", "boa")
    ids = {f"{name}_token_id": 90 + number for number, name in enumerate(names)}
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **ids)
    model = made(Gemma4ForConditionalGeneration, config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    policy = as_policy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e4)
    update = batch({3: (2, 9), 11: (4,)})
    assert_same(ours(policy, update, 10**6), plain(model, update))


@pytest.mark.parametrize("kind", ["granite", "cohere"])
def test_a_scale_shows_although_the_head_is_zero(kind: str) -> None:
    options = SMALL | {"tie_word_embeddings": False}
    model = (
        made(GraniteForCausalLM, GraniteConfig(**options, logits_scaling=8.0))
        if kind == "granite"
        else made(CohereForCausalLM, CohereConfig(**options, logit_scale=0.0625))
    )
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()
    policy = as_policy(model)
    with torch.no_grad():
        head.normal_(0, 1)
    update = batch({3: (2, 9), 11: (4,)})
    assert_same(ours(policy, update, 10**6), plain(model, update))


def test_layers_that_share_keys_are_sampled() -> None:
    """Gemma 4's last layers read the keys of others and keep none."""
    config = Gemma4TextConfig(
        **SMALL | {"num_hidden_layers": 4},
        vocab_size_per_layer_input=96,
        head_dim=8,
        global_head_dim=8,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=8,
    )
    assert_sampled_as_plain(made(Gemma4ForCausalLM, config), SamplingParams((), 14))


def test_the_padding_behind_responses_needs_no_positions() -> None:
    """A long prompt and a long response of another one: side by side they would reach beyond the table."""
    model = made(GPT2LMHeadModel, GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=24))
    policy, update = as_policy(model), batch({3: (2, 21), 20: (1, 4)})
    assert policy.shares
    assert_same(ours(policy, update, 10**6, shared=True), plain(model, update))


def test_a_copy_of_a_large_model_is_small_and_has_its_classes() -> None:
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
    with torch.device("meta"):
        large = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=28, num_key_value_heads=4))
    copy = reduced(large)
    assert copy is not None and sum(each.numel() for each in copy.parameters()) < MAX_PARAMETERS
    assert {type(each) for each in copy.modules()} == {type(each) for each in large.modules()}
    assert check_architecture(large, IMPLEMENTATION).shares
    assert decode_path(large).pads


def test_a_copy_of_falcon_h1_has_as_many_mamba_heads_as_its_states() -> None:
    """Their number and width depend on mamba_d_ssm and not, as in other hybrid models, on the hidden size."""
    attention = {"hidden_size": 1024, "num_hidden_layers": 36, "num_attention_heads": 8, "num_key_value_heads": 2}
    mamba = {"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128}
    with torch.device("meta"):
        large = FalconH1ForCausalLM(FalconH1Config(**attention, **mamba, vocab_size=32784))
    copy = reduced(large)
    assert copy is not None and sum(weight.numel() for weight in copy.parameters()) < MAX_PARAMETERS
    assert copy.config.mamba_d_ssm == copy.config.mamba_n_heads * copy.config.mamba_d_head < 1536


def test_a_model_without_a_small_copy_is_tried_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("models", "inference"):
        monkeypatch.setattr(f"obverse.{module}.conformance.reduced", lambda model: None)
    model, update = made(LlamaForCausalLM, LlamaConfig(**SMALL | {"vocab_size": 97})), batch({3: (2, 9), 11: (4,)})
    policy = as_policy(model)
    assert policy.head is None and not policy.shares
    assert_same(ours(policy, update, 10**6), plain(model, update))
    assert HFSampler(model).path == PATHS[-1]
    sizes = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
    with pytest.raises(ConfigError, match="not causal"):
        as_policy(made(BertLMHeadModel, BertConfig(**sizes | {"vocab_size": 97})))


def test_prompts_that_differ_by_more_than_rounding_are_not_tried_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_capabilities", {})
    monkeypatch.setattr(conformance, "_difference", lambda model, capabilities, *_: 0.5 * capabilities.shares)
    monkeypatch.setattr(conformance, "in_float64", lambda *_: pytest.fail("float64"))
    model = made(LlamaForCausalLM, LlamaConfig(**SMALL))
    capabilities = check_architecture(model, IMPLEMENTATION)
    assert capabilities.has_table and not capabilities.shares and "0.5" in capabilities.unshared


def test_trying_a_model_draws_nothing_from_the_random_numbers_of_the_run() -> None:
    model, before = phi3(), torch.get_rng_state()
    assert reduced(model) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_that_may_not_be_padded_are_read_by_length() -> None:
    policy, update = as_policy(made(LlamaForCausalLM, LlamaConfig(**SMALL))), batch({3: (2, 9), 11: (4, 1)})
    apart = replace(policy, shares=False, rows=replace(policy.rows, pads=False))
    widths: list[tuple[int, ...]] = []
    decoder = policy.model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda module, args, named: widths.append(tuple(next(iter(named.values())).shape[:2])), with_kwargs=True
    )
    apart_results = ours(apart, update, 10**6)
    assert sorted(widths) == [(1, 5), (1, 14), (2, 12)]
    assert_same(apart_results, ours(policy, update, 10**6))
