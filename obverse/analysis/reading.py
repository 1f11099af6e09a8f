"""One pass of a model over an update: every micro batch as the parts of a method see it, and no step taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from obverse.batch import Update
from obverse.learn import Learner, Readers, annotate, forward, lesson
from obverse.view import Live, View


class Read(NamedTuple):
    """A micro batch: what the parts see, detached, and the same numbers with their graphs; [T] each."""

    view: View
    live: Live


def read(learner: Learner, update: Update, progress: float) -> Iterator[Read]:
    """The update's micro batches, without the samples that no term can move.

    Whoever wants gradients goes backward before asking for the next one, and reads them after the last.
    """
    current, readers = lesson(learner, update, is_repeated=False), Readers(learner)
    for micro in current.micros:
        live = forward(learner, micro, readers.policy)
        seen, tokens = Live(*(stream.detach() for stream in live)), micro.tokens
        if not current.is_frozen:
            tokens = annotate(micro, seen.logp, learner, readers, current.is_unmoved)
        yield Read(View(tokens, current.samples, seen, progress), live)
    readers.policy.finish()
