"""Shared prefixes: each prompt is computed once, and its samples continue from its cache, with gradients.

A plain forward pass repeats the prompt for every sample of a problem. Here the prompts of many problems go through the
model once; micro batches hold responses only and continue from the prompts' keys, values and states. The gradients by
these tensors are accumulated over micro batches, and `finish` backpropagates the sum through the prompts' forward pass.
The resulting gradient is that of plain forward passes but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from obverse.models.cache_layers import cache_argument
from obverse.models.fused_logprobs import decoder_inputs
from obverse.models.prompt_cache import has_states, prompt_cache, state_tensors, with_rows
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
    """One forward pass over prompts: its last hidden states and its cache, as leaves that accumulate gradients.

    With `has_head` the whole model runs, and its logits replace the decoder's hidden states.
    """

    def __init__(
        self, model: Any, prompts: PromptBatch, table: torch.nn.Embedding | None = None, has_head: bool = False
    ) -> None:
        self.module, self.prompts, self.table = model if has_head else model.get_decoder(), prompts, table
        self.output = "logits" if has_head else "last_hidden_state"
        position = None if prompts.mask is None else (prompts.mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = prompt_cache(model)
        last = self._forward(prompts.input_ids, self.cache, prompts.mask, position)[:, -1]
        self.outputs = [last, *state_tensors(self.cache)]
        self.leaves = [state.detach().requires_grad_(state.requires_grad) for state in self.outputs]

    def _forward(self, ids: Tensor, cache: Any, mask: Tensor | None, position: Tensor | None) -> Tensor:
        out = self.module(
            **decoder_inputs(ids, self.table),
            **{cache_argument(self.module): cache},
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
        )
        states: Tensor = getattr(out, self.output)
        return states

    def states(self, responses: Tensor, owner: Tensor, longest: int | None = None) -> Tensor:
        """Hidden states [B, 1 + R, H]: what predicts the first token of `responses` [B, R], then the states after each.

        `owner` [B] is the row of each response's prompt. `longest` is the number of tokens of the longest row, prompt
        and response: position ids of padding are clamped to it, for models with a table of positions.
        """
        first = self.leaves[0][owner][:, None]
        num_tokens = responses.shape[1]
        if num_tokens == 0:
            return first
        if num_tokens == 1 and has_states(self.cache):
            responses = pad(responses, (0, 1))  # kernels for one token change states in place, without a gradient
        cache = with_rows(self.cache, self.leaves[1:], owner, len(self.prompts.input_ids))
        width = self.prompts.input_ids.shape[1]
        offset = torch.arange(responses.shape[1], device=responses.device)
        if self.prompts.mask is None:
            mask, position = None, (width + offset)[None].expand_as(responses)
        else:
            before = self.prompts.mask[owner]
            mask = torch.cat([before, before.new_ones(responses.shape)], dim=1)
            position = before.sum(-1, keepdim=True) + offset
            position = position if longest is None else position.clamp(max=longest - 1)
        return torch.cat([first, self._forward(responses, cache, mask, position)[:, :num_tokens]], dim=1)

    def gradient(self, states: Tensor, direction: Tensor, inputs: Tensor) -> Tensor:
        """The gradient of hidden states [B, 1 + R, H] times `direction` by a tensor in the prompts' forward pass."""
        pairs = [pair for pair in zip(self.outputs, self.leaves, strict=True) if pair[1].requires_grad]
        outputs, leaves = zip(*pairs, strict=True)
        by_leaves = torch.autograd.grad(states, leaves, direction, allow_unused=True, materialize_grads=True)
        return torch.autograd.grad(outputs, inputs, by_leaves)[0]

    def finish(self) -> None:
        """Backpropagate the gradients that responses accumulated through the prompts' forward pass."""
        pairs = [
            (output, leaf.grad) for output, leaf in zip(self.outputs, self.leaves, strict=True) if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])


