"""`obverse completion`: a script that completes commands, methods, options and their values in a shell. No torch here.

The script is complete in itself: pressing Tab starts no program. It is made of the schemas, so that a new one is needed
after an update; the options of a method in a file of the user's own are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from obverse.cli.commands import COMMANDS, Command, SchemaCommand, load
from obverse.cli.completion_scripts import CommandWords, bash, fish, zsh
from obverse.config.analyze import QUESTIONS
from obverse.config.commands import CompletionConfig, DataConfig, MethodsConfig, RunsConfig, ServeConfig
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig
from obverse.config.fields import Options
from obverse.config.method_options import method_schema
from obverse.config.sources import kinds
from obverse.config.train import TrainConfig
from obverse.data.benchmarks import BENCHMARKS
from obverse.methods import find, names
from obverse.rewards import NAMES

SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
# The schemas of the commands that read their own words, and their flags beside the schema.
SCHEMAS: Mapping[str, type[Options]] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "compare": CompareConfig,
    "methods": MethodsConfig,
    "data": DataConfig,
    "runs": RunsConfig,
    "serve-vllm": ServeConfig,
}
BESIDE_SCHEMA: Mapping[str, tuple[str, ...]] = {
    "train": ("config", "dry_run"),
    "eval": ("regrade",),
    "compare": ("config",),
    "methods": ("json", "markdown"),
    "runs": ("json",),
    "serve-vllm": ("dry_run",),
}
OF_EVERY_COMMAND = ("help", "help-all", "debug")
BY_METHOD = ("train", "explain", "weigh")  # commands with the options of the method


def run(config: CompletionConfig) -> int:
    print(SHELLS[config.shell](completions()), end="")
    return 0


def completions() -> dict[str, CommandWords]:
    """The words of every command, from its usage and schema."""
    of_methods = {name: _values(method_schema(find(name))) for name in names()}
    return {name: _command_words(name, command, of_methods) for name, command in COMMANDS.items()}


def _command_words(
    name: str, command: Command, of_methods: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> CommandWords:
    schema = load(command.schema) if isinstance(command, SchemaCommand) else SCHEMAS.get(name, Options)
    options = {**dict.fromkeys((*BESIDE_SCHEMA.get(name, ()), *OF_EVERY_COMMAND), ()), **_values(schema)}
    placeholder = [*command.usage.split(), ""][1]
    by_first: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
    firsts: Iterable[str] = ()
    if name == "analyze":
        by_first = {question: _values(schema) for question, schema in QUESTIONS.items()}
        firsts = QUESTIONS
    elif placeholder.startswith("METHOD"):
        firsts = names()
        if name in BY_METHOD:
            by_first = {
                method: {option: values for option, values in of_method.items() if option not in options}
                for method, of_method in of_methods.items()
            }
    elif placeholder == "VERIFIER":
        firsts = NAMES
    elif "|" in placeholder:
        firsts = placeholder.split("|")
    takes_runs = "RUN" in command.usage or "FOLDER" in command.usage or name == "analyze"
    repeats_firsts = "..." in placeholder or command.usage.split().count(placeholder) > 1
    return CommandWords(command.summary, options, tuple(firsts), by_first, takes_runs, repeats_firsts)


def _values(schema: type[Options]) -> dict[str, tuple[str, ...]]:
    """The options of a schema with their fixed values; those of a free option are empty."""
    return {name: fixed_values(schema, name) for names_of in schema.groups().values() for name in names_of}


def fixed_values(schema: type[Options], name: str) -> tuple[str, ...]:
    """The words that an option accepts; empty where any text or number is accepted, and for a flag."""
    registries = {"verifier": NAMES, "methods": tuple(names()), "benchmarks": tuple(BENCHMARKS)}
    words = tuple(kind for kind in kinds(schema, name) if isinstance(kind, str))
    return words or registries.get(name, ())
