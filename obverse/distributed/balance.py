"""Work dealt out by what it costs: the largest piece first, each to whoever has least so far."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def deal(costs: Sequence[float], size: int) -> list[list[int]]:
    """The pieces of each of `size` ranks, as indices in rising order; the same on every rank that asks.

    Nobody has more than the mean and the largest piece together (Graham 1969). A rank may get nothing.

    Example:
        deal([5, 1, 1, 3], 2) == [[0], [1, 2, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    # a heap: who has least; of those the fewest pieces, for a piece that costs nothing is one too
    loads = [(0.0, 0, rank) for rank in range(size)]
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, number, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], number + 1, rank))
    return [sorted(share) for share in shares]
