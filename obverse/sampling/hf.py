"""The embedded sampler: any transformers decoder, each prompt computed once, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from obverse.sampling.cache import roomy_cache
from obverse.sampling.law import draw, uniforms
from obverse.sampling.protocol import Completion, Law, Order

# Dropping rows copies the whole cache: it pays once this share of the rows is done.
DONE_SHARE = 0.25


class HFSampler:
    """Samples from a transformers causal LM in this process.

    `max_rows` bounds the completions decoded at once; memory grows with rows x length.
    """

    def __init__(self, model: Any, max_rows: int = 256) -> None:
        self.model = model
        self.max_rows = max_rows

    @torch.inference_mode()
    def sample(
        self, orders: Sequence[Order], law: Law, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample. Raises FloatingPointError when the model's logits are not finite."""
        rows = [(len(order.prompt_ids), index, seed) for index, order in enumerate(orders) for seed in order.seeds]
        rows.sort(key=lambda row: row[:2])  # prompts of like length together: little padding
        results: list[list[Completion]] = [[] for _ in orders]
        for start in range(0, len(rows), self.max_rows):
            chunk = rows[start : start + self.max_rows]
            owners = [index for _, index, _ in chunk]

            def tick(num_done: int, before: int = start) -> None:
                if progress:
                    progress(before + num_done)

            prompts, seeds = [orders[index].prompt_ids for index in owners], [seed for *_, seed in chunk]
            for index, completion in zip(owners, self._decode(prompts, owners, seeds, law, tick), strict=True):
                results[index].append(completion)
            tick(len(chunk))
        return results

    def _decode(
        self,
        prompts: list[Sequence[int]],
        owners: list[int],
        seeds: list[int],
        law: Law,
        tick: Callable[[int], None],
    ) -> list[Completion]:
        """Completions for rows whose prompts may repeat; `owners` tells which prompts are the same."""
        device = self.model.device
        unique = sorted(set(owners), key=owners.index)
        first = {owner: owners.index(owner) for owner in unique}
        logits, cache, mask = self._prefill([prompts[first[owner]] for owner in unique])
        place = torch.tensor([unique.index(owner) for owner in owners], device=device)
        cache.batch_select_indices(place)
        logits, mask = logits[place], mask[place]

        num_rows, luck = len(owners), uniforms(seeds, law.max_tokens, device)
        ids = torch.zeros(num_rows, law.max_tokens, dtype=torch.long, device=device)
        behavior = torch.zeros(num_rows, law.max_tokens, device=device)
        length = torch.full((num_rows,), law.max_tokens, device=device)
        stop = torch.tensor(law.stop_ids, dtype=torch.long, device=device)
        stopped = torch.zeros(num_rows, dtype=torch.bool, device=device)
        alive = torch.arange(num_rows, device=device)  # the rows still in the batch
        for step in range(law.max_tokens):
            chosen, logp = draw(logits, law, luck[alive, step])
            going = ~stopped[alive]
            ids[alive[going], step], behavior[alive[going], step] = chosen[going], logp[going]
            ended = alive[going & torch.isin(chosen, stop)]
            stopped[ended], length[ended] = True, step + 1
            going = ~stopped[alive]
            num_going = int(going.sum())
            tick(num_rows - num_going)
            if num_going == 0 or step + 1 == law.max_tokens:
                break
            if num_going <= (1 - DONE_SHARE) * len(alive):
                keep = going.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, mask, chosen = alive[keep], mask[keep], chosen[keep]
            logits, mask = self._step(chosen, cache, mask)
        return [
            Completion(row[:size], logps[:size], "stop" if over else "length")
            for row, logps, size, over in zip(
                ids.tolist(), behavior.tolist(), length.tolist(), stopped.tolist(), strict=True
            )
        ]

    def _prefill(self, prompts: list[Sequence[int]]) -> tuple[Tensor, Any, Tensor]:
        """Last logits [P, V], cache and attention mask [P, L] of left-padded prompts."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = roomy_cache(self.model)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], cache, mask

    def _step(self, chosen: Tensor, cache: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One more token for every row."""
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = mask.sum(-1, keepdim=True) - 1
        out = self.model(
            input_ids=chosen[:, None], attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        return out.logits[:, -1], mask
