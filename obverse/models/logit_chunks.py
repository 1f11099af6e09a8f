"""Logits of a head, computed for one chunk of tokens at a time, and the gradients by them: buffers and arithmetic.

`fused_logprobs` and `fused_divergence` are built from these; no [tokens x vocabulary] tensor is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from itertools import pairwise

import torch
from torch import Tensor

from obverse.distributed.fsdp import is_sharded_tensor

CACHED_ELEMENTS = 2**17  # half a megabyte: fits the cache of a CPU core


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
        cool(slope, temperature)
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
        write_product(chunk, matrix, out=logits)
        cool(logits, warm)
        for first in range(0, len(logits), self.num_rows):
            rows = logits[first : first + self.num_rows]
            start = part.start + first
            yield slice(start, start + len(rows)), Distribution(rows, self.weights[: len(rows)])


def entropy_of_logits(logits: Tensor) -> Tensor:
    """The entropy of each row's distribution; [n] from [n, k]. A token with probability 0 adds 0."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)


class Distribution:
    """Logits minus their maximum [n, V], exponentials `weights`, and their sums `total`; p = weights / total."""

    def __init__(self, logits: Tensor, weights: Tensor) -> None:
        self.logits = logits.sub_(logits.amax(-1, keepdim=True))
        self.weights = torch.exp(logits, out=weights)
        self.total = weights.sum(-1)

    def among_first(self, num: int) -> Distribution:
        """The distribution over the first `num` tokens only, renormalised; its buffers are views of these."""
        if num == self.logits.shape[1]:
            return self
        part = copy(self)
        part.logits, part.weights = self.logits[:, :num], self.weights[:, :num]
        part.total = part.weights.sum(-1).clamp(min=torch.finfo(part.weights.dtype).tiny)
        return part

    def log_probs_of(self, target: Tensor) -> Tensor:
        """log p of one token per row; [n]."""
        return self.logits.gather(-1, target[:, None])[:, 0] - self.total.log()

    def entropy(self, top_k: int | None = None) -> Tensor:
        """-sum_v p_v log p_v; [n]. With `top_k`, of the renormalized distribution of the most likely tokens."""
        if top_k is not None:
            return entropy_of_logits(self.logits.topk(min(top_k, self.logits.shape[-1])).values)
        mean = self._mean_logit()
        if bool(mean.isnan().any()):  # a token with probability 0 has p log p = 0, not NaN
            self.logits.clamp_(min=torch.finfo(self.logits.dtype).min)
            mean = self._mean_logit()
        return self.total.log() - mean

    def become_slope(
        self, target: Tensor, by_logp: Tensor, by_entropy: Tensor | None = None, added: Tensor | None = None
    ) -> None:
        """Overwrite the logits with by_logp (1[v = target] - p_v) - by_entropy p_v (log p_v + H); [n, V].

        `added` [n, W] is another gradient by the first W logits, of a divergence.
        """
        if by_entropy is None:
            torch.mul(self.weights, (-by_logp / self.total)[:, None], out=self.logits)
        else:
            # log p_v + H = logit_v - log total + H, which is the logit above the mean one
            self.entropy()
            spread = self.logits.sub_(self._mean_logit()[:, None]).mul_(by_entropy[:, None])
            spread.add_(by_logp[:, None]).mul_(self.weights).mul_((-1 / self.total)[:, None])
        self.logits.scatter_add_(-1, target[:, None], by_logp[:, None].to(self.logits.dtype))
        if added is not None:
            self.logits[:, : added.shape[1]].add_(added)

    def mean_of(self, values: Tensor) -> Tensor:
        """The expectation sum_v p_v values_v; [n] from [n, V]."""
        if self.weights.device.type == "cpu":  # row by row, without a third [n, V] buffer: five times as fast
            return torch.stack([torch.dot(*pair) for pair in zip(self.weights, values, strict=True)]) / self.total
        return torch.linalg.vecdot(self.weights, values) / self.total

    def _mean_logit(self) -> Tensor:
        """sum_v p_v logit_v; [n]."""
        return self.mean_of(self.logits)


def write_product(states: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Write the logits of states [n, H] and a head's matrix [V, H] of the same type into `out` [n, V]."""
    if states.dtype == out.dtype:
        torch.mm(states, matrix.T, out=out)
    else:
        out.copy_(torch.mm(states, matrix.T))


def cool(rows: Tensor, temperature: Tensor) -> None:
    """Divide rows [n, V] by the temperature of each, [n], in place."""
    if not bool((temperature == 1).all()):
        rows.div_(temperature[:, None])


def chunks(num_tokens: int, size: int) -> list[slice]:
    """Slices of at most `size` tokens, of about equal lengths."""
    num = -(-num_tokens // size)
    edges = [num_tokens * index // num for index in range(num + 1)] if num else []
    return [slice(*pair) for pair in pairwise(edges)]
