"""Questions to computer algebra, asked of worker processes. Whether one is too hard is a matter of work, not of time.

Workers count calls and returns of functions, which do not depend on the machine's load or speed. Only the count of a
fresh worker decides, since every fresh worker has the same caches, hash seed and random numbers. A worker that answered
other questions has fuller caches and needs fewer calls: what it answers within a quarter of the limit, a fresh one
answers within the limit, and is not asked.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from obverse.rewards import worker_pool as workers

MAX_CALLS = 4_000_000  # and returns, of Python and C functions: about a second
USED_WORKER_SHARE = 4
MAX_SECONDS = 10.0  # for the rare single call that never ends, which counting cannot see
WORKER = workers.Kind("obverse.rewards.math_verify_worker", memory=2**30, files=64, silent=True)
TOO_HARD = "too_hard"

Question = tuple[str, str]  # two bare formulas, the expected one first


@lru_cache(maxsize=16_384)
def ask(questions: tuple[Question, ...]) -> tuple[bool, str]:
    """Whether computer algebra answers every question by yes, and "" or why it cannot be known.

    The reasons: `unparseable`, `gold` (of the expected formula), `too_hard` (more calls or memory than allowed).
    Errors: WorkerError `crash` if the process ended twice.
    """
    pool = workers.pool(WORKER)
    with suppress(workers.WorkerError):  # ended by its own or another hand, or too slow: asked once more
        correct, reason = pool.ask((questions, MAX_CALLS // USED_WORKER_SHARE), MAX_SECONDS / USED_WORKER_SHARE)
        if reason != TOO_HARD:
            return correct, reason
    try:
        correct, reason = pool.ask((questions, MAX_CALLS), MAX_SECONDS, fresh=True)
    except workers.WorkerError as error:
        if str(error) != "timeout":
            raise
        return False, TOO_HARD
    return correct, reason
