"""Splits of embedded tasks: train and heldout differ by a hash of the problem, ood by its difficulty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from obverse.errors import ConfigError
from obverse.seeds import seed_for
from obverse.types import Problem

HELDOUT_ONE_IN = 4  # a large fraction, because the easiest difficulties have few distinct problems
PATIENCE = 3_000  # largest number of draws without a new problem, plus PATIENCE_PER_SEEN per distinct problem
PATIENCE_PER_SEEN = 40

Range = tuple[int, int]


@dataclass(frozen=True)
class Draft:
    """A problem before it has an id; two drafts with the same canonical form are the same problem."""

    canonical: str
    prompt: str
    answer: Any
    demonstration: tuple[str, ...]
    rejected: str | None = None  # a wrong response, for methods that learn from pairs


Draw = Callable[[Random, int], Draft]


def split_of(task: str, canonical: str) -> str:
    """Return the split of a problem by its canonical form, `train` or `heldout`; it does not depend on the seed."""
    return "heldout" if seed_for(0, "split", task, canonical) % HELDOUT_ONE_IN == 0 else "train"


def resolve(task: str, split: str, difficulty: Range | None, allowed: Mapping[str, Range]) -> Range:
    """Return the lowest and the highest difficulty of a split, both included.

    Errors: ConfigError if `split` is unknown or does not have the requested difficulties.
    """
    if split not in allowed:
        raise ConfigError(f"{task}: there is no split {split!r}; choose one of {', '.join(allowed)}")
    low, high = allowed[split]
    if difficulty is None:
        return low, high
    first, last = difficulty
    if not low <= first <= last <= high:
        raise ConfigError(
            f"{task}: the {split} split has difficulties {low} to {high}, not {first} to {last}; "
            f"ask for a range inside {task}:{low}-{high} or for another split"
        )
    return first, last


def deal(
    task: str,
    split: str,
    num_problems: int,
    seed: int,
    difficulty: Range | None,
    *,
    allowed: Mapping[str, Range],
    draw: Draw,
    verifier: str,
) -> list[Problem]:
    """Return `num_problems` distinct problems of a split, with the difficulties of the range in turn.

    A shorter list is a prefix of a longer one with the same seed.

    Errors: ConfigError if the split lacks a difficulty or that many problems, or is unknown.
    """
    if num_problems < 0:
        raise ConfigError(f"{task}: num_problems is {num_problems}; ask for 0 or more")
    first, last = resolve(task, split, difficulty, allowed)
    levels = range(first, last + 1)
    drafts = {}
    for offset, level in enumerate(levels):
        num_wanted = len(range(offset, num_problems, len(levels)))
        drafts[level] = iter(_distinct(task, split, level, num_wanted, seed, draw))
    problems = []
    for index in range(num_problems):
        level = levels[index % len(levels)]
        draft = next(drafts[level])
        problems.append(
            Problem(
                id=f"{task}-{split}-{index}",
                prompt=draft.prompt,
                answer=draft.answer,
                demonstration=draft.demonstration,
                chosen="".join(draft.demonstration) if draft.rejected else None,
                rejected=draft.rejected,
                verifier=verifier,
                meta={"task": task, "split": split, "difficulty": level},
            )
        )
    return problems


def _distinct(task: str, split: str, level: int, num_wanted: int, seed: int, draw: Draw) -> list[Draft]:
    """Draw distinct problems of one difficulty. Errors: ConfigError if no new one appears for a long time."""
    rng = Random(seed_for(seed, task, split, level))
    drafts: list[Draft] = []
    seen: set[str] = set()  # of both splits
    num_repeats = 0
    while len(drafts) < num_wanted:
        draft = draw(rng, level)
        if draft.canonical in seen:
            num_repeats += 1
            if num_repeats > PATIENCE + PATIENCE_PER_SEEN * len(seen):
                raise ConfigError(
                    f"{task}: only {len(drafts)} distinct problems of difficulty {level} turn up in the {split} split, "
                    f"not {num_wanted}; ask for fewer problems or for harder ones"
                )
            continue
        seen.add(draft.canonical)
        num_repeats = 0
        if split == "ood" or split_of(task, draft.canonical) == split:
            drafts.append(draft)
    return drafts
