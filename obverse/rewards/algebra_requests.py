"""Requests to computer algebra in worker processes, limited by an amount of work rather than by time.

A worker counts calls and returns of functions, which do not depend on the speed or load of the machine. Only the count
of a fresh worker decides that a comparison is too hard, because every fresh worker starts with the same caches, hash
seed and random numbers. A used worker has fuller caches and needs fewer calls: if it answers within a quarter of the
limit, a fresh worker would answer within the limit and is not asked.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from obverse.rewards.worker_pool import WorkerError, WorkerSpec, pool

MAX_CALLS = 4_000_000  # calls and returns of Python and C functions: about a second
USED_WORKER_SHARE = 4  # a used worker gets 1 / USED_WORKER_SHARE of both limits
MAX_SECONDS = 10.0  # for a single call that does not return, which counting cannot notice
WORKER = WorkerSpec("obverse.rewards.math_verify_worker", memory=2**30, files=64, silent=True)
TOO_HARD = "too_hard"

FormulaPair = tuple[str, str]  # two bare formulas, the expected one first


@lru_cache(maxsize=16_384)
def ask(pairs: tuple[FormulaPair, ...]) -> tuple[bool, str]:
    """Return whether the formulas of every pair are equal, and "" or the reason why that is unknown.

    Reasons: `unparseable`, `gold` (the expected formula is unparseable), `too_hard` (more calls or memory than
    allowed). Errors: WorkerError `crash` if the process ended twice.
    """
    workers = pool(WORKER)
    with suppress(WorkerError):  # killed, crashed or too slow: a fresh worker decides
        correct, reason = workers.ask((pairs, MAX_CALLS // USED_WORKER_SHARE), MAX_SECONDS / USED_WORKER_SHARE)
        if reason != TOO_HARD:
            return correct, reason
    try:
        correct, reason = workers.ask((pairs, MAX_CALLS), MAX_SECONDS, fresh=True)
    except WorkerError as error:
        if str(error) != "timeout":
            raise
        return False, TOO_HARD
    return correct, reason
