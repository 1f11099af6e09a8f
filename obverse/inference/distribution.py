"""Sampling a token from truncated, temperature-scaled logits, for a batch of rows, with one uniform number per row."""

from __future__ import annotations

import torch
from torch import Tensor

from obverse.inference.types import SamplingParams
from obverse.models.logit_chunks import wide

# Probabilities of this many tokens are added in float32, with an error of about 1e-6; sums of blocks in float64.
BLOCK = 128


def truncated_scores(logits: Tensor, params: SamplingParams) -> Tensor:
    """Unnormalized log-probs of the distribution for `logits` [N, V]; -inf for truncated tokens; [N, V].

    top_k comes first, then top_p and min_p among the remaining tokens, in the order of transformers' warpers. float32,
    or float64 for a float64 model.
    """
    scores = wide(logits)
    if params.temperature != 1:
        scores = scores / params.temperature
    if 0 < params.top_k < scores.shape[-1]:
        lowest = scores.topk(params.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if params.top_p < 1:
        probs = scores.softmax(-1)
        # all tokens below this floor together have less than 1 - top_p: they are cut, and need not be sorted
        floor = (1 - params.top_p) / scores.shape[-1]
        num_likely = max(int((probs >= floor).sum(-1).max()), 1)
        is_few = 8 * num_likely < scores.shape[-1]
        ordered = probs.topk(num_likely).values if is_few else probs.sort(descending=True).values
        # a token stays while the mass before it is below top_p: at least one always does; equals stay together
        is_inside = (ordered.cumsum(-1) - ordered < params.top_p) & (ordered >= floor)
        num_inside = is_inside.sum(-1, keepdim=True).clamp(min=1)
        scores = scores.masked_fill(probs < ordered.gather(-1, num_inside - 1), -torch.inf)
    if params.min_p > 0:
        probs = scores.softmax(-1)
        scores = scores.masked_fill(probs < params.min_p * probs.amax(-1, keepdim=True), -torch.inf)
    return scores


def sampling_log_probs(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probs of the distribution for `logits` [N, V]; -inf for truncated tokens; [N, V]."""
    return truncated_scores(logits, params).log_softmax(-1)


def sample_tokens(
    logits: Tensor, params: SamplingParams, uniform: Tensor, row: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids [N] and their log-probs [N], by inverting the cumulative distribution at `uniform` [N].

    Draw n reads logits[row[n]] of `logits` [R, V]; without `row` it reads logits[n]. Greedy decoding (temperature 0)
    takes the first maximum, with probability 1, so the log-prob is 0. Raises FloatingPointError if a row's logits are
    not finite.
    """
    row = torch.arange(len(uniform), device=logits.device) if row is None else row
    highest = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(highest).all()):
        raise FloatingPointError("the model's logits are not finite")
    if params.temperature == 0:
        return logits.argmax(-1)[row], torch.zeros(len(row), device=logits.device)
    scores = truncated_scores(logits, params)
    highest = scores.amax(-1, keepdim=True)
    num_blocks = -(-scores.shape[-1] // BLOCK)
    mass = scores.new_zeros(len(scores), num_blocks * BLOCK)  # the last block is padded with zeros
    torch.sub(scores, highest, out=mass[:, : scores.shape[-1]]).exp_()
    mass = mass.view(-1, num_blocks, BLOCK)
    cumulative = mass.sum(-1).double().cumsum(-1)  # over blocks, [R, num_blocks]
    level = uniform.double()[:, None] * cumulative[row, -1:]
    block = first_above(cumulative[row], level)
    cumulative_in_block = mass[row, block].double().cumsum(-1)
    before_block = (cumulative[row].gather(-1, block[:, None] - 1 + (block[:, None] == 0))) * (block[:, None] > 0)
    chosen = block * BLOCK + first_above(cumulative_in_block, level - before_block)
    logp = scores[row, chosen] - highest[row, 0] - cumulative[row, -1].log()
    return chosen, logp.to(scores.dtype)


def first_above(cumulative: Tensor, level: Tensor) -> Tensor:
    """The first index of each row [N, n] whose value exceeds its level [N, 1], or the last index that rises; [N]."""
    below_top = torch.minimum(level, cumulative[:, -1:].nextafter(torch.zeros_like(level)))
    return torch.searchsorted(cumulative, below_top, right=True)[:, 0]


def uniform_numbers(seeds: list[int], length: int, device: torch.device) -> Tensor:
    """One row of uniform numbers in [0, 1) per seed; [N, length]. A longer `length` keeps the first numbers."""
    generator = torch.Generator()
    rows = [torch.rand(length, generator=generator.manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows).to(device)
