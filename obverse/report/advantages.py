"""The advantages of stored completions, recomputed from the rewards of their step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch

from obverse.config.resolve import method_options
from obverse.errors import ConfigError, DataError
from obverse.estimator.columns import MissingColumn
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
    "replayed": Source.REPLAYED,
}
HIDDEN = ("tokens.behavior", "policy.logp", "policy.entropy")  # columns that stored completions lack
AVAILABLE = frozenset({"reward", "correct", "group", "own_group"})  # columns that stored completions have


def stages(run: RunData) -> tuple[Method, ...]:
    """The run's method, one per stage of a training schedule; empty for a method in a user's file, which is not run."""
    if run.method not in names():
        return ()
    make = find(run.method)
    given = {name: run.config[name] for name in parameters(make) if name in run.config}
    try:
        return as_schedule(build(run.method, method_options(run.method, make, given))).methods
    except ConfigError as error:
        raise DataError(f"{run.path / 'config.yaml'}: {error}") from None


def reward_only_parts(method: Method) -> dict[Source, list[Part]]:
    """By source, the advantage parts that need only rewards; several if a method has several terms for a source."""
    parts_by_source: dict[Source, list[Part]] = {}
    for term in method.terms if not method.shaping else ():
        part = term.advantage
        if term.on == "logp" and part.is_policy_independent and part.needs <= AVAILABLE:
            parts_by_source.setdefault(term.source, []).append(part)
    return parts_by_source


def advantages(method: Method | None, rows: Sequence[Row]) -> tuple[list[float | None], str]:
    """The advantage of each row of a step, or None, and the name of the parts that computed them.

    Several parts of one source are added. A row that did not train has no advantage, nor has a source with advantages
    that depend on more than rewards (a critic, log-probs). If no row has one, the value is the reward minus the mean
    reward of the problem's rollouts.
    """
    parts = reward_only_parts(method) if method else {}
    trained = [row for row in rows if row.get("kept") and row["kind"] in OF_KIND]
    if not trained or not parts.keys() & {OF_KIND[row["kind"]] for row in trained}:
        return centered(rows), "reward minus the mean of the problem's rollouts"
    inputs, advantage_of = tables(trained), {}
    for source, parts_of_source in sorted(parts.items()):
        total = torch.stack([part(inputs) for part in parts_of_source]).sum(0)
        for row, value in zip(trained, total.tolist(), strict=True):
            if OF_KIND[row["kind"]] is source:
                advantage_of[id(row)] = value
    label = ", ".join(f"{' + '.join(map(str, added))} ({source.label})" for source, added in sorted(parts.items()))
    return [advantage_of.get(id(row)) for row in rows], label


def centered(rows: Sequence[Row]) -> list[float | None]:
    """Reward minus the mean over the problem's rollouts; None for rows that are not rollouts."""
    is_rollout = [row["kind"] in ("rollout", "hinted") for row in rows]
    rewards: dict[str, list[float]] = {}
    for row, sampled in zip(rows, is_rollout, strict=True):
        rewards.setdefault(row["problem"], []).extend([row["reward"]] if sampled else [])
    return [
        row["reward"] - math.fsum(rewards[row["problem"]]) / len(rewards[row["problem"]]) if sampled else None
        for row, sampled in zip(rows, is_rollout, strict=True)
    ]


def tables(rows: Sequence[Row]) -> PartInputs:
    """The part inputs of the trained rows, with one token per sample: these advantages are equal at every token."""
    groups = {problem: i for i, problem in enumerate(dict.fromkeys(row["problem"] for row in rows))}
    counts = torch.zeros(len(rows), len(Source), dtype=torch.long)
    for i, row in enumerate(rows):
        num_hint = row.get("num_hint", 0)
        counts[i, int(OF_KIND[row["kind"]])] = len(row["ids"]) - num_hint
        counts[i, int(Source.HINT)] = num_hint
    source = torch.tensor([int(OF_KIND[row["kind"]]) for row in rows])
    indices = torch.arange(len(rows))
    samples = Samples(
        reward=torch.tensor([row["reward"] for row in rows], dtype=torch.float64),
        correct=torch.tensor([bool(row["correct"]) for row in rows]),
        group=torch.tensor([groups[row["problem"]] for row in rows]),
        truncated=torch.tensor([row["finish"] == "length" for row in rows]),
        counts=counts,
    )
    behavior, logp, entropy = (MissingColumn(column, samples.reward) for column in HIDDEN)
    return PartInputs(
        Tokens(indices, source, torch.zeros_like(indices), cast(Any, behavior)),
        samples,
        cast(Any, PolicyOutputs)(logp, entropy),
    )
