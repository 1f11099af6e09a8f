"""What a run gives its trackers: its description, the figures of its steps, and its completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from obverse.redact import masked
from obverse.runtime import branches
from obverse.runtime.trackers import trackers
from obverse.runtime.trackers.tracker import Completion, TrackedRun
from obverse.runtime.trackers.trackers import Trackers
from obverse.training.run import Run
from obverse.types import Group, Prompt


def start_trackers(run: Run) -> Trackers:
    """Start the trackers of --report_to; none on other ranks than the first."""
    if not run.config.report_to or not run.process_group.is_first:
        return Trackers()
    return trackers.start(run.config.report_to, tracked_run(run), run.watcher.note)


def tracked_run(run: Run) -> TrackedRun:
    """The description of a run for its trackers.

    After a return to an earlier checkpoint, the steps are others than before: the id then ends with the number of
    branches that were abandoned, so that trackers show another run.
    """
    config, folder = run.config, run.folder.path
    num_abandoned = branches.num_abandoned(folder)
    branch = f"-branch-{num_abandoned}" if num_abandoned else ""
    return TrackedRun(
        folder=folder,
        id=f"{run.folder.run_id()}{branch}",
        name=f"{config.run_name or folder.resolve().name}{branch}",
        project=config.project or "",
        group=config.run_group or "",
        config=masked_values(tracked_config(run)),
        step=run.state.step,
        num_tokens=run.state.num_tokens,
    )


def tracked_config(run: Run) -> dict[str, Any]:
    """The options of a run, those of its method included, and the parts of its method: a row per stage and term."""
    config = run.config.model_dump(mode="json")
    terms = [
        {"stage": stage, **term.record()} for stage, method in enumerate(run.schedule.methods) for term in method.terms
    ]
    return {**config.pop("method_options"), **config, "terms": terms, "num_parameters": run.num_parameters}


def masked_values(value: Any) -> Any:
    """JSON values with secrets in their texts replaced by ***."""
    if isinstance(value, Mapping):
        return {name: masked_values(item) for name, item in value.items()}
    if isinstance(value, list):
        return [masked_values(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def track_step(run: Run, groups: Sequence[Group], row: Mapping[str, float]) -> None:
    """Give the trackers the row of a finished step and, with `log_completions`, its completions."""
    if not run.trackers:
        return
    run.trackers.log_step(run.state.step, row)
    if run.config.log_completions:
        num = sum(len(group.samples) for group in groups)
        run.trackers.log_completions(run.state.step, cache(lambda: completions_of(groups)), num)


def completions_of(groups: Sequence[Group]) -> list[Completion]:
    """The completions of a step as rows of a table, without secrets."""
    completions = []
    for group in groups:
        prompt = masked(prompt_text(group.problem.prompt))
        completions += [
            Completion(group.problem.id, sample.kind, prompt, masked(sample.text), sample.reward, sample.grade.correct)
            for sample in group.samples
        ]
    return completions


def prompt_text(prompt: Prompt) -> str:
    """A prompt as text; a list of messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
