"""Peak memory of the phases of a step, by running their code once with fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from obverse.estimator.method import Method
from obverse.estimator.tables import Tokens
from obverse.inference.decode_loop import forward, prefill
from obverse.inference.decode_paths import DecodePath
from obverse.inference.distribution import sample_tokens
from obverse.inference.native_decode import NativeCache
from obverse.inference.slot_cache import SPARE, SlotCache
from obverse.inference.slot_layers import POSITIONS, layer_tensors, set_layer_tensor
from obverse.inference.types import SamplingParams
from obverse.memory_plan.batch_shapes import DecodingShape, TrainingShape
from obverse.memory_plan.memory_tracker import MemoryTracker
from obverse.memory_plan.meta_models import MetaModels
from obverse.models.batch import Micro
from obverse.models.cache_layers import accepts, full_cache, native_layers
from obverse.models.policy import Policy, logprobs, scalars, target_of
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
    reader = nets.policy.prompt_reader()
    for _ in range(min(work.num_micros, 2) if prompts else 1):
        micro = micro_batch(work.num_rows, work.width, work.num_scored, prompts)
        read_by_teacher = micro_batch(work.num_rows, work.teacher_prompt + work.num_scored, work.num_scored)
        _micro(nets, method, micro, reader, read_by_teacher if work.teacher_prompt else None)
    reader.finish()
    needed = tracker.peak - before
    for model in trained:
        model.zero_grad(set_to_none=True)
    return needed


def _micro(nets: MetaModels, method: Method, micro: Micro, reader: SharedPrefix, read_by_teacher: Micro | None) -> None:
    """One forward and backward pass, as in `obverse.training.update`; a divergence's teacher reads plain rows."""
    streams: list[Tensor] = []
    shared = micro.prompts is not None
    target: Any = None  # its states exist until the backward pass; its logits share the chunk's buffers
    if method.divergence is not None:
        model = divergence_target(nets, method)
        reads_shared = shared and read_by_teacher is None
        target = target_of(model, read_by_teacher or micro, model.prompt_reader() if reads_shared else None)
    if method.trains_policy:
        streams += logprobs(nets.policy, micro, "entropy" in method.streams, reader=reader if shared else None)
    if nets.anchor is not None and method.needs("anchor"):
        with torch.no_grad():
            logprobs(nets.anchor, micro, reader=nets.anchor.prompt_reader() if shared else None)
    if nets.critic is not None and "value" in method.streams:
        streams.append(scalars(nets.critic, micro, after=False))
    if "score" in method.streams:
        streams.append(scalars(nets.policy.model, micro, after=True))
    torch.autograd.backward([stream.sum() for stream in streams if stream.requires_grad])
    del target


def divergence_target(nets: MetaModels, method: Method) -> Policy:
    """The model that the method's divergence compares the policy with; with adapters often the policy's own."""
    is_anchor = method.compares_with("anchor")
    teachers = () if is_anchor else nets.teachers_of(method)
    return teachers[0] if teachers else nets.anchor or nets.policy


@torch.no_grad()
def scoring(tracker: MemoryTracker, teacher: Policy, work: TrainingShape) -> int:
    """Peak bytes of the forward passes by which a teacher scores samples."""
    before = tracker.mark()
    prompts = PromptBatch.of([ModelInput((0,) * work.prompt)] * work.num_prompts) if work.num_prompts else None
    micro = micro_batch(work.num_rows, work.width, work.num_scored, prompts)
    logprobs(teacher, micro, reader=teacher.prompt_reader() if prompts else None)
    return tracker.peak - before


@torch.no_grad()
def sampling(
    tracker: MemoryTracker, policy: Policy, work: DecodingShape, params: SamplingParams, path: DecodePath
) -> tuple[int, int]:
    """Bytes of the largest cache of all completions, and peak bytes of sampling including the cache."""
    with _autocast(policy):
        if path.slots:
            return _slot_sampling(tracker, policy.model, work, params)
        return _native_sampling(tracker, policy.model, work, params, path)


def _slot_sampling(tracker: MemoryTracker, model: Any, work: DecodingShape, params: SamplingParams) -> tuple[int, int]:
    """The memory of `obverse.inference.decode_loop`: prefill of the prompts, then the last token of all rows."""
    before = tracker.mark()
    cache, filled = SlotCache(native_layers(model)), full_cache(model)
    takes_positions = accepts(model, "position_ids")
    logits = prefill(model, filled, [[0] * work.prompt] * work.num_prompts, takes_positions)
    cache.append_rows(filled, [work.prompt] * work.num_prompts)
    prefilled = tracker.peak - before
    del filled, cache, logits

    cache = SlotCache(native_layers(model))
    last = work.length - 1
    cache.append_rows(_full(model, work, max(1, last - SPARE)), [max(1, last - SPARE)] * work.num_rows)
    cache.end = last
    cache.lengths = [last - 1, *[last] * (work.num_rows - 1)]  # one shorter row, so that a mask is needed
    logits = _empty_logits(model, work.num_rows)
    tracker.mark()
    mask, position_ids = cache.next_position()  # the last growth of the cache
    cache_bytes = cache.num_bytes()
    ids = torch.zeros(work.num_rows, 1, dtype=torch.long)
    logits = forward(model, cache, ids, mask, position_ids if takes_positions else None)
    sample_tokens(logits, params, torch.zeros(work.num_rows, dtype=torch.float64))
    return cache_bytes, max(prefilled, tracker.peak - before)


def _native_sampling(
    tracker: MemoryTracker, model: Any, work: DecodingShape, params: SamplingParams, path: DecodePath
) -> tuple[int, int]:
    """The memory of `obverse.inference.native_decode`, with all rows at their full length but for the last token."""
    before = tracker.mark()
    num_rows = work.num_rows if path.selects else 1
    cache = NativeCache(model, path.cached)
    cache.forward(torch.zeros(num_rows, max(1, work.length - 1), dtype=torch.long))
    filled = tracker.mark()
    logits = cache.forward(torch.zeros(num_rows, 1, dtype=torch.long))
    sample_tokens(logits, params, torch.zeros(num_rows, dtype=torch.float64))
    return filled - before, tracker.peak - before


def _full(model: Any, work: DecodingShape, width: int) -> Any:
    """A cache of all rows, `width` tokens long; the shapes of its layers come from a pass over one token."""
    cache = full_cache(model)
    prefill(model, cache, [[0]], accepts(model, "position_ids"))
    for layer in cache.layers:
        for name, tensor in layer_tensors(layer).items():
            shape = [work.num_rows, *tensor.shape[1:]]
            if name in POSITIONS:
                shape[POSITIONS[name]] = width
            set_layer_tensor(layer, name, tensor.new_empty(shape))
    return cache


def _empty_logits(model: Any, num_rows: int) -> Tensor:
    return torch.zeros(num_rows, model.config.get_text_config().vocab_size, dtype=model.dtype)


@contextmanager
def _autocast(policy: Policy) -> Iterator[None]:
    """The autocast mode of the sampler."""
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.mixed):
        yield
