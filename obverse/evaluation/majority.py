"""maj@k: how often the answer that most of k samples agree on is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from obverse.rewards import same
from obverse.seeds import seed_for
from obverse.types import Problem

MAX_EXACT = 1000  # draws of k samples that are counted one by one
NUM_DRAWS = 2000  # otherwise so many are drawn
MAX_COMPARED = 64  # answers with other words that are compared by meaning, the most frequent first

Numbers = NDArray[np.int64]


def majority(
    problem: Problem, answers: Sequence[str | None], correct: Sequence[bool], ks: Sequence[int]
) -> dict[int, float]:
    """maj@k by k: the expected verdict on the most frequent answer among k of the n samples, drawn without replacement.

    Answers that the problem's verifier holds for equal are one; a sample without an answer has no vote, and a draw
    without any vote is wrong. Ties are shared: each of the most frequent answers counts alike. Exact for k = 1, k = n
    and where there are at most MAX_EXACT draws, else the mean of NUM_DRAWS of them (seeded by the problem's name and
    k). Raises ValueError for k > n.
    """
    if max(ks, default=0) > len(answers):
        raise ValueError(f"maj@{max(ks)} needs at least as many samples, there are {len(answers)}")
    sizes, right = clusters(problem, answers, correct)
    blank = len(answers) - int(sizes.sum())
    return {k: _value(problem, sizes, right, blank, k) for k in ks}


def clusters(
    problem: Problem, answers: Sequence[str | None], correct: Sequence[bool]
) -> tuple[Numbers, NDArray[np.float64]]:
    """Sizes [C] of the sets of equal answers, and whether each is right [C]: what was said of its commonest wording."""
    counts = Counter(answer for answer in answers if answer is not None)
    num_right = Counter(answer for answer, is_right in zip(answers, correct, strict=True) if is_right)
    heads: list[str] = []
    sizes: list[int] = []
    for place, (answer, count) in enumerate(counts.most_common()):
        known = heads if place < MAX_COMPARED else ()
        home = next((n for n, head in enumerate(known) if same(problem, head, answer)), None)
        if home is None:
            heads.append(answer)
            sizes.append(count)
        else:
            sizes[home] += count
    return np.array(sizes, dtype=np.int64), np.array([float(2 * num_right[head] > counts[head]) for head in heads])


def _value(problem: Problem, sizes: Numbers, right: NDArray[np.float64], blank: int, k: int) -> float:
    num = int(sizes.sum()) + blank
    if not right.any():
        return 0.0
    if k == 1:
        return float(sizes @ right) / num
    if k == num:
        votes = sizes[None]
    elif comb(num, k) <= MAX_EXACT:
        owner = np.repeat(np.arange(len(sizes) + 1), [*sizes, blank])
        drawn = np.array(list(combinations(owner, k)))
        votes = (drawn[:, :, None] == np.arange(len(sizes))).sum(1)
    else:
        rng = np.random.default_rng(seed_for(0, "majority", problem.id, k))
        votes = rng.multivariate_hypergeometric([*sizes, blank], k, size=NUM_DRAWS)[:, :-1]
    most = votes.max(1, keepdims=True)
    winners = (votes == most) & (most > 0)
    return float(((winners * right).sum(1) / np.maximum(winners.sum(1), 1)).mean())
