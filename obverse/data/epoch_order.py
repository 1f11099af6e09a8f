"""The run's endless stream of problems: every epoch a new order, any place reached without walking there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from obverse.seeds import seed_for
from obverse.types import Problem


def take(problems: Sequence[Problem], seed: int, cursor: int, num: int) -> list[Problem]:
    """`num` problems from place `cursor` of the stream; it goes on over the end of an epoch, which is shuffled anew."""
    places = (divmod(place, len(problems)) for place in range(cursor, cursor + num))
    return [problems[order(len(problems), seed, epoch)[index]] for epoch, index in places]


@lru_cache(maxsize=4)
def order(num_problems: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits its problems: a function of the seed alone."""
    indices = list(range(num_problems))
    random.Random(seed_for(seed, "epoch", epoch)).shuffle(indices)
    return indices


def wording(problem: Problem) -> str:
    """A prompt as one text, without differences in white space."""
    prompt = problem.prompt
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    return " ".join(text.split())
