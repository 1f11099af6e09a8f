"""The policy's outputs over a whole update, for parts that compare a token with all others: a pass without a graph.

A quantile or a covariance over the update must not depend on how it is split into micro batches or ranks. Where a part
needs "update", every optimizer step therefore begins with a forward pass over all micro batches, and all
ranks gather its numbers. It costs what scoring the update by another model costs.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.columns import MissingColumn
from obverse.estimator.tables import PartInputs, PolicyOutputs, Tokens
from obverse.training.learners import Learner
from obverse.training.prepared_update import PreparedUpdate, PromptReaders, fill_logprobs
from obverse.training.streams import forward

WHOLE_NUMBERS = ("sample", "source", "position")


class WholeUpdate(NamedTuple):
    """The inputs of the whole update [U], by sample and position, and the token columns of each micro batch here."""

    inputs: PartInputs
    tokens: list[Tokens]


@torch.no_grad()
def whole_update(learner: Learner, update: PreparedUpdate, progress: float) -> WholeUpdate | None:
    """Run the policy over all micro batches and gather its outputs from all ranks, which call this together.

    None where no part reads them, or where the only micro batch of the only rank is the update. Samples with a
    gradient of zero are run too. The columns of the tokens are filled on the way, so that the update need not do that.
    """
    if not learner.method.reads_update or (learner.process_group.is_alone and is_whole(update)):
        return None
    readers = PromptReaders(learner)
    filled: list[Tokens] = []
    tables: list[dict[str, Tensor]] = []
    for micro in (*update.micros, *update.without_gradient):
        streams = forward(learner, micro, readers.policy)
        tokens = micro.tokens
        if not update.is_frozen:
            tokens = fill_logprobs(micro, streams.logp, learner, readers, update.is_unmoved)
        filled.append(tokens)
        if not micro.is_padding:
            columns = {column.name: getattr(tokens, column.name) for column in fields(Tokens)}
            tables.append(columns | {"logp": streams.logp, "entropy": streams.entropy})
    return WholeUpdate(_gathered(learner.process_group, update, tables, progress), filled[: len(update.micros)])


def is_whole(update: PreparedUpdate) -> bool:
    """Whether one micro batch holds all tokens of the update."""
    return len(update.micros) == 1 and len(update.micros[0].tokens) == int(update.samples.counts.sum())


def _gathered(
    process_group: ProcessGroup, update: PreparedUpdate, tables: list[dict[str, Tensor]], progress: float
) -> PartInputs:
    """The rows of all tables of all ranks, ordered by sample and position."""
    local = [name for name, column in tables[0].items() if not isinstance(column, MissingColumn)] if tables else []
    names: list[str] = next(filter(None, process_group.gather(local)), [])
    like = update.samples.reward
    columns: dict[str, Tensor] = {}
    for name in names:
        dtype = torch.long if name in WHOLE_NUMBERS else torch.float64
        parts = [table[name].to(dtype) for table in tables]
        of_rank = torch.cat(parts) if parts else torch.zeros(0, dtype=dtype, device=like.device)
        gathered = torch.cat(process_group.gather_tensors(of_rank))
        columns[name] = gathered if name in WHOLE_NUMBERS else gathered.to(like.dtype)
    if not columns:
        raise ValueError("an update without a trained token has no first pass")
    stride = int(columns["position"].max()) + 1
    order = (columns["sample"] * stride + columns["position"]).argsort()
    columns = {name: column[order] for name, column in columns.items()}
    outputs: dict[str, Any] = {name: columns.pop(name) for name in ("logp", "entropy")}
    return PartInputs(Tokens(**columns), update.samples, PolicyOutputs(**outputs), progress)
