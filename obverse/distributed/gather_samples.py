"""Every rank's groups, on every rank: token ids, sources and log-probs as tensors, the rest as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch

from obverse.distributed.process_group import ProcessGroup
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source

LISTS = ("prompt", "ids", "sources", "behavior")  # fields of a sample with a number per token


def gather_groups(
    process_group: ProcessGroup, problems: Sequence[Problem], shares: Sequence[Sequence[int]], groups: Sequence[Group]
) -> list[Group]:
    """All groups in the order of `problems`, the same on every rank; `groups` are those of this rank's share.

    `shares` has the indices into `problems` of each rank. What is returned equals, to the last bit, what one rank would
    have made alone.
    """
    if process_group.is_alone:
        return list(groups)
    samples = [sample for group in groups for sample in group.samples]
    ids = [number for sample in samples for number in sample.model_input.token_ids]
    ids_of = process_group.gather_tensors(torch.tensor(ids, dtype=torch.long))
    sources_of = process_group.gather_tensors(
        torch.tensor([int(s) for each in samples for s in each.sources], dtype=torch.uint8)
    )
    behavior_of = process_group.gather_tensors(
        torch.tensor([b for each in samples for b in each.behavior], dtype=torch.float64)
    )
    told = process_group.gather([[_row(sample) for sample in group.samples] for group in groups])
    found: dict[int, Group] = {}
    for share, rows, *columns in zip(shares, told, ids_of, sources_of, behavior_of, strict=True):
        numbers = [iter(column.tolist()) for column in columns]
        for index, mine in zip(share, rows, strict=True):
            found[index] = Group(problems[index], [_sample(row, *numbers) for row in mine])
    return [found[index] for index in range(len(problems))]


def _row(sample: Sample) -> dict[str, Any]:
    """A sample as JSON, its lists as their lengths."""
    row = {each.name: getattr(sample, each.name) for each in fields(sample)}
    return row | {name: len(row[name]) for name in LISTS} | {"grade": vars(sample.grade)}


def _sample(row: dict[str, Any], ids: Iterator[int], sources: Iterator[int], behavior: Iterator[float]) -> Sample:
    prompt = ModelInput(tuple(next(ids) for _ in range(row["prompt"])))
    lists = {
        "prompt": prompt,
        "ids": [next(ids) for _ in range(row["ids"])],
        "sources": [Source(next(sources)) for _ in range(row["sources"])],
        "behavior": [next(behavior) for _ in range(row["behavior"])],
    }
    return Sample(**{**row, **lists, "grade": GradeResult(**row["grade"])})
