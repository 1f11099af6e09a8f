"""The coefficient of every token of one update, from the numbers of a step file.

    obverse weigh hpt step.json --gate 1

Autograd computes the coefficients from the loss of training, in float64, for the whole update at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from obverse.analysis.step_file import COLUMNS, Row, parse
from obverse.errors import DataError
from obverse.estimator.formula import loss, shaped
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.estimator.tables import MISSING, PolicyOutputs, Samples, Tokens
from obverse.methods import build, find, parameters
from obverse.models.batch import reward_columns
from obverse.types import Group, Problem, Source


def weigh(method_name: str, step: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The coefficients of one update, c[t] = -d loss / d logp[t]; zeros for samples that the method drops.

    Every stage of a training schedule that may act at this progress makes an update of its own. A method with a scalar
    head also has `value_coefficient`, -d loss / d value[t], one with a divergence over the vocabulary
    `divergence_coefficient`, d loss / d D[t]. Raises DataError naming the sample and the key that is
    missing or wrong, ConfigError for the method's options.

    Example:
        weigh("grpo", read_step("step.json"), {"beta": 0.0})["samples"][0]["coefficient"]
    """
    schedule = as_schedule(build(method_name, options))
    defaults = {name: parameter.default for name, parameter in parameters(find(method_name)).items()}
    return {"method": method_name, "options": defaults | dict(options or {}), "samples": weigh_samples(schedule, step)}


