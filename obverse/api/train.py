"""`obverse.train`: from options and data in memory to a run. Torch is imported once the options are valid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.api.events import events_of
from obverse.api.input_files import Dataset, inputs_of
from obverse.api.method_source import NamedMethod, method_of
from obverse.api.reward_source import Reward
from obverse.api.run import Callback, Run
from obverse.config.resolve import resolve
from obverse.config.sources import Layer, arguments
from obverse.config.train import TrainConfig
from obverse.config.yaml_file import read as read_config
from obverse.distributed.env import read_rank_env
from obverse.errors import ConfigError
from obverse.lazy_import import load
from obverse.methods import MakeMethod
from obverse.runtime.callbacks import RunEvents, Silent, Watcher
from obverse.runtime.output_dir import in_folder_of, with_folder

if TYPE_CHECKING:
    from obverse.training.loop import Outcome


def train(
    method: str | MakeMethod,
    *,
    model: str | Path = "embedded",
    dataset: Dataset | None = None,
    eval_dataset: Dataset | None = None,
    reward: Reward | Sequence[Reward] | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Run:
    """Train a model by a method, as `obverse train` does, and return the run.

    Rows and functions of the calling program are written into the run folder (`data/train-HASH.jsonl`,
    `reward-HASH.py`), so that the run can be resumed from its folder alone.

    Args:
        method: A method's name, `"file.py:function"`, or a function that returns a Method or a TrainingSchedule: of a
            notebook cell, or at the top level of a Python file. A script that passes a function of its own calls this
            under `if __name__ == "__main__":`, because the file is read again.
        model: `"embedded"` (a tiny model in the package), a transformers directory or a hub name.
        dataset: A name or path as of `--dataset`, or rows: a list of dicts, a `datasets.Dataset`, a pandas DataFrame
            or another iterable of mappings, in the layouts of docs/data.md. None: `arithmetic:1-6`.
        eval_dataset: Problems to evaluate on while training, in the same forms. None: no evaluation.
        reward: Grades all rows in place of their own verifiers: a name (`"math"`), `"file.py:function"`, a function
            `fn(problem, text)` or `fn(completions, **columns)` (TRL's), or a list of these: their rewards are added,
            with the option `verifier_weights`. A function runs in worker processes with a time limit. It may be
            defined in a notebook; a lambda or a function inside another one may use numbers and texts around it.
        callbacks: Objects of classes derived from `obverse.Callback`: called at every step, evaluation and checkpoint,
            they may stop the run.
        watcher: Receives progress, metrics and notes (`obverse.cli.progress_panel.Panel` prints them). None: silent.
        options: The options of `obverse train METHOD --help`, those of the method included, with the same defaults.

    Raises:
        ConfigError: For options that are unknown or out of bounds, one line each, and for a function that cannot be
            written to a file.
        DataError: For bad rows, a line each: `dataset[3]: prompt: missing`. Other errors: obverse.errors.

    Example:
        run = obverse.train("hpt", model="embedded", dataset="arithmetic:1-6", max_steps=50)
        run.metrics[-1]["reward"]
    """
    given = {"dataset": dataset, "eval_dataset": eval_dataset, "reward": reward, **options}
    if str(model) != "embedded":
        given["model"] = model
    return train_with(method_of(method), given, watcher or Silent(), callbacks=callbacks)


def train_with(
    method: NamedMethod,
    arguments_given: Mapping[str, Any],
    watcher: Watcher,
    file: Layer | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
) -> Run:
    """Train with arguments of a Python call, over those of a configuration file; their inputs may be in memory."""
    events = events_of(callbacks)
    inputs, given = inputs_of(arguments_given)
    inputs = replace(inputs, methods=[method.file] if method.file else [])

    def configured(folder: Path | None) -> TrainConfig:
        output_dir = {} if folder is None else {"output_dir": folder}
        layer, placed = arguments({**given, **inputs.options(folder), **output_dir}), method.placed(folder)
        return resolve(placed.name, placed.make, layer, file)

    config = configured(None)
    is_first = read_rank_env().is_first
    if inputs.files:
        folder = reserved_folder(config)
        with inputs.stored(folder, is_first):
            outcome = train_and_report(configured(folder), watcher, events)
    else:
        outcome = train_and_report(config, watcher, events)
    run = Run(outcome.folder, stopped=outcome.stopped, exit_code=outcome.exit_code)
    if events is not None and is_first:
        events.train_end(run)
    return run


def resume(folder: Path, options: Mapping[str, Any], watcher: Watcher, callbacks: Callback | Sequence[Callback]) -> Run:
    """Resume the run in a folder from its newest checkpoint; see `Run.resume`."""
    path = folder / "config.yaml"
    stored = read_config(path)
    file = Layer(stored.origin, in_folder_of(stored.values, path))
    method = method_of(str(file.values.get("method", "")))
    given = {"output_dir": folder, "resume_from_checkpoint": "auto", **options}
    return train_with(method, given, watcher, file, callbacks)


def reserved_folder(config: TrainConfig) -> Path:
    """Return the run folder that inputs are to be written into; a new one is created.

    Raises ConfigError for several processes without an output_dir, which could not agree on a new folder.
    """
    rank_env = read_rank_env()
    if config.output_dir is None and config.resume_from_checkpoint == "never" and rank_env.size > 1:
        raise ConfigError("output_dir: give one, because several processes write rows or functions into the run folder")
    if rank_env.is_first or config.output_dir is None:
        config = with_folder(config)
    assert config.output_dir is not None
    return config.output_dir


def train_and_report(config: TrainConfig, watcher: Watcher, events: RunEvents | None = None) -> Outcome:
    """Train; then, unless a signal stopped the run, write report.html and push the model, if the options ask for it.

    If the push fails, a note gives the reason, and the outcome has the exit code of HubError: the run is complete.
    """
    rank_env = read_rank_env()
    if config.push_to_hub and rank_env.is_first:
        load("obverse.hub.push:check_credentials")()
    if rank_env.is_first:  # a folder that cannot be used is refused before torch is imported; a new one is made later
        with_folder(config, create=False)
    if rank_env.size > 1:  # set before torch is imported: it would print a C++ stack wherever a connection ends
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    outcome: Outcome = load("obverse.training.loop:train")(config, watcher, events=events)
    if config.report and not outcome.stopped and rank_env.is_first:
        load("obverse.report.write:report_after_run")(outcome.folder, watcher)
    if config.push_to_hub and not outcome.stopped and rank_env.is_first:
        outcome = replace(outcome, exit_code=load("obverse.api.push_run:push_run")(outcome, config, watcher))
    return outcome
