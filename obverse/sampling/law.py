"""One draw from the law of sampling, for a batch of rows, with one uniform number per row."""

from __future__ import annotations

import torch
from torch import Tensor

from obverse.sampling.protocol import Law


def log_law(logits: Tensor, law: Law) -> Tensor:
    """Log-probs of the law for `logits` [N, V]; -inf for tokens that it cuts away; float32 [N, V].

    top_k first, then min_p and top_p on what is left, in the order of transformers' warpers.
    """
    scores = logits.float() / law.temperature
    if 0 < law.top_k < scores.shape[-1]:
        lowest = scores.topk(law.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if law.top_p < 1:
        ordered, index = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        # a token stays while the mass before it is below top_p: at least one always does
        cut = (before >= law.top_p).scatter(-1, index, before >= law.top_p)
        scores = scores.masked_fill(cut, -torch.inf)
    if law.min_p > 0:
        probs = scores.softmax(-1)
        scores = scores.masked_fill(probs < law.min_p * probs.amax(-1, keepdim=True), -torch.inf)
    return scores.log_softmax(-1)


def draw(logits: Tensor, law: Law, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [N] and their log-probs [N] for `logits` [N, V] by inverting the law's cumulative sum at `uniform` [N].

    Greedy (temperature 0) takes the first maximum; its law gives that token probability 1, so the log-prob is 0.
    Raises FloatingPointError when a row's logits are not finite.
    """
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise FloatingPointError("the model's logits are not finite")
    if law.temperature == 0:
        chosen = logits.argmax(-1)
        return chosen, torch.zeros(len(chosen), device=logits.device)
    logp = log_law(logits, law)
    # float64: at 150,000 tokens a float32 sum is wrong in the fifth digit
    ladder = logp.double().exp().cumsum(-1)
    level = uniform.to(ladder)[:, None] * ladder[:, -1:]
    chosen = torch.searchsorted(ladder, level, right=True).clamp(max=logits.shape[-1] - 1)
    return chosen[:, 0], logp.gather(-1, chosen)[:, 0]


def uniforms(seeds: list[int], length: int, device: torch.device) -> Tensor:
    """One row of uniform numbers in [0, 1) per seed; [N, length]. A longer `length` keeps the numbers before."""
    generator = torch.Generator()
    rows = [torch.rand(length, generator=generator.manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows).to(device)