def weigh_samples(schedule: TrainingSchedule, step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The coefficients of the samples of a step file by a method's schedule; see `weigh`."""
    progress, rows = parse(step)
    trained_ids: set[int] = set()
    weighed = {id(row.sample): Weights(*([0.0] * len(row.logp) for _ in Weights._fields)) for row in rows}
    for stage in schedule.at(progress):
        method = schedule.methods[stage]
        memories = keep(method, rows)
        trained = [row for row in rows if id(row.sample) in memories and id(row.sample) not in trained_ids]
        weighed |= coefficients(method, trained, schedule.selector.progress(stage, progress), memories)
        trained_ids |= {id(row.sample) for row in trained}
    has_head = any(method.streams & {"value", "score"} for method in schedule.methods)
    has_divergence = any(method.divergence for method in schedule.methods)
    samples = []
    for row in rows:
        weights = weighed[id(row.sample)]
        sample = {"problem": row.problem, "kept": id(row.sample) in trained_ids, "coefficient": weights.logp}
        sample |= {"value_coefficient": weights.value} if has_head else {}
        samples.append(sample | ({"divergence_coefficient": weights.divergence} if has_divergence else {}))
    return samples


OF_CRITIC = frozenset({"value", "old_value", "returns"})


class Weights(NamedTuple):
    """The coefficients of a sample's log-probs, values and negative divergences; [n] each."""

    logp: list[float]
    value: list[float]
    divergence: list[float]


def keep(method: Method, rows: Sequence[Row]) -> dict[int, float]:
    """The ids of the samples that the method selects from each group, with the memory value of each."""
    groups: dict[str | int, Group] = {}
    given = {id(row.sample): row.memory for row in rows}
    for row in rows:
        # A teacher that reads demonstrations had one, or there would be no column `teacher`; one that reads feedback
        # had it for each wrong sample that it scored.
        problem = Problem(str(row.problem), "", demonstration=("",))
        if row.columns["teacher"] and row.sample.grade.correct is False:
            row.sample.grade = replace(row.sample.grade, reason="incorrect")
        groups.setdefault(row.problem, Group(problem, [])).samples.append(row.sample)
    stored = memory_values(method, {}, list(groups.values())) or [0.0] * len(groups)
    memories = {}
    for group, memory in zip(groups.values(), stored, strict=True):
        for sample in method.select(group):
            value = given[id(sample)]
            memories[id(sample)] = memory if value is None else value
    return memories


def coefficients(
    method: Method, rows: Sequence[Row], progress: float, memories: Mapping[int, float]
) -> dict[int, Weights]:
    """By sample id, the coefficients of every token of the update that consists of `rows`."""
    if not rows:
        return {}
    tokens, samples, outputs = tables(method, rows, memories)
    logp = outputs.logp.requires_grad_()
    value = (torch.zeros_like(logp) if outputs.value is None else outputs.value).requires_grad_()
    outputs = PolicyOutputs(logp, outputs.entropy, value if outputs.value is not None else MISSING)
    divergence = torch.zeros_like(logp).requires_grad_()
    total = update_loss(method, tokens, samples, outputs, progress, _has_values(rows), divergence)
    slopes = torch.autograd.grad(total, [logp, value, divergence], allow_unused=True)
    lengths = [len(row.logp) for row in rows]
    pieces = [torch.split(-(torch.zeros_like(logp) if slope is None else slope), lengths) for slope in slopes]
    for row, *of_row in zip(rows, *pieces, strict=True):
        if not all(torch.isfinite(piece).all() for piece in of_row):
            without_reward = [unrewarded.name for unrewarded in rows if not unrewarded.has_reward]
            missing = f"{without_reward[0]}: reward is missing, and the method reads it" if without_reward else ""
            raise DataError(missing or f"{row.name}: the coefficients are not finite: check its numbers")
    return {
        id(row.sample): Weights(first.tolist(), second.tolist(), (-third).tolist())
        for row, first, second, third in zip(rows, *pieces, strict=True)
    }


def update_loss(
    method: Method,
    tokens: Tokens,
    samples: Samples,
    outputs: PolicyOutputs,
    progress: float,
    has_values: bool,
    divergence: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of a whole update; a critic's loss is included if its numbers are given (`has_values`)."""
    terms = [term for term in method.terms if term.on != "value" or has_values]
    if method.critic is None:  # a critic's given advantages already include the shaping
        tokens, added = shaped(tokens, samples, method.shaping)
        samples = replace(samples, reward=samples.reward + added)
    return loss(tokens, samples, outputs.logp, outputs.entropy, terms, progress, outputs.value, divergence)


def tables(method: Method, rows: Sequence[Row], memories: Mapping[int, float]) -> tuple[Tokens, Samples, PolicyOutputs]:
    """The two tables of the estimator and the policy's outputs [T], all in float64."""
    groups = {problem: number for number, problem in enumerate(dict.fromkeys(row.problem for row in rows))}
    lengths = torch.tensor([len(row.logp) for row in rows])
    needed = {source: reads(method, source, _has_values(rows)) for source in Source}
    source = torch.tensor([int(label) for row in rows for label in row.sample.sources], dtype=torch.long)
    sample = torch.arange(len(rows)).repeat_interleave(lengths)
    counts = torch.zeros(len(rows), len(Source), dtype=torch.long)
    trained = torch.isin(source, torch.tensor([int(label) for label in method.sources]))
    counts.index_put_((sample[trained], source[trained]), torch.ones(()).long(), accumulate=True)
    column = partial(torch.tensor, dtype=torch.float64)
    logp = column([value for row in rows for value in row.logp])
    # a column that the parts of a source declare is required for its tokens; zeros elsewhere are never read
    columns = {name: column([value for row in rows for value in _read(row, name, needed)]) for name in COLUMNS}
    tokens = Tokens(
        sample=sample,
        source=source,
        position=torch.cat([torch.arange(int(length)) for length in lengths]),
        behavior=columns["behavior"],
        anchor=columns["anchor"],
        advantage=columns["advantage"],
        sampler=columns["sampler"],
        teacher=columns["teacher"],
        value=columns["old_value"],
        returns=columns["returns"],
    )
    samples = Samples(
        reward=torch.tensor([row.sample.reward for row in rows], dtype=torch.float64),
        correct=torch.tensor([row.sample.correct for row in rows]),
        group=torch.tensor([groups[row.problem] for row in rows]),
        truncated=torch.tensor([row.sample.finish == "length" for row in rows]),
        counts=counts,
        memory=MISSING if method.memory is None else column([memories[id(row.sample)] for row in rows]),
        uniform=torch.tensor([row.sample.uniform for row in rows], dtype=torch.float64),
        **reward_columns([row.sample.grade for row in rows], torch.float64),
    )
    has_head = any(row.columns["value"] for row in rows)
    return tokens, samples, PolicyOutputs(logp, columns["entropy"], columns["value"] if has_head else MISSING)


def _read(row: Row, name: str, needed: Mapping[Source, frozenset[str]]) -> list[float]:
    """A column of a row as numbers; DataError for a missing number that the method reads."""
    values = row.columns[name] or [None] * len(row.logp)
    for at, (value, source) in enumerate(zip(values, row.sample.sources, strict=True)):
        if value is None and name in needed[source]:
            where = f"{name}[{at}] is null" if row.columns[name] else f"{name} is missing"
            raise DataError(f"{row.name}: {where}, and the method reads it for {source.label} tokens")
    return [value or 0.0 for value in values]


def _has_values(rows: Sequence[Row]) -> bool:
    """Whether the file has a critic's numbers, so that the critic's loss is included."""
    return any(row.columns[name] for row in rows for name in OF_CRITIC)


def reads(method: Method, source: Source, has_values: bool) -> frozenset[str]:
    """The columns whose values the coefficients of a source's tokens depend on; an entropy bonus reads none."""
    columns = frozenset[str]()
    for term in method.terms:
        if term.source == source and term.on != "value":
            needs = frozenset().union(*(part.needs for part in term.parts))
            columns |= {"old_value" if name == "value" else name for name in needs}
            columns |= {"value"} if term.on == "score" else set()
        elif term.source == source and has_values:
            columns |= OF_CRITIC
    if source is Source.ROLLOUT and method.critic is None:
        columns = columns.union(*(part.needs for part in method.shaping))
    return columns
