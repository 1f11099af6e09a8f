"""Named random streams derived from the seed of a run, so that checkpoints hold no random state."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream `names` of a run with `seed`; the same on every machine and in every order.

    Example:
        seed_for(42, "rollout", step, problem.id, index)
    """
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1
