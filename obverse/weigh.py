"""What would this method do with these numbers? A step file in, the coefficient of every token out.

    obverse weigh hpt step.json --gate 1

The coefficient is taken by autograd from the very loss that training uses, in float64, for the whole update at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obverse.errors import DataError
from obverse.estimator import Term, loss
from obverse.method import Method
from obverse.methods import build, find, parameters
from obverse.records import Group, Problem, Source
from obverse.step_file import COLUMNS, Row, parse
from obverse.view import Samples, Tokens


def weigh(method_name: str, step: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The coefficients of one update, c[t] = -d loss / d logp[t]; zeros for samples that the method drops.

    Raises DataError naming the sample and the key that is missing or wrong, ConfigError for the method's options.

    Example:
        weigh("grpo", read_step("step.json"), {"beta": 0.0})["samples"][0]["coefficient"]
    """
    method = build(method_name, options)
    defaults = {name: parameter.default for name, parameter in parameters(find(method_name)).items()}
    progress, rows = parse(step)
    kept = keep(method, rows)
    found = coefficients(method, [row for row in rows if id(row.sample) in kept], progress)
    nothing = {id(row.sample): [0.0] * len(row.logp) for row in rows}
    weighed = {**nothing, **found}
    return {
        "method": method_name,
        "options": defaults | dict(options or {}),
        "samples": [
            {"problem": row.problem, "kept": id(row.sample) in kept, "coefficient": weighed[id(row.sample)]}
            for row in rows
        ],
    }


def keep(method: Method, rows: Sequence[Row]) -> set[int]:
    """The ids of the samples that train: every problem's group goes through the method's choice."""
    groups: dict[str | int, Group] = {}
    for row in rows:
        groups.setdefault(row.problem, Group(Problem(str(row.problem), ""), [])).samples.append(row.sample)
    return {id(sample) for group in groups.values() for sample in method.select(group)}


def coefficients(method: Method, rows: Sequence[Row], progress: float) -> dict[int, list[float]]:
    """By sample id, the coefficient of every token of the update that consists of `rows`."""
    if not rows:
        return {}
    tokens, samples, entropy = tables(method, rows)
    logp = torch.tensor([value for row in rows for value in row.logp], dtype=torch.float64, requires_grad=True)
    total = loss(tokens, samples, logp, entropy, method.terms, progress)
    (slope,) = torch.autograd.grad(total, logp)
    pieces = torch.split(-slope, [len(row.logp) for row in rows])
    for row, piece in zip(rows, pieces, strict=True):
        if not torch.isfinite(piece).all():
            lost = [other.name for other in rows if not other.has_reward]
            missing = f"{lost[0]}: reward is missing, and the method reads it" if lost else ""
            raise DataError(missing or f"{row.name}: the coefficients are not finite: check its numbers")
    return {id(row.sample): piece.tolist() for row, piece in zip(rows, pieces, strict=True)}


def tables(method: Method, rows: Sequence[Row]) -> tuple[Tokens, Samples, Tensor]:
    """The two tables of the estimator and the entropy [T], all in float64; a column that nobody reads is zeros."""
    groups = {problem: number for number, problem in enumerate(dict.fromkeys(row.problem for row in rows))}
    lengths = torch.tensor([len(row.logp) for row in rows])
    source = torch.tensor([int(each) for row in rows for each in row.sample.sources], dtype=torch.long)
    sample = torch.arange(len(rows)).repeat_interleave(lengths)
    counts = torch.zeros(len(rows), len(Source), dtype=torch.long)
    trained = torch.isin(source, torch.tensor([int(each) for each in method.sources]))
    counts.index_put_((sample[trained], source[trained]), torch.ones(()).long(), accumulate=True)
    columns = {
        name: torch.tensor([value for row in rows for value in _read(row, name, method)], dtype=torch.float64)
        for name in COLUMNS
    }
    tokens = Tokens(
        sample=sample,
        source=source,
        position=torch.cat([torch.arange(int(length)) for length in lengths]),
        behavior=columns["behavior"],
        anchor=columns["anchor"],
        advantage=columns["advantage"],
    )
    samples = Samples(
        reward=torch.tensor([row.sample.reward for row in rows], dtype=torch.float64),
        correct=torch.tensor([row.sample.correct for row in rows]),
        group=torch.tensor([groups[row.problem] for row in rows]),
        truncated=torch.tensor([row.sample.finish == "length" for row in rows]),
        counts=counts,
    )
    return tokens, samples, columns["entropy"]


def _read(row: Row, name: str, method: Method) -> list[float]:
    """A column of a row as numbers, where some part reads it; DataError where it is needed and not there."""
    values = row.columns[name] or [None] * len(row.logp)
    for at, (value, source) in enumerate(zip(values, row.sample.sources, strict=True)):
        if value is None and any(name in reads(term) for term in method.terms if term.source == source):
            where = f"{name}[{at}] is null" if row.columns[name] else f"{name} is missing"
            raise DataError(f"{row.name}: {where}, and the method reads it for {source.label} tokens")
    return [value or 0.0 for value in values]


def reads(term: Term) -> frozenset[str]:
    """The columns whose values a term's coefficient depends on (an entropy bonus multiplies entropy, it reads none)."""
    return term.advantage.needs | term.reference.needs | term.stable.needs | term.share.needs
