"""The order of problems over a run: every epoch is shuffled by the seed, and any position is computed directly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from obverse.seeds import seed_for
from obverse.types import Problem


def take(problems: Sequence[Problem], seed: int, cursor: int, num_problems: int) -> list[Problem]:
    """Return `num_problems` problems from position `cursor` of the stream of shuffled epochs."""
    epochs = (divmod(position, len(problems)) for position in range(cursor, cursor + num_problems))
    return [problems[order(len(problems), seed, epoch)[index]] for epoch, index in epochs]


@lru_cache(maxsize=4)
def order(num_problems: int, seed: int, epoch: int) -> list[int]:
    """Return the order of an epoch's problems, which depends on the seed and the epoch only."""
    indices = list(range(num_problems))
    random.Random(seed_for(seed, "epoch", epoch)).shuffle(indices)
    return indices


def wording(problem: Problem) -> str:
    """Return a prompt as one text with normalized white space."""
    prompt = problem.prompt
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    return " ".join(text.split())
