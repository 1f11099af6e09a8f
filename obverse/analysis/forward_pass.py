"""One pass of a model over an update: every micro batch as the parts of a method see it, and no step taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from obverse.estimator.tables import PartInputs, PolicyOutputs
from obverse.models.batch import Update
from obverse.training.update import Learner, PromptReaders, fill_logprobs, forward, prepare_update


class Read(NamedTuple):
    """A micro batch: what the parts see, detached, and the same numbers with their graphs; [T] each."""

    inputs: PartInputs
    outputs: PolicyOutputs


def read(learner: Learner, update: Update, progress: float) -> Iterator[Read]:
    """The update's micro batches, without the samples that no term can move.

    Whoever wants gradients goes backward before asking for the next one, and reads them after the last.
    """
    current, readers = prepare_update(learner, update, is_repeated=False), PromptReaders(learner)
    for micro in current.micros:
        outputs = forward(learner, micro, readers.policy)
        seen, tokens = PolicyOutputs(*(stream.detach() for stream in outputs)), micro.tokens
        if not current.is_frozen:
            tokens = fill_logprobs(micro, seen.logp, learner, readers, current.is_unmoved)
        yield Read(PartInputs(tokens, current.samples, seen, progress), outputs)
    readers.policy.finish()
