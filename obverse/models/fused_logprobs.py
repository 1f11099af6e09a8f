"""Fused log-probs and embedding lookup: the parts of a model whose size grows with the vocabulary.

No [tokens x vocabulary] tensor is stored: logits are computed, used and overwritten for one chunk of tokens at a time,
in the forward and again in the backward pass. Where the gradient by the log-probs is known in advance, one pass over
the logits does both. The gradients of head and embedding are accumulated in `grad` directly: autograd would allocate
a whole matrix for every micro batch, and two where head and embedding are tied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from obverse.models.fused_divergence import Comparison
from obverse.models.logit_chunks import Gradients, Workspace, accumulates_in_place, chunks, gradient_of, wide_type

# Logits of one chunk: 2**24 float32 numbers are 64 MB, 110 tokens for a vocabulary of 150,000. Each chunk adds to the
# whole gradient of the matrix, so that small chunks are slow.
CHUNK_ELEMENTS = 2**24
ACCELERATED = 16  # times as many on an accelerator, where the sum would dominate


class Scores(torch.autograd.Function):
    """Log-prob of each target [T] and entropy of its distribution [T], from states [T, H] and the head's matrix [V, H].

    With `comparison` also the distribution's divergence from a target's, [T]. `known_logp_gradient` and
    `known_divergence_gradient` [T] are the gradients by log-probs and divergence that the backward pass will receive,
    if known in advance; `size` is the number of tokens in a chunk. With `entropy_top_k` the entropy is that of the most
    likely tokens, renormalized, and must not be differentiated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        matrix: Tensor,
        target: Tensor,
        temperature: Tensor,
        known_logp_gradient: Tensor | None,
        size: int,
        comparison: Comparison | None = None,
        known_divergence_gradient: Tensor | None = None,
        entropy_top_k: int | None = None,
    ) -> tuple[Tensor, ...]:
        home = matrix if accumulates_in_place(matrix) else None
        ctx.learns = matrix.requires_grad  # a frozen head (with adapters) has no gradient
        ctx.matrix_dtype, ctx.home = matrix.dtype, home
        matrix = matrix.to(states.dtype)  # under autocast states are bfloat16 and the weights are not
        logp, entropy, divergence = (states.new_empty(len(states), dtype=wide_type(states.dtype)) for _ in range(3))
        gradients = (
            None if known_logp_gradient is None else Gradients(states, matrix, ctx.matrix_dtype, home, ctx.learns)
        )
        with torch.autocast(states.device.type, enabled=False):
            work = Workspace(states, matrix, size)
            compared = None if comparison is None else comparison.open(work.logits, work.num_rows)
            for part in chunks(len(states), size):
                if compared is not None:
                    compared.read(part)
                for rows, distribution in work.distributions(states, matrix, temperature, part):
                    logp[rows] = distribution.log_probs_of(target[rows])
                    entropy[rows] = distribution.entropy(entropy_top_k)
                    if compared is not None:
                        divergence[rows] = compared.value(rows, distribution)
                    if known_logp_gradient is not None:
                        added = None
                        if compared is not None and known_divergence_gradient is not None:
                            added = compared.slope(known_divergence_gradient[rows])
                        distribution.become_slope(target[rows], known_logp_gradient[rows], added=added)
                if gradients is not None:
                    gradients.add(part, work.logits, temperature[part])
        ctx.save_for_backward(states, matrix, target, temperature)
        ctx.known = known_logp_gradient, known_divergence_gradient
        ctx.gradients, ctx.size, ctx.comparison = gradients, size, comparison
        return (logp, entropy) if comparison is None else (logp, entropy, divergence)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        states, matrix, target, temperature = ctx.saved_tensors
        by_logp, by_entropy, *rest = (torch.zeros_like(temperature) if slope is None else slope for slope in slopes)
        by_divergence = rest[0] if rest else torch.zeros_like(temperature)
        gradients, ctx.gradients = ctx.gradients, None  # release the reference to the gradient matrix
        if gradients is None:
            gradients = Gradients(states, matrix, ctx.matrix_dtype, ctx.home, ctx.learns)
        else:  # the part not yet added in the forward pass
            known_by_logp, known_by_divergence = ctx.known
            by_logp = by_logp - known_by_logp
            by_divergence = by_divergence if known_by_divergence is None else by_divergence - known_by_divergence
        spread = bool(by_entropy.any())
        compares = ctx.comparison is not None and bool(by_divergence.any())
        if spread or compares or bool(by_logp.any()):
            work = Workspace(states, matrix, ctx.size)
            compared = ctx.comparison.open(work.logits, work.num_rows) if compares else None
            for part in chunks(len(states), ctx.size):
                if compared is not None:
                    compared.read(part)
                for rows, distribution in work.distributions(states, matrix, temperature, part):
                    added = None
                    if compared is not None:
                        compared.value(rows, distribution)
                        added = compared.slope(by_divergence[rows])
                    distribution.become_slope(
                        target[rows], by_logp[rows], by_entropy[rows] if spread else None, added=added
                    )
                gradients.add(part, work.logits, temperature[part])
        return gradients.states, gradients.matrix if ctx.home is None else None, *[None] * 7


class Lookup(torch.autograd.Function):
    """Embeddings [..., H] of ids [...] from a table [V, H]; its gradient is accumulated in `table.grad` directly."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.home, ctx.padding = table, padding
        return embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, ...]:
        (ids,), (slope,) = ctx.saved_tensors, slopes
        if ctx.padding is not None:  # as in torch.nn.Embedding, this row has no gradient
            slope = slope.masked_fill((ids == ctx.padding)[..., None], 0)
        flat, rows = ids.flatten(), slope.flatten(0, -2).to(ctx.home.dtype)
        gradient = gradient_of(ctx.home)
        if gradient.device.type == "cpu":
            gradient.index_add_(0, flat, rows)
        else:  # a deterministic order of the sum
            gradient.index_put_((flat,), rows, accumulate=True)
        return None, None, None


def decoder_inputs(ids: Tensor, table: torch.nn.Embedding | None) -> dict[str, Tensor]:
    """The decoder's keyword arguments for `ids`; embeddings if `table` accumulates its gradient in place."""
    if table is None or not torch.is_grad_enabled() or not accumulates_in_place(table.weight):
        return {"input_ids": ids}
    return {"inputs_embeds": Lookup.apply(ids, table.weight, table.padding_idx)}  # type: ignore[no-untyped-call]


def chunk_size(vocabulary: int, device: torch.device, lean: bool = False) -> int:
    """The number of tokens in a chunk; half of it with `lean`, where memory matters more than time."""
    elements = CHUNK_ELEMENTS if device.type == "cpu" else ACCELERATED * CHUNK_ELEMENTS
    return max(1, elements // (2 * vocabulary if lean else vocabulary))
