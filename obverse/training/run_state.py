"""The counters of a run, which its checkpoints store in `state.json`, and how states of earlier versions are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from obverse.errors import CheckpointError

VERSION = 4
StateJson = dict[str, Any]  # a state.json: RunState, "version", "metrics", "optimizers", "template", "ahead"
JSON_NAMES = {"previous_progress": "before", "stage": "lane"}  # fields whose name in state.json is an older one


@dataclass
class RunState:
    """How far a run has come; all that a checkpoint holds beside weights and optimizer moments.

    A field that is added, renamed or removed in state.json makes another VERSION, with an entry in MIGRATIONS.
    """

    step: int = 0
    cursor: int = 0  # problems taken from the training stream so far
    num_tokens: int = 0  # generated, trained, and scored by a teacher
    flops: float = 0.0  # of these tokens, by the rule of `metrics.num_flops`
    previous_progress: float = 0.0  # the run's progress before its last step
    stage: int = 0  # the last stage of the schedule that has begun
    memory: dict[str, float] = field(default_factory=dict)  # the method's persistent numbers
    replay: dict[str, Any] = field(default_factory=dict)  # the store of own right samples (estimator/replay.py)
    validation: dict[str, float] = field(default_factory=dict)  # the last validation loss (UntilPlateau.observed)
    waiting: list[str] = field(default_factory=list)  # ids of problems queued for another stage, the newest last

    def finish_step(self, progress: float, num_problems: int, num_tokens: int, flops: float) -> None:
        """Count a finished step: `progress` is the run's before it, the rest is what the step consumed."""
        self.previous_progress = progress
        self.step += 1
        self.cursor += num_problems
        self.num_tokens += num_tokens
        self.flops += flops

    def update_waiting(self, taken: Collection[str], queued: Sequence[str]) -> None:
        """Remove the problems that a step has taken from the queue and append `queued`; a repeated id moves back."""
        removed = {*taken, *queued}
        self.waiting = [name for name in self.waiting if name not in removed] + [*queued]

    def to_json(self) -> StateJson:
        """The fields by their names in state.json."""
        return {JSON_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The state in a state.json of this VERSION (see `migrate`)."""
        return cls(**{item.name: content[JSON_NAMES.get(item.name, item.name)] for item in fields(cls)})


def migrate(content: Mapping[str, Any], path: Path, packages: Mapping[str, Any]) -> StateJson:
    """Convert the state.json of checkpoint `path` to VERSION; `packages` are the package versions in its manifest.

    Raises CheckpointError for a state of a later version, and for one that lacks a field of its version.
    """
    version = content.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"checkpoint {path}: its state has version {version!r:.40} and was saved by obverse "
            f"{packages.get('obverse') or 'of an unknown version'}; this version reads 1 to {VERSION}: resume "
            "it with that one, or start a new run in another --output_dir"
        )
    migrated = dict(content)
    for number in range(version, VERSION):
        migrated = MIGRATIONS[number](migrated)
    expected = RunState().to_json().keys() | {"optimizers", "metrics"}
    if missing := sorted(expected - migrated.keys()):
        raise CheckpointError(
            f"checkpoint {path}: its state of version {version} lacks {', '.join(missing)}, which that version always "
            "has: resume from another checkpoint, or start a new run in another --output_dir"
        )
    return migrated


def _from_1(content: StateJson) -> StateJson:
    """Version 1 had no number. Its fields were added one by one: a missing one has the value of a run without it.

    It stored the size of metrics.jsonl, at first not even that: None means the end of the row of the checkpoint's step.
    """
    rows = {"bytes": content.get("metrics_offset"), "sha256": ""}
    fields_of_1 = {name: value for name, value in content.items() if name != "metrics_offset"}
    return {**RunState().to_json(), **fields_of_1, "version": 2, "metrics": rows}


def _from_2(content: StateJson) -> StateJson:
    """Version 2 had no store of own right samples."""
    return {"replay": {}, **content, "version": 3}


def _from_3(content: StateJson) -> StateJson:
    """Version 3 had no validation loss."""
    return {"validation": {}, **content, "version": 4}


# From each older version to the next one. tests/data/checkpoints has states of every version.
MIGRATIONS: dict[int, Callable[[StateJson], StateJson]] = {1: _from_1, 2: _from_2, 3: _from_3}
