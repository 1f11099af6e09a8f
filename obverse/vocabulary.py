"""From hidden states to log-probs and entropies, and back, without the [tokens x vocabulary] tensor between them.

A chunk of tokens at a time: its logits are made, read and overwritten, forward and backward. The backward pass needs
them again; where the gradient by the log-probs is known before the forward pass, both happen over the same logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits held at once: 2**25 float32 numbers are 128 MB. Each chunk adds to the matrix's whole gradient, so that a small
# one is slow: 220 tokens at a vocabulary of 150,000.
CHUNK_ELEMENTS = 2**25


class Scores(torch.autograd.Function):
    """Log-prob of each target [T] and entropy of its distribution [T], from states [T, H] and the head's matrix [V, H].

    `foreseen` [T] is the gradient by the log-probs that the backward pass will bring, where it is known.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        matrix: Tensor,
        target: Tensor,
        temperature: Tensor,
        foreseen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.matrix_dtype = matrix.dtype
        matrix = matrix.to(states.dtype)  # under autocast states are bfloat16 and the weights are not
        logp, entropy = (torch.empty(len(states), device=states.device) for _ in range(2))
        gradients = Gradients(states, matrix, ctx.matrix_dtype) if foreseen is not None else None
        with torch.autocast(states.device.type, enabled=False):
            for part in chunks(states, matrix):
                log_probs = log_distribution(states[part], matrix, temperature[part])
                logp[part] = log_probs.gather(-1, target[part, None])[:, 0]
                probs = log_probs.exp()
                # a token with probability 0 has p log p = 0, not NaN
                entropy[part] = -torch.linalg.vecdot(probs, log_probs.clamp_(min=torch.finfo(torch.float32).min))
                if gradients is not None and foreseen is not None:
                    gradients.add(part, log_gradient(probs, target[part], foreseen[part]), temperature[part])
        ctx.save_for_backward(states, matrix, target, temperature)
        ctx.foreseen, ctx.gradients = foreseen, gradients
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        states, matrix, target, temperature = ctx.saved_tensors
        by_logp, by_entropy = slopes
        by_logp = torch.zeros_like(temperature) if by_logp is None else by_logp
        by_entropy = torch.zeros_like(temperature) if by_entropy is None else by_entropy
        spread = bool(by_entropy.any())
        gradients = ctx.gradients
        if gradients is None or spread or not torch.equal(by_logp, ctx.foreseen):
            gradients = Gradients(states, matrix, ctx.matrix_dtype)
            for part in chunks(states, matrix):
                log_probs = log_distribution(states[part], matrix, temperature[part])
                probs = log_probs.exp()
                slope = entropy_gradient(probs, log_probs, by_entropy[part]) if spread else None
                slope_of_logp = log_gradient(probs, target[part], by_logp[part])
                gradients.add(part, slope_of_logp if slope is None else slope_of_logp.add_(slope), temperature[part])
        ctx.gradients = None  # its memory is the matrix's once more
        return gradients.states, gradients.matrix, None, None, None


class Gradients:
    """The gradients by the states [T, H] and by the matrix [V, H], added up chunk by chunk."""

    def __init__(self, states: Tensor, matrix: Tensor, dtype: torch.dtype) -> None:
        self.of, self.head = states, matrix
        self.states, self.matrix = torch.empty_like(states), torch.zeros_like(matrix, dtype=dtype)

    def add(self, part: slice, by_logits: Tensor, temperature: Tensor) -> None:
        """`by_logits` [n, V], before the temperature, of the tokens `part`; it is overwritten."""
        slope = (by_logits if bool((temperature == 1).all()) else by_logits.div_(temperature[:, None])).to(
            self.of.dtype
        )
        torch.mm(slope, self.head, out=self.states[part])
        if self.matrix.dtype == slope.dtype:
            self.matrix.addmm_(slope.T, self.of[part])
        else:
            self.matrix.add_(torch.mm(slope.T, self.of[part]))


def chunk_size(vocabulary: int) -> int:
    """How many tokens' logits are held at once."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def chunks(states: Tensor, matrix: Tensor) -> list[slice]:
    """The tokens dealt to chunks whose logits fit."""
    size = chunk_size(len(matrix))
    return [slice(start, min(start + size, len(states))) for start in range(0, len(states), size)]


def log_distribution(states: Tensor, matrix: Tensor, temperature: Tensor) -> Tensor:
    """The log-probs of every token of the vocabulary; float32 [n, V], a fresh tensor."""
    logits = torch.mm(states, matrix.T).float()
    if not bool((temperature == 1).all()):
        logits.div_(temperature[:, None])
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def log_gradient(probs: Tensor, target: Tensor, by_logp: Tensor) -> Tensor:
    """by_logp (1[v = target] - p_v); [n, V], in place of `probs`."""
    slope = probs.mul_(-by_logp[:, None])
    return slope.scatter_add_(-1, target[:, None], by_logp[:, None])


def entropy_gradient(probs: Tensor, log_probs: Tensor, by_entropy: Tensor) -> Tensor:
    """-by_entropy p_v (log p_v + H); [n, V], in place of `log_probs`."""
    log_probs.clamp_(min=torch.finfo(torch.float32).min)
    entropy = -torch.linalg.vecdot(probs, log_probs)
    return log_probs.add_(entropy[:, None]).mul_(probs).mul_(-by_entropy[:, None])
