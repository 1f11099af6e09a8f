"""The embedded sampler on every family: recorded log-probs are the model's, and company changes nothing."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.inference.slot_cache import SlotCache
from obverse.models.load import load
from obverse.types import ModelInput

LAW = SamplingParams(stop_ids=(), max_tokens=9, temperature=0.7)
ORDERS = [
    SamplingRequest(ModelInput((5, 6, 7, 8, 9, 10, 11)), [1, 2, 3]),
    SamplingRequest(ModelInput((5,)), [4]),
    SamplingRequest(ModelInput((40, 41, 42)), [5, 6]),
]


def close(left: Completion, right: Completion) -> None:
    assert (left.ids, left.finish) == (right.ids, right.finish)
    assert left.behavior == pytest.approx(right.behavior, abs=1e-5)


def test_recorded_log_probs_are_those_of_a_plain_forward_pass(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    for request, completions in zip(ORDERS, HFSampler(model).sample(ORDERS, LAW), strict=True):
        assert len(completions) == len(request.seeds)
        for completion in completions:
            ids = torch.tensor([request.prompt.extended(completion.ids).token_ids])
            with torch.no_grad():
                logp = (model(input_ids=ids).logits / LAW.temperature).log_softmax(-1)
            first = len(request.prompt) - 1
            expected = [float(logp[0, first + i, token]) for i, token in enumerate(completion.ids)]
            assert completion.behavior == pytest.approx(expected, abs=1e-4)


def test_a_completion_does_not_depend_on_its_company(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    together = HFSampler(model).sample(ORDERS, LAW)
    backwards = HFSampler(model).sample(ORDERS[::-1], LAW)[::-1]
    few = HFSampler(model, max_rows=2).sample(ORDERS, LAW)
    for index, request in enumerate(ORDERS):
        for number, seed in enumerate(request.seeds):
            alone = HFSampler(model).sample([SamplingRequest(request.prompt, [seed])], LAW)[0][0]
            for other in (together, backwards, few):
                close(other[index][number], alone)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_a_cache_that_has_to_grow_changes_nothing(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    roomy = HFSampler(model).sample(ORDERS, LAW)
    monkeypatch.setattr("obverse.inference.slot_cache.SPARE", 0)
    for left, right in zip(roomy, HFSampler(model).sample(ORDERS, LAW), strict=True):
        for one, other in zip(left, right, strict=True):
            close(one, other)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_rows_end_with_the_stop_token_or_at_the_limit(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    vocabulary = model.config.vocab_size
    params = SamplingParams(
        stop_ids=tuple(range(0, vocabulary, 4)), max_tokens=6
    )  # a quarter of all tokens: rows end at all lengths
    done: list[int] = []
    (completions,) = HFSampler(model).sample([SamplingRequest(ModelInput((5, 6)), range(60))], params, done.append)
    for completion in completions:
        *before, last = completion.ids
        assert not set(before) & set(params.stop_ids)
        assert len(completion.behavior) == len(completion.ids)
        assert completion.finish == ("stop" if last in params.stop_ids else "length")
        assert completion.finish == "stop" or len(completion.ids) == params.max_tokens
    assert {len(completion.ids) for completion in completions} == set(range(1, 7))
    assert done == sorted(done) and done[-1] == 60


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_finished_rows_leave_the_batch(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    params = SamplingParams(stop_ids=tuple(range(0, model.config.vocab_size, 2)), max_tokens=12)
    HFSampler(model).sample([SamplingRequest(ModelInput((5, 6)), range(64))], params)
    assert widths[0] == 1  # the prompt once
    assert widths[1] <= 64 and widths[-1] < 8
    assert sum(widths[1:]) < 64 * 4


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_the_cache_goes_with_the_call_that_made_it(tiny_dir: Path) -> None:
    """In a circle of references it would stay, beside gradients and activations, until the garbage collector came."""
    sampler, held = HFSampler(load(str(tiny_dir))[0].model), []
    gc.disable()
    try:
        made = SlotCache.append_rows

        def take(self: SlotCache, *words: Any) -> None:
            held.append(weakref.ref(self))
            made(self, *words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotCache, "append_rows", take)
            sampler.sample([SamplingRequest(ModelInput((1, 2, 3)), [7, 8])], SamplingParams((), 4))
        assert held and all(each() is None for each in held)
    finally:
        gc.enable()
