"""Each prompt computed once: its samples read it through a key-value cache that gradients flow through.

A plain forward pass repeats the prompt for every sample of a problem. Here the prompts of many problems go through the
model once; micro batches hold responses only and read the prompts' keys and values. Their gradients gather in leaves,
and `finish` sends the sum through the prompts' own pass: the gradient is that of the plain way, rounding apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from obverse.models.fused_logprobs import reads
from obverse.types import ModelInput


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of some problems, left-padded, so that every response follows its prompt directly."""

    input_ids: Tensor  # [P, L]
    mask: Tensor | None  # [P, L], 1 where a token stands; None without padding
    _moved: dict[torch.device, Prompts] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, prompts: Sequence[ModelInput]) -> Prompts:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt.token_ids) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return cls(ids, None if bool(mask.all()) else mask)

    def to(self, device: torch.device) -> Prompts:
        """The same on another device, and the same object each time: micro batches that share it go on sharing it."""
        if self.input_ids.device == device:
            return self
        if device not in self._moved:
            mask = None if self.mask is None else moved(self.mask, device)
            self._moved[device] = Prompts(moved(self.input_ids, device), mask)
        return self._moved[device]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. To a card it goes from pinned memory while the program goes on, in the stream's order."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Reading:
    """A model that has read some prompts: what responses need of them, as leaves where gradients are wanted."""

    def __init__(self, model: Any, prompts: Prompts, table: torch.nn.Embedding | None = None) -> None:
        self.model, self.prompts, self.table = model, prompts, table
        position = None if prompts.mask is None else (prompts.mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.get_decoder()(
            **reads(prompts.input_ids, table),
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

        `owner` [B] is the row of each response's prompt, `longest` the tokens of the longest row, prompt and response:
        padding stands at no later position, which a table of positions may not have.
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
            **reads(responses, self.table),
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        return torch.cat([first, out.last_hidden_state], dim=1)

    def finish(self) -> None:
        """Send what the responses left in the leaves through the prompts' own pass."""
        pairs = [
            (output, leaf.grad) for output, leaf in zip(self.outputs, self.leaves, strict=True) if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])


class Reader:
    """A policy reading micro batches one after another; the prompts that consecutive ones share are computed once.

    `table` is the model's embedding where it keeps its own gradient (`Policy.table`).
    """

    def __init__(self, model: Any, table: torch.nn.Embedding | None = None) -> None:
        self.model, self.table = model, table
        self.reading: Reading | None = None

    def states(self, micro: Any) -> Tensor:
        """The state that predicts each trained token of a micro batch with shared prompts; [T, H]."""
        if self.reading is None or self.reading.prompts is not micro.prompts:
            self.finish()
            self.reading = Reading(self.model, micro.prompts, self.table)
        return self.reading.states(micro.input_ids, micro.reads, max(micro.lengths, default=None))[
            micro.row, micro.position + 1
        ]

    def finish(self) -> None:
        """Nothing more will be read of the present prompts: their gradient is complete."""
        if self.reading is not None:
            self.reading.finish()
        self.reading = None


def can_share(model: Any) -> bool:
    """Whether the model gives the same states when its prompts come out of a cache; found out by trying."""
    prompts, responses = [[1, 2, 3], [4]], [[5, 6], [7, 8]]
    vocabulary = model.config.get_text_config().vocab_size
    prompts, responses = ([[each % vocabulary for each in row] for row in rows] for rows in (prompts, responses))
    try:
        cache = DynamicCache(config=model.config.get_text_config())
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            return False  # sliding windows and recurrent states forget: a response cannot attend to such a cache
        with torch.no_grad():
            reading = Reading(model, Prompts.of([ModelInput(tuple(prompt)) for prompt in prompts]).to(model.device))
            tail = torch.tensor(responses, device=model.device)
            shared = reading.states(tail, torch.arange(2, device=model.device))
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
                whole = torch.tensor([prompt + response], device=model.device)
                plain = model.get_decoder()(input_ids=whole, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
                close = 1e-4 if plain.dtype == torch.float32 else 5e-2
                if not torch.allclose(shared[row], plain, rtol=close, atol=close * float(plain.abs().max())):
                    return False
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False  # a model with its own idea of a cache takes the plain way
    return True
