"""Every way to decode gives the completions that plain forward passes give; a model gets the fastest that is right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from architectures import sampled_gap
from tiny_models import save_tiny, tiny_model, tiny_tokenizer
from transformers import BartConfig, BartForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel, RwkvConfig, RwkvForCausalLM
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.zamba2 import modeling_zamba2

from obverse.errors import ConfigError
from obverse.inference import Completion, SamplingParams, SamplingRequest, conformance, native_decode
from obverse.inference.decode_paths import PATHS, DecodePath
from obverse.inference.hf import HFSampler
from obverse.inference.time_steps import limited_time_steps
from obverse.models.load import load
from obverse.models.reduced_model import randomize
from obverse.types import ModelInput

PROMPTS = ((5, 6, 7), (9,), (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21), (22, 23, 24), (25,))
REQUESTS = [
    SamplingRequest(ModelInput(prompt), [10 * number + i for i in range(1 + 2 * (number % 3))])
    for number, prompt in enumerate(PROMPTS)
]

SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mamba2", "deepseek_v32", "zamba2")]


def random_model(kind: str) -> Any:
    """A tiny model of a type that keeps states, whose logits are spread."""
    model = tiny_model(kind, tiny_tokenizer("qwen2")).eval()
    randomize(model)
    return model


def stopping(model: Any) -> SamplingParams:
    """Parameters by which a sixth of all tokens ends a completion."""
    return SamplingParams(tuple(range(0, model.config.vocab_size, 6)), max_tokens=14, temperature=1.3)


def assert_equal(left: list[list[Completion]], right: list[list[Completion]]) -> None:
    for one, two in zip(left, right, strict=True):
        assert [(item.ids, item.finish) for item in one] == [(item.ids, item.finish) for item in two]
        for item, expected in zip(one, two, strict=True):
            assert item.behavior == pytest.approx(expected.behavior, abs=2e-5)


def with_path(model: Any, path: DecodePath, max_rows: int = 4) -> HFSampler:
    sampler = HFSampler(model, max_rows)
    sampler.path = path
    return sampler


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
@pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: path.description)
def test_every_path_samples_the_same(tiny_dir: Path, path: DecodePath) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    params = stopping(model)
    fastest = HFSampler(model).sample(REQUESTS, params)
    assert HFSampler(model).path == PATHS[0]
    assert len({len(item.ids) for completions in fastest for item in completions}) > 3
    for max_rows in (1, 4):
        assert_equal(with_path(model, path, max_rows).sample(REQUESTS, params), fastest)


@pytest.mark.parametrize("kind", ["lfm2", "falcon_h1", "qwen3_next", *SLOW_KINDS])
def test_rows_with_states_come_and_go_and_stay_the_same(kind: str) -> None:
    model = random_model(kind)
    params = stopping(model)
    together = HFSampler(model).sample(REQUESTS, params)
    assert HFSampler(model).path == PATHS[0]
    order = random.Random(0).sample(range(len(REQUESTS)), len(REQUESTS))
    shuffled = HFSampler(model, 3).sample([REQUESTS[number] for number in order], params)
    assert_equal([shuffled[order.index(number)] for number in range(len(REQUESTS))], together)
    assert_equal(with_path(model, PATHS[-1]).sample(REQUESTS, params), together)


def bart() -> Any:
    """Positions count padding: prompts of unequal lengths cannot be padded."""
    sizes = {"vocab_size": 96, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
    return BartForCausalLM(BartConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def rwkv() -> Any:
    """Rows that are decoded together have other log-probs, in transformers 5.23 as well."""
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48}
    return RwkvForCausalLM(RwkvConfig(vocab_size=96, num_hidden_layers=2, **sizes))


def openai_gpt() -> Any:
    """There is no cache."""
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=128))


@pytest.mark.parametrize(
    ("make", "description"),
    [
        (bart, "completions of one length together"),
        (rwkv, "one by one"),
        (openai_gpt, "without a cache"),
    ],
)
def test_a_model_gets_the_fastest_path_that_is_right(make: Any, description: str) -> None:
    model = make().eval()
    randomize(model)
    assert HFSampler(model).path.description == description
    assert sampled_gap(model, SamplingParams((), 12), (3, 11, 3), 96) < 1e-5


def test_a_prompt_is_computed_once_for_its_completions_in_a_native_cache() -> None:
    model, widths = bart().eval(), []
    sampler = HFSampler(model)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    requests = [SamplingRequest(ModelInput((5, 6, 7)), range(4)), SamplingRequest(ModelInput((8, 9, 10)), range(4))]
    sampler.sample(requests, SamplingParams((), 3))
    assert widths == [(2, 3), (8, 1), (8, 1)]


def test_positions_have_one_row_per_completion_in_a_native_cache() -> None:
    """Qwen4 keeps them in its cache, where the rows of a prompt are repeated with its keys."""
    model, shapes = random_model("deepseek_v32"), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(
            [tuple(kwargs[name].shape) for name in ("input_ids", "position_ids")]
        ),
        with_kwargs=True,
    )
    with_path(model, PATHS[2]).sample([SamplingRequest(ModelInput((5, 6, 7)), range(4))], SamplingParams((), 3))
    assert shapes == [[(1, 3)] * 2, [(4, 1)] * 2, [(4, 1)] * 2]


def test_a_native_cache_that_selects_wrong_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_decode.NativeCache, "select", lambda self, rows: None)
    model = bart().eval()
    monkeypatch.setattr(conformance, "_paths", {})
    assert HFSampler(model).path.description in ("one by one", "without a cache")


def test_a_model_that_no_path_samples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_paths", {})
    monkeypatch.setattr(conformance, "_sampled_gap", lambda *_: 0.5)
    with pytest.raises(ConfigError, match=r"'bart' cannot be sampled here: .* 0\.5"):
        HFSampler(bart().eval())


def test_time_steps_are_limited_inside_alone() -> None:
    model = random_model("zamba2")
    update = modeling_zamba2.mamba2_selective_state_update
    with limited_time_steps(model):
        assert modeling_zamba2.mamba2_selective_state_update is not update
    assert modeling_zamba2.mamba2_selective_state_update is update
    with limited_time_steps(random_model("mamba2")):
        assert not hasattr(modeling_mamba2.mamba2_selective_state_update, "func")


@pytest.mark.parametrize("kind", ["lfm2", "mamba2", "qwen3_next"])
def test_a_run_on_states_samples_what_it_trains_on(kind: str, tmp_path: Path) -> None:
    policy = load(str(save_tiny(kind, tmp_path / kind)), dtype="float32", device="cpu")[0]
    assert sampled_gap(policy.model, SamplingParams((), 20), (3, 21, 11)) < 1e-5
