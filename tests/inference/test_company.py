"""Rows that come, split and go: whoever is sampled beside a completion, it stays what its seed makes of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.load import load
from obverse.types import ModelInput

PROMPTS = ((5, 6, 7), (9,), (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21), (22, 23), (24, 25, 26, 27), (28,))
ORDERS = [
    SamplingRequest(ModelInput(prompt), [10 * n + i for i in range(1 + 2 * (n % 3))])
    for n, prompt in enumerate(PROMPTS)
]


def stopping(model: Any, **options: Any) -> SamplingParams:
    """A sixth of all tokens stops: lengths are mixed."""
    return SamplingParams(stop_ids=tuple(range(0, model.config.vocab_size, 6)), max_tokens=14, **options)


def widths(model: Any) -> list[int]:
    """The rows of every forward pass from now on."""
    found: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return found


def same(left: list[list[Completion]], right: list[list[Completion]]) -> None:
    for one, other in zip(left, right, strict=True):
        assert [(each.ids, each.finish) for each in one] == [(each.ids, each.finish) for each in other]
        for mine, theirs in zip(one, other, strict=True):
            assert mine.behavior == pytest.approx(theirs.behavior, abs=1e-5)


@pytest.mark.parametrize("max_rows", [1, 3, 4, 7])
def test_who_waits_joins_and_is_the_same(tiny_dir: Path, max_rows: int) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    params = stopping(model, temperature=1.3)
    together = HFSampler(model).sample(ORDERS, params)
    assert len({len(each.ids) for row in together for each in row}) > 3
    same(HFSampler(model, max_rows).sample(ORDERS, params), together)
    shuffled = random.Random(max_rows).sample(range(len(ORDERS)), len(ORDERS))
    found = HFSampler(model, max_rows).sample([ORDERS[number] for number in shuffled], params)
    same([found[shuffled.index(number)] for number in range(len(ORDERS))], together)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_memory_that_was_never_written_is_never_read(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    params = stopping(model, temperature=1.3)
    together = HFSampler(model).sample(ORDERS, params)
    torch.use_deterministic_algorithms(True)  # fresh memory is NaN
    try:
        same(HFSampler(model, 4).sample(ORDERS, params), together)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_a_history_is_computed_once_for_all_that_share_it(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    found = widths(model)
    HFSampler(model).sample([SamplingRequest(ModelInput((5, 6)), range(8))], SamplingParams((), 6, temperature=0.0))
    assert found == [1] * 6
    found.clear()
    model.lm_head.weight.data *= 6  # some share a beginning, some do not
    (drawn,) = HFSampler(model).sample([SamplingRequest(ModelInput((5, 6)), range(40))], SamplingParams((), 6))
    histories = {tuple(each.ids[:num]) for each in drawn for num in range(6)}
    assert 12 < len(histories) < 200
    assert sum(found) == len(histories)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_free_places_are_taken_while_others_go_on(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    found = widths(model)
    params = SamplingParams(stop_ids=tuple(range(0, model.config.vocab_size, 8)), max_tokens=60)
    (drawn,) = HFSampler(model, max_rows=8).sample([SamplingRequest(ModelInput((5, 6)), range(64))], params)
    num_tokens = sum(len(each.ids) for each in drawn)
    assert max(found) <= 8
    assert len(found) < 2 * num_tokens / 8  # in turns of eight at a time it would be 2.4


@pytest.mark.parametrize("tiny_dir", ["gemma2", "qwen3"], indirect=True)
def test_sliding_windows_slide_for_every_row(tiny_dir: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_dir)
    config.sliding_window, config.layer_types = 4, ["sliding_attention", "full_attention"]
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32, config=config).eval()
    params = SamplingParams((), 12)
    for request, drawn in zip(ORDERS, HFSampler(model, 5).sample(ORDERS, params), strict=True):
        for each in drawn:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([request.prompt.extended(each.ids).token_ids]), use_cache=False
                ).logits
            logp = logits[0, len(request.prompt) - 1 : -1].log_softmax(-1)
            expected = logp.gather(-1, torch.tensor(each.ids)[:, None])[:, 0]
            assert each.behavior == pytest.approx(expected.tolist(), abs=1e-4)
