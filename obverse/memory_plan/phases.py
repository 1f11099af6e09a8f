"""What the phases of a step hold at their peak: the run's own code walked through once with shadows."""

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
from obverse.memory_plan.batch_shapes import Training, Writing
from obverse.memory_plan.fake_ledger import Ledger
from obverse.memory_plan.meta_models import Shadows
from obverse.models.batch import Micro
from obverse.models.policy import Policy, logprobs, scalars
from obverse.models.shared_prefix import Prompts, Reader
from obverse.types import ModelInput


def micro_batch(num_rows: int, width: int, num_scored: int, prompts: Prompts | None = None) -> Micro:
    """A padded batch [num_rows, width] of which `num_scored` tokens of every row train; zeros throughout."""
    number = num_rows * num_scored
    whole, real = torch.zeros(number, dtype=torch.long), torch.zeros(number)
    tokens = Tokens(whole, whole, whole, real, sampler=real)
    reads = None if prompts is None else torch.zeros(num_rows, dtype=torch.long)
    ids = torch.zeros(num_rows, width, dtype=torch.long)
    return Micro(ids, whole, whole, whole, real, tokens, prompts, reads)


def training(ledger: Ledger, nets: Shadows, method: Method, work: Training) -> int:
    """Bytes that an update by `method` holds at its peak beside what is there before it: gradients and activations."""
    learning = [nets.policy.model, *([nets.critic] if method.critic is not None else [])]
    before = ledger.mark()
    if work.num_micros > 1:  # the second micro batch finds the first one's gradients
        for model in learning:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    prompts = Prompts.of([ModelInput((0,) * work.prompt)] * work.num_prompts) if work.num_prompts else None
    reader = Reader(nets.policy.model, nets.policy.table)
    for _ in range(min(work.num_micros, 2) if prompts else 1):
        _micro(nets, method, micro_batch(work.num_rows, work.width, work.num_scored, prompts), reader)
    reader.finish()
    needed = ledger.peak - before
    for model in learning:
        model.zero_grad(set_to_none=True)
    return needed


def _micro(nets: Shadows, method: Method, micro: Micro, reader: Reader) -> None:
    """One forward and backward pass, as `learn.learn` makes it."""
    streams: list[Tensor] = []
    shared = micro.prompts is not None
    if method.trains_policy:
        streams += logprobs(nets.policy, micro, "entropy" in method.streams, reader=reader if shared else None)
    if nets.anchor is not None and method.needs("anchor"):
        with torch.no_grad():
            logprobs(nets.anchor, micro, reader=Reader(nets.anchor.model) if shared else None)
    if nets.critic is not None and "value" in method.streams:
        streams.append(scalars(nets.critic, micro, after=False))
    if "score" in method.streams:
        streams.append(scalars(nets.policy.model, micro, after=True))
    torch.autograd.backward([each.sum() for each in streams if each.requires_grad])


@torch.no_grad()
def sampling(ledger: Ledger, policy: Policy, work: Writing, params: SamplingParams) -> tuple[int, int]:
    """Bytes of the full key-value cache, and of all that sampling holds at its peak, the cache included."""
    model = policy.model
    with _products(policy):
        before = ledger.mark()
        cache = SlotCache(num_layers(model))
        filled = prefill_cache(len(cache.layers))
        logits = _read(model, filled, work.num_prompts, work.prompt)
        cache.append_rows(filled, [work.prompt] * work.num_prompts)
        prefill = ledger.peak - before
        del filled, cache, logits

        cache = SlotCache(num_layers(model))
        last = work.length - 1
        cache.append_rows(_full(model, work, max(1, last - SPARE)), [max(1, last - SPARE)] * work.num_rows)
        cache.end, cache.lengths = last, [last - 1, *[last] * (work.num_rows - 1)]  # a row that is shorter: a mask
        logits = torch.zeros(work.num_rows, model.config.get_text_config().vocab_size, dtype=model.dtype)
        ledger.mark()
        mask, places = cache.next_position()  # with this it grows for the last time
        cache_bytes = sum(each.numel() * each.element_size() for each in _states(cache))
        logits = model(
            input_ids=torch.zeros(work.num_rows, 1, dtype=torch.long),
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        sample_tokens(logits, params, torch.zeros(work.num_rows, dtype=torch.float64))
        return cache_bytes, max(prefill, ledger.peak - before)


def _read(model: Any, cache: Any, num_prompts: int, width: int) -> Tensor:
    ids = torch.zeros(num_prompts, width, dtype=torch.long)
    logits: Tensor = model(
        input_ids=ids, attention_mask=ids + 1, position_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits


def _full(model: Any, work: Writing, width: int) -> Any:
    """A cache of all rows, `width` tokens long, in the layers' own shapes: they are asked with a token."""
    asked = prefill_cache(num_layers(model))
    _read(model, asked, 1, 1)
    for layer in asked.layers:
        if layer.is_initialized:
            for name in ("keys", "values"):
                _, heads, _, size = getattr(layer, name).shape
                setattr(layer, name, getattr(layer, name).new_empty(work.num_rows, heads, width, size))
    return asked


def _states(cache: SlotCache) -> Iterator[Tensor]:
    for layer in cache.layers:
        if layer.is_initialized:
            yield layer.keys
            yield layer.values


@contextmanager
def _products(policy: Policy) -> Iterator[None]:
    """As the sampler computes."""
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.mixed):
        yield
