"""`obverse train`: from the words of a command to a run. Torch is imported once the options are valid."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from obverse.cli.command import take_flag
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import Scanned, default_text, print_help, scan
from obverse.config.fields import at_home
from obverse.config.foreign_keys import translated
from obverse.config.llama_factory_keys import LLAMA_FACTORY
from obverse.config.method_options import train_schema, with_essentials
from obverse.config.rate_hint import learning_rate_hint
from obverse.config.resolve import resolve
from obverse.config.sources import Layer
from obverse.config.train import EMBEDDED_PRESET, TrainConfig
from obverse.config.trl_keys import TRL
from obverse.config.yaml_file import read as read_config
from obverse.config.yaml_file import write as write_config
from obverse.distributed.env import read_rank_env
from obverse.errors import ConfigError
from obverse.estimator.schedule import as_schedule
from obverse.methods import build, call, find, parameters
from obverse.redact import flat
from obverse.runtime.callbacks import Silent
from obverse.runtime.output_dir import in_folder_of, refuse_moved, with_folder

BESIDE_SCHEMA = ("method", "config")  # options of the command that are no part of its schema


def run(words: Words) -> int:
    """`obverse train METHOD [--config FILE.yaml] [options] [--dry-run]`."""
    is_dry = take_flag(words, "dry_run")
    scanned = scan(words, TrainConfig, BESIDE_SCHEMA)
    file = read_file(scanned) if "config" in scanned.given else None
    method = which_method(scanned, file)
    make = find(method)
    scanned = scan(words, train_schema(make), BESIDE_SCHEMA)
    if "push_to_hub" in scanned.given and any("/" in word for word in scanned.positional[1:]):
        scanned.problems.append("--push_to_hub is true or false: name the repository by --hub_model_id owner/name")
    scanned.take(1)
    given = {name: value for name, value in scanned.given.items() if name not in BESIDE_SCHEMA}
    config = scanned.check(lambda: resolve(method, make, given, file))
    if file is not None:
        refuse_moved(config, scanned.given["config"], is_given="output_dir" in given)
    if is_dry:
        return dry_run(config)
    with load("obverse.cli.progress_panel:Panel")() if read_rank_env().is_first else nullcontext(Silent()) as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        return load("obverse.api.train:train_and_report")(config, watcher).exit_code


def read_file(scanned: Scanned) -> Layer:
    """The options of the file --config; those of a run find the inputs that are stored in its folder.

    Keys of TRL and LLaMA-Factory are translated, with notes on stderr.
    """
    path = scanned.given["config"]
    words = [*scanned.positional[:1], *(scanned.given[name] for name in ("method",) if name in scanned.given)]
    rank_env, method = read_rank_env(), str(words[0]) if words else None
    file, notes = translated(read_config(path), (LLAMA_FACTORY, TRL), method, scanned.given, rank_env.size)
    for note in notes if rank_env.is_first else ():
        print(flat(f"note: {note}"), file=sys.stderr)
    return Layer(file.origin, in_folder_of(file.values, path))


def check_options(config: TrainConfig) -> None:
    """Raise ConfigError for options that contradict the method, the installation or the verifiers, as a run does."""
    schedule = as_schedule(build(config.method, config.method_options))
    load("obverse.training.validate:check")(schedule, config)
    verifier = load("obverse.rewards:with_weights")(config.verifier, config.verifier_weights)
    if verifier is not None:
        load("obverse.rewards:get_verifier")(verifier, config.verifier_seconds)


def dry_run(config: TrainConfig) -> int:
    """Print the whole configuration, and the memory that the run will need; of several ranks only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        check_options(config)
        print(flat(write_config(with_folder(config, create=False), origins=True)), end="")
        if hint := learning_rate_hint(config, load("obverse.memory_plan.meta_models:num_parameters")(config)):
            print(flat(f"# learning rate: {hint}"))
        for line in load("obverse.memory_plan.table:memory")(config):
            print(flat(f"# {line}"))
    return 0


def which_method(scanned: Scanned, file: Layer | None = None) -> str:
    """The method given as a word, as --method or in the configuration file; ConfigError for none or two of them."""
    methods = scanned.positional[:1] + [scanned.given[name] for name in ("method",) if name in scanned.given]
    if len(methods) > 1:
        raise ConfigError(f"two methods are named: {methods[0]} and {methods[1]}")
    if files := [word for word in scanned.positional if word.endswith((".yaml", ".yml"))]:
        raise ConfigError(f"unexpected {files[0]!r}: a file of options is given by --config {files[0]}")
    if not methods and file is not None and "method" in file.values:
        methods = [file.values["method"]]
    if not methods and scanned.problems:
        raise ConfigError("\n".join(scanned.problems))
    if not methods:
        raise ConfigError("which method? 'obverse methods' lists them, 'obverse train hpt' trains by one")
    try:
        return at_home(str(methods[0]))
    except ValueError as error:
        raise ConfigError(f"method {methods[0]}: {error}") from None


def show_help(words: Words) -> None:
    """Print the options of a run, and those of a method if one is named."""
    is_full = take_flag(words, "help_all")
    scanned = scan(words, TrainConfig, BESIDE_SCHEMA)
    method = which_method(scanned) if scanned.positional or "method" in scanned.given else None
    make = find(method) if method else None
    paper: Mapping[str, Any] = {}
    if make and all(parameter.default is not parameter.empty for parameter in parameters(make).values()):
        paper = call(str(method), make, {}).run
    preset = ", ".join(f"{name} {default_text(value)}" for name, value in EMBEDDED_PRESET.items())
    notes = [
        "The command line wins over --config FILE.yaml, that over the preset of --model embedded "
        f"({preset}), that over the paper's run options, those over defaults. "
        "--dry-run prints every value with where it comes from."
    ]
    if method is None:
        notes.insert(0, "A method's own options: obverse train hpt --help")
    defaults = {name: f"{default_text(value)} (paper)" for name, value in paper.items()}
    usage = f"obverse train {shlex.quote(method) if method else 'METHOD'} [--config FILE.yaml] [options] [--dry-run]"
    schema = with_essentials(train_schema(make), make) if make else TrainConfig
    print_help(usage, COMMANDS["train"].summary, schema, notes, defaults, is_full)
