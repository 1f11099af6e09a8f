"""Peak memory of the phases of a step, by running their code once with fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from obverse.estimator.method import Method
from obverse.estimator.tables import Tokens
from obverse.inference.distribution import sample_tokens
from obverse.inference.kv_cache import SPARE, SlotCache, num_layers, prefill_cache
from obverse.inference.types import SamplingParams
from obverse.memory_plan.batch_shapes import DecodingShape, TrainingShape
from obverse.memory_plan.memory_tracker import MemoryTracker
from obverse.memory_plan.meta_models import MetaModels
from obverse.models.batch import Micro
from obverse.models.policy import Policy, logprobs, scalars
from obverse.models.shared_prefix import PromptBatch, SharedPrefix
from obverse.types import ModelInput


def micro_batch(num_rows: int, width: int, num_scored: int, prompts: PromptBatch | None = None) -> Micro:
    """A micro batch [num_rows, width] of zeros, with `num_scored` trained tokens per row."""
    number = num_rows * num_scored
    indices, values = torch.zeros(number, dtype=torch.long), torch.zeros(number)
    tokens = Tokens(indices, indices, indices, values, sampler=values)
    prompt_row = None if prompts is None else torch.zeros(num_rows, dtype=torch.long)
    ids = torch.zeros(num_rows, width, dtype=torch.long)
    return Micro(ids, indices, indices, indices, values, tokens, prompts, prompt_row)


def training(tracker: MemoryTracker, nets: MetaModels, method: Method, work: TrainingShape) -> int:
    """Peak bytes of an update by `method` beyond those before it: gradients and activations."""
    trained = [nets.policy.model, *([nets.critic] if method.critic is not None else [])]
    before = tracker.mark()
    if work.num_micros > 1:  # gradients of the first micro batch exist during the second
        for model in trained:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    prompts = PromptBatch.of([ModelInput((0,) * work.prompt)] * work.num_prompts) if work.num_prompts else None
    reader = SharedPrefix(nets.policy.model, nets.policy.table)
    for _ in range(min(work.num_micros, 2) if prompts else 1):
        _micro(nets, method, micro_batch(work.num_rows, work.width, work.num_scored, prompts), reader)
    reader.finish()
    needed = tracker.peak - before
    for model in trained:
        model.zero_grad(set_to_none=True)
    return needed


def _micro(nets: MetaModels, method: Method, micro: Micro, reader: SharedPrefix) -> None:
    """One forward and backward pass, as in `obverse.training.update`."""
    streams: list[Tensor] = []
    shared = micro.prompts is not None
    if method.trains_policy:
        streams += logprobs(nets.policy, micro, "entropy" in method.streams, reader=reader if shared else None)
    if nets.anchor is not None and method.needs("anchor"):
        with torch.no_grad():
            logprobs(nets.anchor, micro, reader=SharedPrefix(nets.anchor.model) if shared else None)
    if nets.critic is not None and "value" in method.streams:
        streams.append(scalars(nets.critic, micro, after=False))
    if "score" in method.streams:
        streams.append(scalars(nets.policy.model, micro, after=True))
    torch.autograd.backward([stream.sum() for stream in streams if stream.requires_grad])


@torch.no_grad()
def sampling(tracker: MemoryTracker, policy: Policy, work: DecodingShape, params: SamplingParams) -> tuple[int, int]:
    """Bytes of the largest key-value cache, and peak bytes of sampling including the cache."""
    model = policy.model
    with _autocast(policy):
        before = tracker.mark()
        cache = SlotCache(num_layers(model))
        filled = prefill_cache(len(cache.layers))
        logits = _prefill(model, filled, work.num_prompts, work.prompt)
        cache.append_rows(filled, [work.prompt] * work.num_prompts)
        prefill = tracker.peak - before
        del filled, cache, logits

        cache = SlotCache(num_layers(model))
        last = work.length - 1
        cache.append_rows(_full(model, work, max(1, last - SPARE)), [max(1, last - SPARE)] * work.num_rows)
        cache.end, cache.lengths = (
            last,
            [last - 1, *[last] * (work.num_rows - 1)],
        )  # one shorter row, so that a mask is needed
        logits = torch.zeros(work.num_rows, model.config.get_text_config().vocab_size, dtype=model.dtype)
        tracker.mark()
        mask, places = cache.next_position()  # the last growth of the cache
        cache_bytes = sum(state.numel() * state.element_size() for state in _states(cache))
        logits = model(
            input_ids=torch.zeros(work.num_rows, 1, dtype=torch.long),
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        sample_tokens(logits, params, torch.zeros(work.num_rows, dtype=torch.float64))
        return cache_bytes, max(prefill, tracker.peak - before)


def _prefill(model: Any, cache: Any, num_prompts: int, width: int) -> Tensor:
    ids = torch.zeros(num_prompts, width, dtype=torch.long)
    logits: Tensor = model(
        input_ids=ids, attention_mask=ids + 1, position_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits


def _full(model: Any, work: DecodingShape, width: int) -> Any:
    """A cache of all rows, `width` tokens long; the shapes of its layers come from a pass over one token."""
    cache = prefill_cache(num_layers(model))
    _prefill(model, cache, 1, 1)
    for layer in cache.layers:
        if layer.is_initialized:
            for name in ("keys", "values"):
                _, heads, _, size = getattr(layer, name).shape
                setattr(layer, name, getattr(layer, name).new_empty(work.num_rows, heads, width, size))
    return cache


def _states(cache: SlotCache) -> Iterator[Tensor]:
    for layer in cache.layers:
        if layer.is_initialized:
            yield layer.keys
            yield layer.values


@contextmanager
def _autocast(policy: Policy) -> Iterator[None]:
    """The autocast mode of the sampler."""
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.mixed):
        yield
