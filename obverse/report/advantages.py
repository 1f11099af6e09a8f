"""What each stored completion was worth to its method: the advantages of one step, computed again from its rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch

from obverse.config.resolve import method_options
from obverse.errors import ConfigError, DataError
from obverse.estimator.columns import Unfilled
from obverse.estimator.method import Method
from obverse.estimator.parts import Part
from obverse.estimator.schedule import as_schedule
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.methods import build, find, names, parameters
from obverse.report.load_runs import Row, RunData
from obverse.types import Source

OF_KIND = {
    "rollout": Source.ROLLOUT,
    "hinted": Source.ROLLOUT,
    "demonstration": Source.DEMONSTRATION,
    "chosen": Source.CHOSEN,
    "rejected": Source.REJECTED,
}
HIDDEN = ("tokens.behavior", "policy.logp", "policy.entropy")  # what it does not tell
KNOWN = frozenset({"reward", "correct", "group", "own_group"})  # what a stored completion tells of itself


def stages(run: RunData) -> tuple[Method, ...]:
    """The run's method as a value (of a course each lane's); none for a user's own file, which no report runs."""
    if run.method not in names():
        return ()
    make = find(run.method)
    given = {name: run.config[name] for name in parameters(make) if name in run.config}
    try:
        return as_schedule(build(run.method, method_options(run.method, make, given))).methods
    except ConfigError as error:
        raise DataError(f"{run.path / 'config.yaml'}: {error}") from None


def is_policy_independent(method: Method) -> dict[Source, list[Part]]:
    """By source, the advantages that rewards alone decide; several where a method has several terms for it."""
    found: dict[Source, list[Part]] = {}
    for term in method.terms if not method.shaping else ():
        part = term.advantage
        if term.on == "logp" and part.is_policy_independent and part.needs <= KNOWN:
            found.setdefault(term.source, []).append(part)
    return found


def advantages(method: Method | None, rows: Sequence[Row]) -> tuple[list[float | None], str]:
    """A number for each row of a step, None where there is none, and the name of the parts that gave them.

    Several parts of one source are added. What did not train has no advantage, and neither has a source whose
    advantages depend on more than rewards (a critic, log-probs). Where that leaves nothing, the number is the reward
    minus the mean of the problem's own samples.
    """
    parts = is_policy_independent(method) if method else {}
    trained = [row for row in rows if row.get("kept") and row["kind"] in OF_KIND]
    if not trained or not parts.keys() & {OF_KIND[row["kind"]] for row in trained}:
        return centered(rows), "reward minus the mean of the problem's own samples"
    inputs, found = tables(trained), {}
    for source, members in sorted(parts.items()):
        total = torch.stack([part(inputs) for part in members]).sum(0)
        for row, value in zip(trained, total.tolist(), strict=True):
            if OF_KIND[row["kind"]] is source:
                found[id(row)] = value
    label = ", ".join(f"{' + '.join(map(str, each))} ({source.label})" for source, each in sorted(parts.items()))
    return [found.get(id(row)) for row in rows], label


def centered(rows: Sequence[Row]) -> list[float | None]:
    """Reward minus the mean over the problem's own samples; None for what nobody sampled."""
    own = [row["kind"] in ("rollout", "hinted") for row in rows]
    rewards: dict[str, list[float]] = {}
    for row, is_own in zip(rows, own, strict=True):
        rewards.setdefault(row["problem"], []).extend([row["reward"]] if is_own else [])
    return [
        row["reward"] - math.fsum(rewards[row["problem"]]) / len(rewards[row["problem"]]) if is_own else None
        for row, is_own in zip(rows, own, strict=True)
    ]


def tables(rows: Sequence[Row]) -> PartInputs:
    """The estimator's view of what trained, one token per sample: settled advantages are the same at every token."""
    groups = {problem: i for i, problem in enumerate(dict.fromkeys(row["problem"] for row in rows))}
    counts = torch.zeros(len(rows), len(Source), dtype=torch.long)
    for i, row in enumerate(rows):
        num_hint = row.get("num_hint", 0)
        counts[i, int(OF_KIND[row["kind"]])] = len(row["ids"]) - num_hint
        counts[i, int(Source.HINT)] = num_hint
    source = torch.tensor([int(OF_KIND[row["kind"]]) for row in rows])
    at = torch.arange(len(rows))
    samples = Samples(
        reward=torch.tensor([row["reward"] for row in rows], dtype=torch.float64),
        correct=torch.tensor([bool(row["correct"]) for row in rows]),
        group=torch.tensor([groups[row["problem"]] for row in rows]),
        truncated=torch.tensor([row["finish"] == "length" for row in rows]),
        counts=counts,
    )
    behavior, logp, entropy = (Unfilled(column, samples.reward) for column in HIDDEN)
    return PartInputs(
        Tokens(at, source, torch.zeros_like(at), cast(Any, behavior)), samples, cast(Any, PolicyOutputs)(logp, entropy)
    )
