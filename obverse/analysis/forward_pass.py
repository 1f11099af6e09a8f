"""A forward pass over an update: the part inputs of every micro batch, without an optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from obverse.estimator.tables import PartInputs
from obverse.models.batch import Update
from obverse.training.divergence_target import comparison_of
from obverse.training.learners import Learner
from obverse.training.mismatched_kl import with_mismatched_kl
from obverse.training.prepared_update import PromptReaders, fill_logprobs, prepare_update
from obverse.training.streams import Streams, forward
from obverse.training.whole_update import whole_update


class ForwardPass(NamedTuple):
    """A micro batch: the part inputs, detached, and the streams with their graphs; [T] each."""

    inputs: PartInputs
    streams: Streams


def forward_passes(learner: Learner, update: Update, progress: float) -> Iterator[ForwardPass]:
    """Yield the update's micro batches, without samples that have a zero gradient.

    For gradients, call backward on each micro batch before the next one is requested, and read them after the last.
    """
    prepared, readers = prepare_update(learner, update, is_repeated=False), PromptReaders(learner)
    prepared, _ = with_mismatched_kl(learner, prepared)
    whole = whole_update(learner, prepared, progress)
    for number, micro in enumerate(prepared.micros):
        streams = forward(learner, micro, readers.policy, comparison=comparison_of(learner, micro, readers))
        detached, tokens = streams.detached(), micro.tokens
        if whole is not None:
            tokens = whole.tokens[number]
        elif not prepared.is_frozen:
            tokens = fill_logprobs(micro, detached.logp, learner, readers, prepared.is_unmoved)
        yield ForwardPass(PartInputs(tokens, prepared.samples, detached, progress, whole and whole.inputs), streams)
    readers.policy.finish()
