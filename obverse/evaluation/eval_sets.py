"""What an evaluation is asked to do: which model, which problems under which law, where results go. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from obverse.config import yaml_file as config_file
from obverse.config.eval import EvalConfig
from obverse.data import benchmarks, load_dataset
from obverse.data.benchmarks import Protocol
from obverse.data.chat_template import Layout
from obverse.data.renderer import recorded_layout
from obverse.errors import ConfigError, DamageError
from obverse.evaluation.sample_store import identity
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Watcher
from obverse.runtime.json_lines import read_object
from obverse.runtime.output_dir import slug
from obverse.types import Problem

HELD_OUT = "arithmetic:1-6"  # what is evaluated on if nobody says: the embedded task
SPEECH = ("system_prompt", "chat_template_kwargs", "parse_special_tokens")  # goes with a template
OF_THE_RUN = ("chat_template", *SPEECH, "verifier", "max_completion_length", "temperature")


@dataclass(frozen=True)
class Target:
    """A model's place on the disk or hub, where its results go, and the template it was trained with, if known."""

    name: str  # as it was asked for
    place: str
    out: Path
    run: Mapping[str, Any] | None = None  # the configuration of the run that it is of
    trained: Mapping[str, Any] | None = None  # Renderer.record() of its training


@dataclass(frozen=True)
class Trial:
    """One set of problems and how each is sampled; `overridden`: an option -> the protocol's, the one used."""

    name: str
    source: str
    problems: list[Problem]
    config: EvalConfig
    protocol: Protocol | None = None
    overridden: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def about(self) -> list[str]:
        """What must be said of the protocol beside the figures."""
        if self.protocol is None:
            return []
        fixed = ", ".join(f"{name} {value}" for name, value in self.protocol.options().items() if value is not None)
        lines = [f"protocol {self.name}: {fixed} ({self.protocol.source})"]
        if self.overridden:
            changed = ", ".join(f"{name} {used} instead of {own}" for name, (own, used) in self.overridden.items())
            lines.append(f"not the protocol's: {changed}")
        return lines


def target_of(config: EvalConfig) -> Target:
    """Where the model is. A run is its newest checkpoint; a checkpoint knows its run by the folder it stands in.

    Raises ConfigError for a run without a whole checkpoint, CheckpointError for a damaged checkpoint.
    """
    folder = Path(config.model).expanduser()
    place = folder
    if (folder / "config.yaml").is_file():
        newest = checkpoint.newest(folder)
        if newest is None:
            raise ConfigError(f"run {folder} has no whole checkpoint to evaluate")
        place = newest
    file = place.parent / "config.yaml"
    is_ours = (place / checkpoint.MANIFEST).is_file()
    if is_ours and place == folder:  # a run's newest one was checked when it was looked for
        checkpoint.verify(place)
    run = config_file.read(file).values if is_ours and file.is_file() else None
    trained = read_object(place / checkpoint.STATE, DamageError).get("template") if is_ours else None
    out = place.parent / "eval" / place.name if run else Path("evals") / folder_name(config.model)
    return Target(config.model, str(place) if is_ours else config.model, config.output or out, run, trained)


def folder_name(model: str) -> str:
    """A folder for the results of a model that is no run: its last part, and a number made of what its weights are.

    So models of one name have a folder each, wherever they are, and a copy of a model has the same.
    """
    if model == "embedded":
        return model
    place = str(Path(model).expanduser())
    number = hashlib.blake2b(identity(place if Path(place).is_dir() else model).encode(), digest_size=4).hexdigest()
    return f"{slug(model)}-{number}"


def layout_of(config: EvalConfig, target: Target) -> str | Layout:
    """The template to speak to the model in: what was asked for, else what trained it, else the tokenizer's own."""
    if "chat_template" in config.model_fields_set or target.trained is None:
        return config.chat_template
    return recorded_layout(target.trained)


def with_run(config: EvalConfig, target: Target) -> EvalConfig:
    """The configuration with a run's own answers where nothing was given; DamageError for answers of another kind."""
    if target.run is None and target.trained is None:
        return config
    run, given = target.run or {}, config.model_fields_set
    filled: dict[str, Any] = {name: run.get(name) for name in OF_THE_RUN}
    if target.trained is not None:
        filled.pop("chat_template")  # a path may be gone; the text is with the checkpoint
        filled |= {name: target.trained.get(name) for name in SPEECH}
    if "chat_template" in given:  # the variables are those of another template
        filled.pop("chat_template_kwargs")
    filled["stop_strings"] = run.get("stop_strings") or ()
    filled = {name: value for name, value in filled.items() if name not in given and value is not None}
    try:
        checked = EvalConfig(model=config.model, **filled)
    except ValidationError as error:
        first = error.errors()[0]
        place = f"{Path(target.place).parent / 'config.yaml'}: {'.'.join(map(str, first['loc']))}"
        raise DamageError(f"{place}: {first['msg']}: put the run's configuration back as it was") from None
    return config.model_copy(update={name: getattr(checked, name) for name in filled})


def trials_of(config: EvalConfig, target: Target, watcher: Watcher) -> list[Trial]:
    """Everything to measure: the benchmarks, or the one data set.

    A run is evaluated on its eval_dataset, else on the other side of its data set; where there is no other side, that
    is said: figures on training problems are no figures. Raises ConfigError, and DataError for bad data.
    """
    filled = with_run(config, target)
    if config.benchmarks is not None:
        return [trial(name, config, filled) for name in config.benchmarks]
    run = target.run or {}
    dataset = str(config.dataset or run.get("eval_dataset") or run.get("dataset") or HELD_OUT)
    if config.dataset is None and run and run.get("eval_dataset") is None and Path(dataset).is_file():
        watcher.note(f"{dataset} has no held-out side: these are the run's own training problems (give --dataset)")
    problems = load_dataset(
        dataset,
        split=config.dataset_split or "heldout",
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=filled.verifier,
    )
    return [Trial(dataset, dataset, problems, filled)]


def trial(name: str, config: EvalConfig, filled: EvalConfig) -> Trial:
    """One benchmark: the protocol's options where nothing was given, and a word on every one that was."""
    named, given = benchmarks.find(name), config.model_fields_set
    fixed = named.protocol.options() if named.protocol else {}
    overridden = {
        option: (value, getattr(config, option))
        for option, value in fixed.items()
        if option in given and getattr(config, option) != value
    }
    update = {option: value for option, value in fixed.items() if option not in given and option != "chat_template"}
    # the run's verifier is that of its own data
    update["verifier"] = config.verifier or fixed.get("verifier")
    if "num_generations" in given or named.protocol is None:
        update.pop("num_generations", None)
    chosen = filled.model_copy(update=update)
    if "k" in given and max(config.k) > chosen.num_samples:
        raise ConfigError(
            f"benchmark {named.name}: {chosen.num_samples} samples are too few for k = {max(config.k)}; "
            "give --num_generations, or leave out the protocol"
        )
    num = config.num_problems if "num_problems" in given else None
    found = benchmarks.read(named.benchmark, config.benchmark_dir, num, config.seed, chosen.verifier)
    if num is not None and named.protocol is not None:
        overridden["num_problems"] = ("all", num)
    return Trial(named.name, found.source, found.problems, chosen, named.protocol, overridden)
