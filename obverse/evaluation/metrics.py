"""Metrics of a problem with n samples of which c are correct: pass@k and maj@k, exact where a closed form exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from obverse.rewards import same_answer
from obverse.seeds import seed_for
from obverse.types import Problem

MAX_EXACT_DRAWS = 1000  # draws of k samples that are enumerated; beyond it NUM_DRAWS are sampled
NUM_DRAWS = 2000
MAX_COMPARED = 64  # distinct answers that are compared by meaning, the most frequent first

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that at least one of k samples, drawn without replacement, is correct.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of pass@k (Chen et al. 2021, arXiv 2107.03374, eq. 1), computed as a
    product that is stable for large n. Raises ValueError when k > n.
    """
    if k > num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {num_samples}")
    all_wrong = 1.0
    for i in range(num_samples - num_correct + 1, num_samples + 1):
        all_wrong *= max(0.0, 1.0 - k / i)
    return 1.0 - all_wrong


def majority(
    problem: Problem, answers: Sequence[str | None], correct: Sequence[bool], ks: Sequence[int]
) -> dict[int, float]:
    """Return maj@k by k: how often the most frequent answer among k of the n samples is correct.

    The k samples are drawn without replacement. Answers that the problem's verifier takes as equal are counted
    together; a sample without an answer has no vote, and a draw without any vote is wrong. On a tie, the most frequent
    answers count in equal parts. Exact for k = 1, k = n and for at most MAX_EXACT_DRAWS possible draws, otherwise the
    mean of NUM_DRAWS random draws (seeded by the problem's id and k). Raises ValueError for k > n.
    """
    if max(ks, default=0) > len(answers):
        raise ValueError(f"maj@{max(ks)} needs at least as many samples, there are {len(answers)}")
    sizes, cluster_correct = cluster_answers(problem, answers, correct)
    num_blank = len(answers) - int(sizes.sum())
    return {k: _majority_at_k(problem, sizes, cluster_correct, num_blank, k) for k in ks}


def cluster_answers(problem: Problem, answers: Sequence[str | None], correct: Sequence[bool]) -> tuple[Counts, Floats]:
    """Return the sizes [C] of the clusters of equal answers, and whether each cluster is correct [C] (0 or 1).

    A cluster is correct if most samples with its most frequent wording were graded as correct.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    num_correct = Counter(answer for answer, is_correct in zip(answers, correct, strict=True) if is_correct)
    heads: list[str] = []  # the most frequent wording of each cluster
    sizes: list[int] = []
    for rank, (answer, count) in enumerate(counts.most_common()):
        candidates = heads if rank < MAX_COMPARED else ()
        cluster = next((index for index, head in enumerate(candidates) if same_answer(problem, head, answer)), None)
        if cluster is None:
            heads.append(answer)
            sizes.append(count)
        else:
            sizes[cluster] += count
    return np.array(sizes, dtype=np.int64), np.array([float(2 * num_correct[head] > counts[head]) for head in heads])


def _majority_at_k(problem: Problem, sizes: Counts, cluster_correct: Floats, num_blank: int, k: int) -> float:
    num_samples = int(sizes.sum()) + num_blank
    if not cluster_correct.any():
        return 0.0
    if k == 1:
        return float(sizes @ cluster_correct) / num_samples
    if k == num_samples:
        votes = sizes[None]
    elif comb(num_samples, k) <= MAX_EXACT_DRAWS:
        cluster_of_sample = np.repeat(np.arange(len(sizes) + 1), [*sizes, num_blank])
        draws = np.array(list(combinations(cluster_of_sample, k)))
        votes = (draws[:, :, None] == np.arange(len(sizes))).sum(1)
    else:
        rng = np.random.default_rng(seed_for(0, "majority", problem.id, k))
        votes = rng.multivariate_hypergeometric([*sizes, num_blank], k, size=NUM_DRAWS)[:, :-1]
    most_votes = votes.max(1, keepdims=True)
    winners = (votes == most_votes) & (most_votes > 0)
    return float(((winners * cluster_correct).sum(1) / np.maximum(winners.sum(1), 1)).mean())
