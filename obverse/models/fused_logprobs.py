"""Fused log-probs and embedding lookup: the parts of a model whose size grows with the vocabulary.

No [tokens x vocabulary] tensor is stored: logits are computed, used and overwritten for one chunk of tokens at a time,
in the forward and again in the backward pass. Where the gradient by the log-probs is known in advance, one pass over
the logits does both. The gradients of head and embedding are accumulated in `grad` directly: autograd would allocate
a whole matrix for every micro batch, and two where head and embedding are tied.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from obverse.distributed.fsdp import is_sharded_tensor

# Logits of one chunk: 2**24 float32 numbers are 64 MB, 110 tokens for a vocabulary of 150,000. Each chunk adds to the
# whole gradient of the matrix, so that small chunks are slow.
CHUNK_ELEMENTS = 2**24
ACCELERATED = 16  # times as many on an accelerator, where the sum would dominate
CACHED_ELEMENTS = 2**17  # half a megabyte: fits the cache of a CPU core


class Scores(torch.autograd.Function):
    """Log-prob of each target [T] and entropy of its distribution [T], from states [T, H] and the head's matrix [V, H].

    `known_logp_gradient` [T] is the gradient by the log-probs that the backward pass will receive, if known in advance;
    `size` is the number of tokens in a chunk.
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
    ) -> tuple[Tensor, Tensor]:
        home = matrix if accumulates_in_place(matrix) else None
        ctx.learns = matrix.requires_grad  # a frozen head (with adapters) has no gradient
        ctx.matrix_dtype, ctx.home = matrix.dtype, home
        matrix = matrix.to(states.dtype)  # under autocast states are bfloat16 and the weights are not
        logp, entropy = (states.new_empty(len(states), dtype=wide_type(states.dtype)) for _ in range(2))
        gradients = (
            None if known_logp_gradient is None else Gradients(states, matrix, ctx.matrix_dtype, home, ctx.learns)
        )
        with torch.autocast(states.device.type, enabled=False):
            work = Workspace(states, matrix, size)
            for part in chunks(len(states), size):
                for rows, distribution in work.distributions(states, matrix, temperature, part):
                    logp[rows] = distribution.log_probs_of(target[rows])
                    entropy[rows] = distribution.entropy()
                    if known_logp_gradient is not None:
                        distribution.become_slope(target[rows], known_logp_gradient[rows])
                if gradients is not None:
                    gradients.add(part, work.logits, temperature[part])
        ctx.save_for_backward(states, matrix, target, temperature)
        ctx.known_logp_gradient, ctx.gradients, ctx.size = known_logp_gradient, gradients, size
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        states, matrix, target, temperature = ctx.saved_tensors
        by_logp, by_entropy = (torch.zeros_like(temperature) if slope is None else slope for slope in slopes)
        gradients, ctx.gradients = ctx.gradients, None  # release the reference to the gradient matrix
        if gradients is None:
            gradients = Gradients(states, matrix, ctx.matrix_dtype, ctx.home, ctx.learns)
        else:
            by_logp = by_logp - ctx.known_logp_gradient  # the part not yet added in the forward pass
        spread = bool(by_entropy.any())
        if spread or bool(by_logp.any()):
            work = Workspace(states, matrix, ctx.size)
            for part in chunks(len(states), ctx.size):
                for rows, distribution in work.distributions(states, matrix, temperature, part):
                    distribution.become_slope(target[rows], by_logp[rows], by_entropy[rows] if spread else None)
                gradients.add(part, work.logits, temperature[part])
        return gradients.states, gradients.matrix if ctx.home is None else None, None, None, None, None


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


def accumulates_in_place(matrix: Tensor) -> bool:
    """Whether gradients are added to `matrix.grad` directly: a whole trained leaf parameter in float32 or float64."""
    wide = matrix.dtype in (torch.float32, torch.float64)
    is_whole = isinstance(matrix, torch.nn.Parameter) and not is_sharded_tensor(matrix)
    return is_whole and matrix.requires_grad and matrix.is_leaf and wide


def gradient_of(matrix: Tensor) -> Tensor:
    """`matrix.grad`, which is created as zeros if missing."""
    if matrix.grad is None:
        matrix.grad = torch.zeros_like(matrix)
    return matrix.grad


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type for sums over the vocabulary: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide(tensor: Tensor) -> Tensor:
    """The tensor in `wide_type`."""
    return tensor.to(wide_type(tensor.dtype))


