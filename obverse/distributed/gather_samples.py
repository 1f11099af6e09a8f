"""Gathers the groups of all ranks on every rank: token ids, sources and log-probs as tensors, the rest as JSON."""

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
    """Return the groups of all ranks in the order of `problems`; `groups` are those of this rank.

    `shares` has the indices into `problems` of each rank. The result equals, bit for bit, the groups of a single rank.
    """
    if process_group.is_alone:
        return list(groups)
    samples = [sample for group in groups for sample in group.samples]
    ids = [token for sample in samples for token in sample.model_input.token_ids]
    sources = [int(source) for sample in samples for source in sample.sources]
    behavior = [logp for sample in samples for logp in sample.behavior]
    columns = [
        process_group.gather_tensors(torch.tensor(ids, dtype=torch.long)),
        process_group.gather_tensors(torch.tensor(sources, dtype=torch.uint8)),
        process_group.gather_tensors(torch.tensor(behavior, dtype=torch.float64)),
    ]
    rows_of_ranks = process_group.gather([[_row(sample) for sample in group.samples] for group in groups])
    gathered: dict[int, Group] = {}
    for share, rows_of_groups, *tensors in zip(shares, rows_of_ranks, *columns, strict=True):
        numbers = [iter(tensor.tolist()) for tensor in tensors]
        for index, rows in zip(share, rows_of_groups, strict=True):
            gathered[index] = Group(problems[index], [_sample(row, *numbers) for row in rows])
    return [gathered[index] for index in range(len(problems))]


def _row(sample: Sample) -> dict[str, Any]:
    """A sample as JSON, with the lengths of its lists in place of the lists."""
    row = {field.name: getattr(sample, field.name) for field in fields(sample)}
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
