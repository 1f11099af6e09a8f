"""A store of the policy's own right samples, from which a step may take part of its problems. No torch import.

The store is a value of plain numbers and texts: which problems it gives and what it takes in are functions of its
content, the step and the seed, so that a resumed run and every rank have the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from obverse.estimator.parts.interfaces import Named
from obverse.seeds import seed_for
from obverse.types import GenerationRequest, GradeResult, Group, ModelInput, Problem, Sample, Source

# A store as JSON: {"begun": bool, "problems": {id: {"num_right": int, "samples": [record, ...]}}, "retired": [id]}; a
# record has the keys of `_record`.
Store = dict[str, Any]


@dataclass(frozen=True)
class Replay(Named):
    """Part of a step's problems come with a stored right sample of their own in place of a rollout.

    A problem with some right and some wrong rollouts enters the store with its right ones, one of each text, at most
    `most` of them, the newest; a problem that all rollouts solved leaves it for good. Once more than `start` of a
    step's rollouts were right, `share` of the problems of every step come from the store, as far as it has that many:
    drawn by their number of right rollouts, with the density of a normal distribution around half of the group.
    Source: ExGRPO, 2510.02245; `most` is ours.
    """

    rollouts: int
    share: float = 0.5
    start: float = 0.35
    spread: float = 1.0  # standard deviation of that distribution
    most: int = 8
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"the replayed share of problems must be above 0 and below 1, not {self.share:g}")
        if self.rollouts < 2 or self.most < 1 or self.spread <= 0:
            raise ValueError("a replay needs groups of at least 2, most at least 1 and a spread above 0")

    def choose(self, store: Store, problems_per_step: int, step: int, excluded: Collection[str]) -> list[str]:
        """The ids of the problems that step `step` takes from the store, none of `excluded`; no problem twice."""
        if not store.get("begun"):
            return []
        weights = {
            name: self._weight(entry["num_right"])
            for name, entry in store["problems"].items()
            if name not in excluded and entry["samples"]
        }
        rng, chosen = Random(seed_for(self.seed, "replay", step)), []
        for _ in range(min(int(self.share * problems_per_step), len(weights))):
            names = list(weights)
            (name,) = rng.choices(names, [weights[name] for name in names])
            chosen.append(name)
            del weights[name]
        return chosen

    def _weight(self, num_right: int) -> float:
        """The density of the normal distribution around half of the group, up to a factor."""
        return math.exp(-(((num_right - self.rollouts / 2) / self.spread) ** 2) / 2)

    def requests(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        """The requests for a problem with a stored sample in its group: one rollout fewer."""
        first, *rest = requests
        return [GenerationRequest(**{**vars(first), "rollouts": first.rollouts - 1}), *rest]

    def updated(self, store: Store, groups: Sequence[Group], step: int) -> Store:
        """The store after a step: its groups with mixed outcomes are added, solved ones removed; a new value."""
        problems = {name: dict(entry) for name, entry in store.get("problems", {}).items()}
        retired = dict.fromkeys(store.get("retired", ()))
        rollouts = [sample for group in groups for sample in group.of("rollout") if sample.grade.correct is not None]
        for group in groups:
            members, name = group.of("rollout"), group.problem.id
            right = [sample for sample in members if sample.correct]
            if members and len(right) == len(members):
                problems.pop(name, None)
                retired[name] = None
            elif right and name not in retired:
                earlier = problems.get(name, {"samples": []})["samples"]
                by_text = {record["text"]: record for record in [*earlier, *(_record(one, step) for one in right)]}
                problems[name] = {"num_right": len(right), "samples": [*by_text.values()][-self.most :]}
        is_good = bool(rollouts) and sum(sample.correct for sample in rollouts) > self.start * len(rollouts)
        return {"begun": bool(store.get("begun")) or is_good, "problems": problems, "retired": [*retired]}

    @staticmethod
    def figures(store: Store, groups: Sequence[Group], step: int) -> dict[str, float]:
        """Figures of a step: the sizes of the store, and the number and mean age in steps of the replayed samples."""
        ages = [step - (sample.weights or 0) for group in groups for sample in group.of("replayed")]
        problems = store.get("problems", {})
        row: dict[str, float] = {
            "replay/problems": len(problems),
            "replay/samples": sum(len(entry["samples"]) for entry in problems.values()),
            "replay/retired": len(store.get("retired", ())),
            "replay/replayed": len(ages),
        }
        return row | ({"replay/staleness": sum(ages) / len(ages)} if ages else {})


def stored_samples(store: Store, problem: Problem, prompt: ModelInput) -> list[Sample]:
    """The stored samples of a problem, with the log-probs that they were sampled with; `weights` is their step."""
    return [
        Sample(
            kind="replayed",
            prompt=prompt,
            ids=list(record["ids"]),
            sources=[Source.REPLAYED] * len(record["ids"]),
            behavior=list(record["behavior"]),
            text=record["text"],
            finish=record["finish"],
            grade=GradeResult(True, record["reward"]),
            uniform=problem.uniform,
            weights=record["step"],
        )
        for record in store["problems"][problem.id]["samples"]
    ]


def _record(sample: Sample, step: int) -> dict[str, Any]:
    """What the store keeps of a right rollout; `step` is the number of steps before it was sampled."""
    return {
        "ids": list(sample.ids),
        "behavior": list(sample.behavior),
        "text": sample.text,
        "finish": sample.finish,
        "reward": sample.reward,
        "step": sample.weights if sample.weights is not None else step,
    }
