"""The inputs of an evaluation: the model, the sets of problems with their options, the output folder. No torch."""

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
from obverse.data.chat_template import PromptFormat
from obverse.data.renderer import recorded_prompt_format
from obverse.errors import ConfigError, DamageError
from obverse.evaluation.card_options import CARD, read_card_entry
from obverse.evaluation.sample_store import identity
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Watcher
from obverse.runtime.json_lines import read_object
from obverse.runtime.output_dir import slug
from obverse.types import Problem

DEFAULT_DATASET = "arithmetic:1-6"  # an embedded task
TEMPLATE_OPTIONS = ("system_prompt", "chat_template_kwargs", "parse_special_tokens")  # they belong to a chat template
RUN_OPTIONS = ("chat_template", *TEMPLATE_OPTIONS, "verifier", "max_completion_length", "temperature")


@dataclass(frozen=True)
class Target:
    """The model to evaluate: its location, the output folder, and the chat template of its training, if known."""

    name: str  # the option's value
    location: str  # a folder, a hub name or "embedded"
    output: Path
    run: Mapping[str, Any] | None = None  # the configuration of its training run, or the options of its model card
    trained_template: Mapping[str, Any] | None = None  # Renderer.record() of its training
    is_from_card: bool = False


@dataclass(frozen=True)
class EvalSet:
    """A set of problems and its sampling options; `overridden`: option -> (the protocol's value, the used value)."""

    name: str
    source: str
    problems: list[Problem]
    config: EvalConfig
    protocol: Protocol | None = None
    overridden: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return remarks on the protocol that belong to the metrics."""
        if self.protocol is None:
            return []
        options = ", ".join(f"{name} {value}" for name, value in self.protocol.options().items() if value is not None)
        lines = [f"protocol {self.name}: {options} ({self.protocol.source})"]
        if self.overridden:
            changed = ", ".join(f"{name} {used} instead of {value}" for name, (value, used) in self.overridden.items())
            lines.append(f"not the protocol's: {changed}")
        return lines


def find_target(config: EvalConfig) -> Target:
    """Return the model to evaluate. For a run folder it is the newest checkpoint; a checkpoint's run is its folder.

    The model card of an exported model, in a folder or on the hub, has the options of its run that apply to others.

    Raises ConfigError for a run without a complete checkpoint, CheckpointError for a damaged checkpoint.
    """
    folder = Path(config.model).expanduser()
    location = folder
    if (folder / "config.yaml").is_file():
        newest = checkpoint.newest(folder)
        if newest is None:
            raise ConfigError(f"run {folder} has no whole checkpoint to evaluate")
        location = newest
    file = location.parent / "config.yaml"
    is_ours = (location / manifest.MANIFEST).is_file()
    if is_ours and location == folder:  # `checkpoint.newest` has checked a run's newest one
        checkpoint.verify(location)
    run = config_file.read(file).values if is_ours and file.is_file() else None
    output = location.parent / "eval" / location.name if run else Path("evals") / folder_name(config.model)
    if not is_ours:
        card = read_card_entry(config.model) if config.model != "embedded" else {}
        sampling, template = card.get("eval"), card.get("template")
        return Target(config.model, config.model, config.output or output, sampling, template, is_from_card=bool(card))
    trained = read_object(location / manifest.STATE, DamageError).get("template")
    return Target(config.model, str(location), config.output or output, run, trained)


def folder_name(model: str) -> str:
    """Return the name of the results' folder for a model without a run: its last path part and a hash of its weights.

    Different models with the same name have different folders; copies of a model have the same.
    """
    if model == "embedded":
        return model
    path = str(Path(model).expanduser())
    suffix = hashlib.blake2b(identity(path if Path(path).is_dir() else model).encode(), digest_size=4).hexdigest()
    return f"{slug(model)}-{suffix}"


def prompt_format_of(config: EvalConfig, target: Target) -> str | PromptFormat:
    """Return the chat template: the option's, else the one of the model's training, else the tokenizer's."""
    if "chat_template" in config.model_fields_set or target.trained_template is None:
        return config.chat_template
    return recorded_prompt_format(target.trained_template)