class SharedPrefix:
    """Hidden states of successive micro batches; a prompt batch that consecutive ones share is computed once.

    `table` is the model's embedding if its gradient is accumulated in place (`Policy.table`). With `has_head` the
    model's own logits replace hidden states, for a model whose head cannot be computed apart.
    """

    def __init__(self, model: Any, table: torch.nn.Embedding | None = None, has_head: bool = False) -> None:
        self.model, self.table, self.has_head = model, table, has_head
        self.current: PrefixPass | None = None

    def states(self, micro: Any) -> Tensor:
        """The state that predicts each trained token of a micro batch with shared prompts; [T, H]."""
        if self.current is None or self.current.prompts is not micro.prompts:
            self.finish()
            self.current = PrefixPass(self.model, micro.prompts, self.table, self.has_head)
        return self.current.states(micro.input_ids, micro.prompt_row, max(micro.lengths, default=None))[
            micro.row, micro.position + 1
        ]

    def finish(self) -> None:
        """Backpropagate through the current prompts, whose gradient is complete, and drop them."""
        if self.current is not None:
            self.current.finish()
        self.current = None


def can_share(model: Any, pads: bool, has_head: bool = False) -> bool:
    """Whether cached prompts give the same hidden states as plain forward passes, by a test on a few tokens.

    With `pads`, the prompts have unequal lengths; with `has_head`, logits are compared in place of hidden states. For a
    cache with states of fixed size the gradients by the prompts' embeddings are compared too, because not every kernel
    for such states may differentiate them.
    """
    prompts, responses = ([[1, 2, 3], [4]] if pads else [[1, 2, 3], [4, 5, 6]]), [[5, 6], [7, 8]]
    vocabulary = model.config.get_text_config().vocab_size
    prompts, responses = ([[token % vocabulary for token in row] for row in rows] for rows in (prompts, responses))
    try:
        differentiates = has_states(prompt_cache(model))
        with torch.set_grad_enabled(differentiates), _embeddings(model) as embedded:
            batch = PromptBatch.of([ModelInput(tuple(prompt)) for prompt in prompts]).to(model.device)
            reading = PrefixPass(model, batch, has_head=has_head)
            shared = reading.states(torch.tensor(responses, device=model.device), torch.arange(2, device=model.device))
            del embedded[1:]
            alone = []
            for prompt, response in zip(prompts, responses, strict=True):
                row_ids = torch.tensor([prompt + response], device=model.device)
                output = getattr(reading.module(input_ids=row_ids, use_cache=False), reading.output)
                alone.append(output[0, len(prompt) - 1 :])
            plain = torch.stack(alone)
        is_exact = {model.dtype, plain.dtype} <= {torch.float32, torch.float64}
        if not _agree(shared, plain, 1e-4 if is_exact else 5e-2):
            return False
        if not differentiates:
            return True
        direction = torch.cos(torch.arange(plain.numel(), device=plain.device)).view(plain.shape).to(plain.dtype)
        ours = reading.gradient(shared, direction, embedded[0])
        expected = torch.autograd.grad(plain, embedded[1:], direction)
        return all(
            _agree(ours[row, -len(prompt) :], expected[row][0, : len(prompt)], 1e-3 if is_exact else 1e-1)
            for row, prompt in enumerate(prompts)
        )
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, NotImplementedError, KeyError):
        return False  # a model with another cache interface


@contextmanager
def _embeddings(model: Any) -> Iterator[list[Tensor]]:
    """The embeddings that a model looks up inside, in order; while gradients are enabled these carry one."""
    embedded: list[Tensor] = []

    def collect(module: Any, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(torch.is_grad_enabled()))
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(collect)
    try:
        yield embedded
    finally:
        handle.remove()


def _agree(values: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the largest difference is within `tolerance` of the largest expected value."""
    error = (values.detach() - expected.detach()).abs().max()
    return float(error) <= tolerance * float(expected.detach().abs().max())