class Gradients:
    """Accumulates the gradients by states [T, H] and matrix [V, H] over chunks.

    The matrix's gradient is accumulated in `home.grad` if `home` is given; a frozen matrix has none.
    """

    def __init__(self, states: Tensor, matrix: Tensor, dtype: torch.dtype, home: Tensor | None, learns: bool) -> None:
        self.of, self.head = states, matrix
        self.states = torch.zeros_like(states)
        self.matrix = None
        if learns:
            self.matrix = torch.zeros_like(matrix, dtype=dtype) if home is None else gradient_of(home)

    def add(self, part: slice, by_logits: Tensor, temperature: Tensor) -> None:
        """Add a chunk: the first rows of `by_logits` [.., V] are the gradients by the logits of the tokens `part`.

        `by_logits`, after division by the temperature, is overwritten.
        """
        slope = by_logits[: part.stop - part.start]
        if not bool((temperature == 1).all()):
            slope.div_(temperature[:, None])
        slope = slope.to(self.of.dtype)
        self.states[part].addmm_(slope, self.head)
        if self.matrix is None:
            return
        if self.matrix.dtype == slope.dtype:
            self.matrix.addmm_(slope.T, self.of[part])
        else:
            self.matrix.add_(torch.mm(slope.T, self.of[part]))


class Workspace:
    """Buffers, reused for every chunk, for a chunk's logits and for the exponentials of some of its rows.

    Allocating memory of that size costs as much as a pass over it. On a CPU the second buffer fits the cache of a core,
    so that each row passes through memory once.
    """

    def __init__(self, states: Tensor, matrix: Tensor, size: int) -> None:
        rows = min(size, len(states))
        kind, is_cpu = wide_type(states.dtype), states.device.type == "cpu"
        self.logits = states.new_empty((rows, len(matrix)), dtype=kind)
        self.num_rows = min(rows, max(1, CACHED_ELEMENTS // len(matrix))) if is_cpu else rows
        self.weights = torch.empty_like(self.logits[: self.num_rows])

    def distributions(
        self, states: Tensor, matrix: Tensor, temperature: Tensor, part: slice
    ) -> Iterator[tuple[slice, Distribution]]:
        """The distributions of the tokens `part`, some rows at a time, with their slice; reuses one buffer."""
        chunk, warm = states[part], temperature[part]
        logits = self.logits[: len(chunk)]
        if states.dtype == logits.dtype:
            torch.mm(chunk, matrix.T, out=logits)
        else:
            logits.copy_(torch.mm(chunk, matrix.T))
        if not bool((warm == 1).all()):
            logits.div_(warm[:, None])
        for first in range(0, len(logits), self.num_rows):
            rows = logits[first : first + self.num_rows]
            start = part.start + first
            yield slice(start, start + len(rows)), Distribution(rows, self.weights[: len(rows)])


class Distribution:
    """Logits minus their maximum [n, V], exponentials `weights`, and their sums `total`; p = weights / total."""

    def __init__(self, logits: Tensor, weights: Tensor) -> None:
        self.logits = logits.sub_(logits.amax(-1, keepdim=True))
        self.weights = torch.exp(logits, out=weights)
        self.total = weights.sum(-1)

    def log_probs_of(self, target: Tensor) -> Tensor:
        """log p of one token per row; [n]."""
        return self.logits.gather(-1, target[:, None])[:, 0] - self.total.log()

    def entropy(self) -> Tensor:
        """-sum_v p_v log p_v; [n]."""
        mean = self._mean_logit()
        if bool(mean.isnan().any()):  # a token with probability 0 has p log p = 0, not NaN
            self.logits.clamp_(min=torch.finfo(self.logits.dtype).min)
            mean = self._mean_logit()
        return self.total.log() - mean

    def become_slope(self, target: Tensor, by_logp: Tensor, by_entropy: Tensor | None = None) -> None:
        """Overwrite the logits with by_logp (1[v = target] - p_v) - by_entropy p_v (log p_v + H); [n, V]."""
        if by_entropy is None:
            torch.mul(self.weights, (-by_logp / self.total)[:, None], out=self.logits)
        else:
            # log p_v + H = logit_v - log total + H, which is the logit above the mean one
            self.entropy()
            spread = self.logits.sub_(self._mean_logit()[:, None]).mul_(by_entropy[:, None])
            spread.add_(by_logp[:, None]).mul_(self.weights).mul_((-1 / self.total)[:, None])
        self.logits.scatter_add_(-1, target[:, None], by_logp[:, None].to(self.logits.dtype))

    def _mean_logit(self) -> Tensor:
        """sum_v p_v logit_v; [n]."""
        if self.weights.device.type == "cpu":  # row by row, without a third [n, V] buffer: five times as fast
            return torch.stack([torch.dot(*pair) for pair in zip(self.weights, self.logits, strict=True)]) / self.total
        return torch.linalg.vecdot(self.weights, self.logits) / self.total


def chunk_size(vocabulary: int, device: torch.device, lean: bool = False) -> int:
    """The number of tokens in a chunk; half of it with `lean`, where memory matters more than time."""
    elements = CHUNK_ELEMENTS if device.type == "cpu" else ACCELERATED * CHUNK_ELEMENTS
    return max(1, elements // (2 * vocabulary if lean else vocabulary))


def chunks(num_tokens: int, size: int) -> list[slice]:
    """Slices of at most `size` tokens, of about equal lengths."""
    num = -(-num_tokens // size)
    edges = [num_tokens * index // num for index in range(num + 1)] if num else []
    return [slice(*pair) for pair in pairwise(edges)]