def fill_from_run(config: EvalConfig, target: Target) -> EvalConfig:
    """Return the configuration with defaults from the model's run. Raises DamageError for invalid values in the run."""
    if target.run is None and target.trained_template is None:
        return config
    run, explicit = target.run or {}, config.model_fields_set
    filled: dict[str, Any] = {name: run.get(name) for name in RUN_OPTIONS}
    if target.trained_template is not None:
        filled.pop("chat_template")  # a path may be gone; the checkpoint contains the text
        filled |= {name: target.trained_template.get(name) for name in TEMPLATE_OPTIONS}
    if "chat_template" in explicit:  # they are variables of another template
        filled.pop("chat_template_kwargs")
    filled["stop_strings"] = run.get("stop_strings") or ()
    filled = {name: value for name, value in filled.items() if name not in explicit and value is not None}
    try:
        checked = EvalConfig(model=config.model, **filled)
    except ValidationError as error:
        first_error = error.errors()[0]
        reason = f"{'.'.join(map(str, first_error['loc']))}: {first_error['msg']}"
        if target.is_from_card:
            raise ConfigError(f"{CARD} of {target.name}: {reason}: correct or remove the entry") from None
        path = Path(target.location).parent / "config.yaml"
        raise DamageError(f"{path}: {reason}: put the run's configuration back as it was") from None
    return config.model_copy(update={name: getattr(checked, name) for name in filled})


def find_eval_sets(config: EvalConfig, target: Target, watcher: Watcher) -> list[EvalSet]:
    """Return the sets to evaluate on: the benchmarks, or one data set.

    A run is evaluated on its eval_dataset, else on the held-out split of its data set; a note warns if that has none.
    Raises ConfigError, and DataError for bad data.
    """
    filled = fill_from_run(config, target)
    if target.is_from_card and (names := sorted((target.run or {}).keys() - config.model_fields_set)):
        options = ", ".join(f"{name} {getattr(filled, name)}" for name in names)
        watcher.note(f"options of the model's {CARD}: {options}")
    if config.benchmarks is not None:
        return [benchmark_set(name, config, filled) for name in config.benchmarks]
    run = target.run or {}
    dataset = str(config.dataset or run.get("eval_dataset") or run.get("dataset") or DEFAULT_DATASET)
    if config.dataset is None and run and run.get("eval_dataset") is None and Path(dataset).is_file():
        watcher.note(f"{dataset} has no held-out side: these are the run's own training problems (give --dataset)")
    problems = load_dataset(
        dataset,
        split=config.dataset_split or "heldout",
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=filled.verifier,
    )
    return [EvalSet(dataset, dataset, problems, filled)]


def benchmark_set(name: str, config: EvalConfig, defaults: EvalConfig) -> EvalSet:
    """Return a benchmark with its protocol's options, except for those that were given explicitly."""
    benchmark_ref, explicit = benchmarks.find(name), config.model_fields_set
    protocol_options = benchmark_ref.protocol.options() if benchmark_ref.protocol else {}
    overridden = {
        option: (value, getattr(config, option))
        for option, value in protocol_options.items()
        if option in explicit and getattr(config, option) != value
    }
    explicit_or_template = {*explicit, "chat_template"}
    update = {option: value for option, value in protocol_options.items() if option not in explicit_or_template}
    # the run's verifier belongs to its own data
    update["verifier"] = config.verifier or protocol_options.get("verifier")
    if "num_generations" in explicit or benchmark_ref.protocol is None:
        update.pop("num_generations", None)
    chosen = defaults.model_copy(update=update)
    if "k" in explicit and max(config.k) > chosen.num_samples:
        raise ConfigError(
            f"benchmark {benchmark_ref.name}: {chosen.num_samples} samples are too few for k = {max(config.k)}; "
            "give --num_generations, or leave out the protocol"
        )
    num_problems = config.num_problems if "num_problems" in explicit else None
    data = benchmarks.read(benchmark_ref.benchmark, config.benchmark_dir, num_problems, config.seed, chosen.verifier)
    if num_problems is not None and benchmark_ref.protocol is not None:
        overridden["num_problems"] = ("all", num_problems)
    return EvalSet(benchmark_ref.name, data.source, data.problems, chosen, benchmark_ref.protocol, overridden)
