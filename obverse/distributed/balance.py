"""Distribution of work over the ranks by its cost: the most expensive item first, to the rank with the least load."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balanced_shares(costs: Sequence[float], size: int) -> list[list[int]]:
    """The items of each of `size` ranks, as rising indices into `costs`; deterministic, so equal on all ranks.

    No load exceeds the mean load plus the largest cost (Graham 1969). A rank may get no item.

    Example:
        balanced_shares([5, 1, 1, 3], 2) == [[0], [1, 2, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    # a heap of (load, number of items, rank): equal loads are ordered by items, so that free items are spread too
    loads = [(0.0, 0, rank) for rank in range(size)]
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, num_items, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], num_items + 1, rank))
    return [sorted(share) for share in shares]
