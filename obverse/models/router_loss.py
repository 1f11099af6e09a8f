"""The balancing loss of a mixture's routers: experts that get many tokens are made less likely.

Switch Transformers (2101.03961, equations 4 to 6), as transformers computes it: with E experts, R rows (tokens times
layers of experts), C_e the rows that chose expert e and P_e the sum of its probabilities over all rows,

    loss = weight * E * sum_e (C_e / R) * (P_e / R)

The counts are constants. They are those of the whole update, on all ranks, and known before the first gradient: so no
split into micro batches changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.models.batch import Micro


@dataclass(frozen=True)
class Balance:
    """The routers of a model, the index of the logits in their output tuple, and the weight of the loss."""

    routers: tuple[torch.nn.Module, ...]
    index: int
    num_experts: int
    top_k: int
    weight: float

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Collect the logits [tokens, E] of every router that runs inside, with their graph."""
        seen: list[Tensor] = []
        hooks = [
            router.register_forward_hook(lambda _, __, out: seen.append(out[self.index])) for router in self.routers
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def counts(self, seen: Sequence[Tensor], micro: Micro) -> Tensor:
        """The number of rows routed to each expert, and of all rows; float64 [E + 1]."""
        total = torch.zeros(self.num_experts + 1, dtype=torch.float64, device=micro.input_ids.device)
        for probs in self._probs(seen, micro):
            chosen = probs.topk(self.top_k, dim=-1).indices
            total[:-1] += torch.bincount(chosen.flatten(), minlength=self.num_experts)
            total[-1] += len(probs)
        return total

    def loss(self, seen: Sequence[Tensor], micro: Micro, counts: Tensor) -> Tensor:
        """This micro batch's part of the loss, with its graph; `counts` is summed over the whole update."""
        summed = torch.stack([probs.sum(0) for probs in self._probs(seen, micro)]).sum(0)
        shares = (counts[:-1] / counts[-1] ** 2).to(summed.dtype)
        return self.weight * self.num_experts * (shares * summed).sum()

    def _probs(self, seen: Sequence[Tensor], micro: Micro) -> Iterator[Tensor]:
        """The expert probabilities of each layer, without padding; [tokens, E]."""
        read = torch.zeros(len(micro.input_ids), dtype=torch.long, device=micro.row.device)
        read.scatter_reduce_(0, micro.row, micro.position, "amax")
        places = torch.arange(micro.input_ids.shape[1], device=read.device)
        mask = (places <= read[:, None]).flatten()
        for logits in seen:
            yield logits.reshape(-1, self.num_experts)[mask].softmax(
                -1, dtype=torch.promote_types(logits.dtype, torch.float32)
            )


def balance_of(model: Any, weight: float) -> Balance | None:
    """The balancing loss of a model's routers with this weight; None for a weight of 0.

    Raises ConfigError for a model that has no such loss in transformers.
    """
    if not weight:
        return None
    recorder: Any = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
    kind = getattr(recorder, "target_class", None)
    routers = tuple(module for module in model.modules() if kind is not None and isinstance(module, kind))
    if not routers or not hasattr(model, "router_aux_loss_coef"):
        raise ConfigError(
            f"--router_aux_loss_coef: {type(model).__name__} has no routers with a balancing loss in transformers: "
            "leave it out"
        )
    return Balance(routers, recorder.index, int(model.num_experts), int(model.num_experts_per_tok), weight)
