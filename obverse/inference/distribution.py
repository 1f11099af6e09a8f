"""One draw from the law of sampling, for a batch of rows, with one uniform number per row."""

from __future__ import annotations

import torch
from torch import Tensor

from obverse.inference.types import SamplingParams
from obverse.models.fused_logprobs import wide

# Tokens whose probabilities are added in float32, which is right to a millionth; the blocks' sums add up in float64.
BLOCK = 128


def cut(logits: Tensor, params: SamplingParams) -> Tensor:
    """Scores of the law for `logits` [N, V], not normalized; -inf for tokens that it cuts away; [N, V].

    top_k first, then min_p and top_p on what is left, in the order of transformers' warpers. float32, or float64 of a
    float64 model.
    """
    scores = wide(logits)
    if params.temperature != 1:
        scores = scores / params.temperature
    if 0 < params.top_k < scores.shape[-1]:
        lowest = scores.topk(params.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if params.top_p < 1:
        probs = scores.softmax(-1)
        # from a token below this on, less than 1 - top_p is left: it goes in any case, and needs no sorting
        floor = (1 - params.top_p) / scores.shape[-1]
        likely = max(int((probs >= floor).sum(-1).max()), 1)
        few = 8 * likely < scores.shape[-1]
        ordered = probs.topk(likely).values if few else probs.sort(descending=True).values
        # a token stays while the mass before it is below top_p: at least one always does; equals stay together
        kept = ((ordered.cumsum(-1) - ordered < params.top_p) & (ordered >= floor)).sum(-1, keepdim=True).clamp(min=1)
        scores = scores.masked_fill(probs < ordered.gather(-1, kept - 1), -torch.inf)
    if params.min_p > 0:
        probs = scores.softmax(-1)
        scores = scores.masked_fill(probs < params.min_p * probs.amax(-1, keepdim=True), -torch.inf)
    return scores


def log_law(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probs of the law for `logits` [N, V]; -inf for tokens that it cuts away; [N, V]."""
    return cut(logits, params).log_softmax(-1)


def draw(logits: Tensor, params: SamplingParams, uniform: Tensor, row: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Token ids [N] and their log-probs [N], by inverting the law's cumulative sum at `uniform` [N].

    Draw n reads logits[row[n]] of `logits` [R, V]; without `row` it reads logits[n]. Greedy (temperature 0) takes the
    first maximum; its law gives that token probability 1, so the log-prob is 0. Raises FloatingPointError when a row's
    logits are not finite.
    """
    row = torch.arange(len(uniform), device=logits.device) if row is None else row
    highest = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(highest).all()):
        raise FloatingPointError("the model's logits are not finite")
    if params.temperature == 0:
        return logits.argmax(-1)[row], torch.zeros(len(row), device=logits.device)
    scores = cut(logits, params)
    highest = scores.amax(-1, keepdim=True)
    num_blocks = -(-scores.shape[-1] // BLOCK)
    mass = scores.new_zeros(len(scores), num_blocks * BLOCK)  # in blocks; the last is filled up with zeros
    torch.sub(scores, highest, out=mass[:, : scores.shape[-1]]).exp_()
    mass = mass.view(-1, num_blocks, BLOCK)
    ladder = mass.sum(-1).double().cumsum(-1)
    level = uniform.double()[:, None] * ladder[row, -1:]
    block = invert(ladder[row], level)
    within = mass[row, block].double().cumsum(-1)
    below = (ladder[row].gather(-1, block[:, None] - 1 + (block[:, None] == 0))) * (block[:, None] > 0)
    chosen = block * BLOCK + invert(within, level - below)
    logp = scores[row, chosen] - highest[row, 0] - ladder[row, -1].log()
    return chosen, logp.to(scores.dtype)


def invert(ladder: Tensor, level: Tensor) -> Tensor:
    """The first step of each ladder [N, n] that lies above its level [N, 1]; the last one that rises, if none does."""
    below_top = torch.minimum(level, ladder[:, -1:].nextafter(torch.zeros_like(level)))
    return torch.searchsorted(ladder, below_top, right=True)[:, 0]


def uniforms(seeds: list[int], length: int, device: torch.device) -> Tensor:
    """One row of uniform numbers in [0, 1) per seed; [N, length]. A longer `length` keeps the numbers before."""
    generator = torch.Generator()
    rows = [torch.rand(length, generator=generator.manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows).to(device)
