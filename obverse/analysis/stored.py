"""The samples that a run stored at a step, as the groups that they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from obverse.errors import DataError
from obverse.records import Group, Problem, Sample, Source, Verdict
from obverse.text import Renderer


def stored(run: str, step: int, renderer: Renderer, problems: Sequence[Problem]) -> list[Group]:
    """The groups of `samples/step-N.jsonl` in the run's folder; who sampled them is not stored, so `behavior` is zeros.

    Raises DataError where the step has no file, or a sample is of a problem that the data set does not have.
    """
    path = Path(run) / "samples" / f"step-{step:06d}.jsonl"
    if not path.is_file():
        raise DataError(f"--step: {path} is not there: only runs with --log_completions store their samples")
    known = {problem.id: problem for problem in problems}
    groups: dict[str, Group] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        name = row["problem"]
        if name not in known:
            raise DataError(f"{path}:{number}: the data set has no problem {name!r}: give the run's own --dataset")
        source = Source.ROLLOUT if row["kind"] in ("rollout", "hinted", "greedy") else Source[row["kind"].upper()]
        num_hint = row["num_hint"]
        groups.setdefault(name, Group(known[name], [])).samples.append(
            Sample(
                kind=row["kind"],
                prompt_ids=renderer.prompt_ids(known[name]),
                ids=row["ids"],
                sources=[Source.HINT] * num_hint + [source] * (len(row["ids"]) - num_hint),
                behavior=[0.0] * len(row["ids"]),
                text=row["text"],
                finish=row["finish"],
                verdict=Verdict(row["correct"], row["reward"], row["reason"]),
                draw=known[name].draw,
            )
        )
    return list(groups.values())
