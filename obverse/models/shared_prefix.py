"""Shared prefixes: each prompt is computed once, and its samples use its keys and values, with gradients.

A plain forward pass repeats the prompt for every sample of a problem. Here the prompts of many problems go through the
model once; micro batches hold responses only and use the prompts' keys and values. The gradients by keys and values are
accumulated over micro batches, and `finish` backpropagates the sum through the prompts' forward pass. The resulting
gradient is that of plain forward passes but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from obverse.models.fused_logprobs import decoder_inputs
from obverse.types import ModelInput


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts of several problems, left-padded, so that every response follows its prompt directly."""

    input_ids: Tensor  # [P, L]
    mask: Tensor | None  # [P, L], 1 at tokens, 0 at padding; None without padding
    _moved: dict[torch.device, PromptBatch] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, prompts: Sequence[ModelInput]) -> PromptBatch:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt.token_ids) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return cls(ids, None if bool(mask.all()) else mask)

    def to(self, device: torch.device) -> PromptBatch:
        """The prompts on another device; the same object for every call, so that micro batches keep sharing it."""
        if self.input_ids.device == device:
            return self
        if device not in self._moved:
            mask = None if self.mask is None else moved(self.mask, device)
            self._moved[device] = PromptBatch(moved(self.input_ids, device), mask)
        return self._moved[device]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Copies to CUDA are asynchronous, from pinned memory, in stream order."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class PrefixPass:
    """One forward pass over prompts: the last hidden states, keys and values, as leaves that accumulate gradients."""

    def __init__(self, model: Any, prompts: PromptBatch, table: torch.nn.Embedding | None = None) -> None:
        self.model, self.prompts, self.table = model, prompts, table
        position = None if prompts.mask is None else (prompts.mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.get_decoder()(
            **decoder_inputs(prompts.input_ids, table),
            attention_mask=prompts.mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        keys_and_values = [state for layer in cache.layers for state in (layer.keys, layer.values)]
        self.outputs = [out.last_hidden_state[:, -1], *keys_and_values]
        self.leaves = [state.detach().requires_grad_(state.requires_grad) for state in self.outputs]

    def states(self, responses: Tensor, owner: Tensor, longest: int | None = None) -> Tensor:
        """Hidden states [B, 1 + R, H]: what predicts the first token of `responses` [B, R], then the states after each.

        `owner` [B] is the row of each response's prompt. `longest` is the number of tokens of the longest row, prompt
        and response: position ids of padding are clamped to it, for models with a table of positions.
        """
        first = self.leaves[0][owner][:, None]
        if responses.shape[1] == 0:
            return first
        cache = DynamicCache(config=self.model.config.get_text_config())
        for layer, (keys, values) in enumerate(zip(self.leaves[1::2], self.leaves[2::2], strict=True)):
            cache.update(keys[owner], values[owner], layer)
        width = self.prompts.input_ids.shape[1]
        offset = torch.arange(responses.shape[1], device=responses.device)
        if self.prompts.mask is None:
            mask, position = None, (width + offset)[None].expand_as(responses)
        else:
            before = self.prompts.mask[owner]
            mask = torch.cat([before, before.new_ones(responses.shape)], dim=1)
            position = before.sum(-1, keepdim=True) + offset
            position = position if longest is None else position.clamp(max=longest - 1)
        out = self.model.get_decoder()(
            **decoder_inputs(responses, self.table),
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        return torch.cat([first, out.last_hidden_state], dim=1)

    def finish(self) -> None:
        """Backpropagate the gradients that responses accumulated through the prompts' forward pass."""
        pairs = [
            (output, leaf.grad) for output, leaf in zip(self.outputs, self.leaves, strict=True) if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])


class SharedPrefix:
    """Hidden states of successive micro batches; a prompt batch that consecutive ones share is computed once.

    `table` is the model's embedding if its gradient is accumulated in place (`Policy.table`).
    """

    def __init__(self, model: Any, table: torch.nn.Embedding | None = None) -> None:
        self.model, self.table = model, table
        self.current: PrefixPass | None = None

    def states(self, micro: Any) -> Tensor:
        """The state that predicts each trained token of a micro batch with shared prompts; [T, H]."""
        if self.current is None or self.current.prompts is not micro.prompts:
            self.finish()
            self.current = PrefixPass(self.model, micro.prompts, self.table)
        return self.current.states(micro.input_ids, micro.prompt_row, max(micro.lengths, default=None))[
            micro.row, micro.position + 1
        ]

    def finish(self) -> None:
        """Backpropagate through the current prompts, whose gradient is complete, and drop them."""
        if self.current is not None:
            self.current.finish()
        self.current = None


def can_share(model: Any) -> bool:
    """Whether a cached prompt gives the same hidden states as a plain forward pass, by a test on a few tokens."""
    prompts, responses = [[1, 2, 3], [4]], [[5, 6], [7, 8]]
    vocabulary = model.config.get_text_config().vocab_size
    prompts, responses = ([[token % vocabulary for token in row] for row in rows] for rows in (prompts, responses))
    try:
        cache = DynamicCache(config=model.config.get_text_config())
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            return False  # sliding windows and recurrent states drop the keys that a response attends to
        with torch.no_grad():
            reading = PrefixPass(
                model, PromptBatch.of([ModelInput(tuple(prompt)) for prompt in prompts]).to(model.device)
            )
            tail = torch.tensor(responses, device=model.device)
            shared = reading.states(tail, torch.arange(2, device=model.device))
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
                row_ids = torch.tensor([prompt + response], device=model.device)
                plain = model.get_decoder()(input_ids=row_ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
                close = 1e-4 if plain.dtype == torch.float32 else 5e-2
                if not torch.allclose(shared[row], plain, rtol=close, atol=close * float(plain.abs().max())):
                    return False
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False  # a model with another cache interface
    return True
