"""What each command of the command line does. Nothing slow is imported before its options are known to be right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from obverse.cli.command import Words, console, load, options_of, take_flag
from obverse.cli.explain import explanation, methods_table
from obverse.cli.measuring import ANALYZE, COMPARE_NOTES, analyze, analyze_help, compare, evaluate, grade, report
from obverse.cli.method_pages import write as write_pages
from obverse.cli.method_table import entries, entry, markdown_table, to_json
from obverse.cli.parser import Scanned, default_text, print_help, scan
from obverse.cli.step_file import read_step
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig
from obverse.config.export import ExportConfig
from obverse.config.fields import Options, at_home
from obverse.config.report import ReportConfig
from obverse.config.resolve import method_options, resolve
from obverse.config.scale import ServeConfig
from obverse.config.sources import Layer
from obverse.config.train import (
    EMBEDDED_PRESET,
    DataConfig,
    DemoConfig,
    GradeConfig,
    MethodsConfig,
    TrainConfig,
    method_schema,
    schema,
)
from obverse.config.yaml_file import read as read_config
from obverse.config.yaml_file import write as write_config
from obverse.data.benchmarks import BENCHMARKS
from obverse.distributed.env import find_place
from obverse.errors import ConfigError
from obverse.methods import call, find, parameters
from obverse.redact import flat
from obverse.runtime.output_dir import refuse_moved, with_folder

NAMED = ("method", "config")  # options of `train` that are no part of its schema


def train(words: Words) -> int:
    dry = take_flag(words, "dry_run")
    scanned = scan(words, TrainConfig, others=NAMED)
    file = read_config(scanned.given["config"]) if "config" in scanned.given else None
    method = which_method(scanned, file)
    make = find(method)
    scanned = scan(words, schema(make), others=NAMED)
    scanned.take(1)
    given = {name: value for name, value in scanned.given.items() if name not in NAMED}
    config = scanned.check(lambda: resolve(method, make, given, file))
    if file is not None:
        refuse_moved(config, scanned.given["config"], is_given="output_dir" in given)
    if dry:
        return dry_run(config)
    place = find_place()
    if place.is_first:  # a folder that cannot be used is refused now, a new one made later; others may see what it made
        with_folder(config, create=False)
    if place.size > 1:  # before torch is there: it would print its own stack wherever a connection ends
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with load("obverse.cli.progress_panel:Panel")() if place.is_first else nullcontext() as watcher:
        outcome = load("obverse.training.loop:train")(config, watcher)
        if config.report and not outcome.stopped and place.is_first:
            load("obverse.report:report_after_run")(outcome.folder, watcher)
    return int(outcome.exit_code)


def dry_run(config: TrainConfig) -> int:
    """Print the whole configuration, and the memory that it will need; one of several ranks speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(flat(write_config(with_folder(config, create=False), origins=True)), end="")
        for line in load("obverse.memory_plan.table:memory")(config):
            print(flat(f"# {line}"))
    return 0


def which_method(scanned: Scanned, file: Layer | None = None) -> str:
    """The method as a word, as --method or in the configuration file; ConfigError if it is named nowhere or twice."""
    named = scanned.positional[:1] + [scanned.given[name] for name in ("method",) if name in scanned.given]
    if len(named) > 1:
        raise ConfigError(f"two methods are named: {named[0]} and {named[1]}")
    if not named and file is not None and "method" in file.values:
        named = [file.values["method"]]
    if not named:
        raise ConfigError("which method? 'obverse methods' lists them, 'obverse train hpt' trains by one")
    try:
        return at_home(str(named[0]))
    except ValueError as error:
        raise ConfigError(f"method {named[0]}: {error}") from None


def train_help(words: Words) -> None:
    scanned = scan(words, TrainConfig, others=NAMED)
    method = which_method(scanned) if scanned.positional or "method" in scanned.given else None
    make = find(method) if method else None
    paper: Mapping[str, Any] = {}
    if make and all(each.default is not each.empty for each in parameters(make).values()):
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
    usage = f"obverse train {method or 'METHOD'} [--config FILE.yaml] [options] [--dry-run]"
    print_help(usage, COMMANDS["train"].summary, schema(make) if make else TrainConfig, notes, defaults)


def methods(words: Words) -> int:
    as_json, as_markdown = take_flag(words, "json"), take_flag(words, "markdown")
    config = options_of(MethodsConfig, words, "methods")
    if config.pages is not None:
        print(f"{write_pages(config.pages, entries())} pages in {flat(config.pages)}")
    elif as_json or as_markdown:
        print(to_json(entries()) if as_json else markdown_table(entries()))
    else:
        console().print(methods_table(entries()))
    return 0


def explain(words: Words) -> int:
    method, options, _ = method_words(words, "explain", 1)
    console().print(explanation(entry(method, options)))
    return 0


def weigh(words: Words) -> int:
    method, options, (path,) = method_words(words, "weigh", 2)
    step = read_step(path)
    found = load("obverse.cli.coefficients:weigh")(method, step, options)
    samples = ",\n  ".join(json.dumps(sample, ensure_ascii=False) for sample in found["samples"])
    about = json.dumps({"method": found["method"], "options": found["options"]}, default=str)
    print(f'{about[:-1]}, "samples": [\n  {samples}\n]}}')
    return 0


def data(words: Words) -> int:
    action = words.pop(0) if words and words[0] in ("check", "show") else ""
    if not action:
        raise ConfigError(
            "data: check or show? 'obverse data check FILE' counts, 'obverse data show FILE' prints problems"
        )
    config = options_of(DataConfig, words, f"data {action}", "dataset")
    out = console()
    if action == "check":
        problems = load("obverse.cli.data:check")(config, out)
        if config.model is not None:
            load("obverse.cli.token_view:check_tokens")(config, problems, out)
    elif config.model is None:
        load("obverse.cli.data:show")(config, out)
    else:
        load("obverse.cli.token_view:show_tokens")(config, load("obverse.cli.data:some")(config), out)
    return 0


def demo(words: Words) -> int:
    config = options_of(DemoConfig, words, "demo")
    for method in config.methods:
        find(method)
    return int(load("obverse.cli.demo:demo")(config))


def serve(words: Words) -> int:
    dry = take_flag(words, "dry_run")
    return int(load("obverse.inference.serve_vllm:serve")(options_of(ServeConfig, words, "serve-vllm", "model"), dry))


def doctor(words: Words) -> int:
    options_of(Options, words, "doctor")
    return int(load("obverse.cli.doctor:doctor")(console()))


def export(words: Words) -> int:
    config = options_of(ExportConfig, words, "export", "model")
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        load("obverse.cli.export:export")(config, watcher)
    return 0


def method_words(words: Words, command: str, number: int) -> tuple[str, dict[str, Any], list[str]]:
    """A method, what its function is called with, and the command's other words, `number` words in all."""
    alone = scan(words, Options).positional
    if len(alone) < number:
        raise ConfigError(f"{command}: expects {COMMANDS[command].usage}")
    make = find(alone[0])
    scanned = scan(words, method_schema(make))
    scanned.take(number)
    return alone[0], scanned.check(lambda: method_options(alone[0], make, scanned.given)), scanned.positional[1:number]


def plain_help(name: str, made: type[Options], notes: Sequence[str] = ()) -> Callable[[Words], None]:
    """The help of a command whose options do not depend on its words."""
    return lambda words: print_help(f"obverse {COMMANDS[name].usage}", COMMANDS[name].summary, made, notes)


def method_help(name: str) -> Callable[[Words], None]:
    """The help of a command that takes a method's options."""

    def show(words: Words) -> None:
        alone = scan(words, Options).positional
        made = method_schema(find(alone[0])) if alone else Options
        notes = [] if alone else [f"A method's options: obverse {name} hpt --help"]
        print_help(f"obverse {COMMANDS[name].usage}", COMMANDS[name].summary, made, notes)

    return show


@dataclass(frozen=True)
class Command:
    """How a command is written, what it is for, and who does it."""

    usage: str
    summary: str
    run: Callable[[Words], int]
    help: Callable[[Words], None]


COMMANDS = {
    "train": Command("train METHOD", "Train a model by a method; writes a run folder.", train, train_help),
    "eval": Command(
        "eval MODEL_OR_RUN... [options]",
        "Measure runs, folders, adapters or hub models: accuracy, pass@k.",
        evaluate,
        plain_help(
            "eval",
            EvalConfig,
            [
                f"Benchmarks: {', '.join(BENCHMARKS)}.",
                "obverse eval --regrade DIR [--verifier NAME] [--k 1,8] grades stored samples again, without a model.",
            ],
        ),
    ),
    "export": Command(
        "export CHECKPOINT_OR_RUN --output DIR",
        "Write a plain transformers folder, adapters merged in.",
        export,
        plain_help("export", ExportConfig),
    ),
    "grade": Command(
        "grade VERIFIER FILE [options]",
        "Grade predictions against answers; one line of JSON each.",
        grade,
        plain_help("grade", GradeConfig, ["A row: prediction, answer. A line: verdict, reason, seconds."]),
    ),
    "compare": Command(
        "compare METHOD... [options]",
        "Train by several methods at one budget and put them into one table.",
        compare,
        plain_help("compare", CompareConfig, COMPARE_NOTES),
    ),
    "methods": Command(
        "methods [options]",
        "List every method: what it needs, how its tokens count.",
        methods,
        plain_help("methods", MethodsConfig, ["--json: the same for programs; --markdown: for a page."]),
    ),
    "explain": Command(
        "explain METHOD [options]",
        "Print a method in full: formula, defaults, pitfalls, parts.",
        explain,
        method_help("explain"),
    ),
    "weigh": Command(
        "weigh METHOD STEP.json [options]",
        "Print the coefficient of every token of the update in a file.",
        weigh,
        method_help("weigh"),
    ),
    "data": Command(
        "data check|show DATASET [options]",
        "Count what is in a data set, or show problems and tokens.",
        data,
        plain_help("data", DataConfig),
    ),
    "report": Command(
        "report RUN_OR_COMPARISON [options]",
        "Write a page that shows and explains a run or several.",
        report,
        plain_help("report", ReportConfig),
    ),
    "analyze": Command(
        "analyze QUESTION [options]",
        ANALYZE,
        analyze,
        analyze_help,
    ),
    "serve-vllm": Command(
        "serve-vllm MODEL [options]",
        "Start a vLLM server that a run can sample from.",
        serve,
        plain_help(
            "serve-vllm",
            ServeConfig,
            [
                "It becomes 'vllm serve'; --dry-run prints that command instead.",
                "A run: --sampler vllm --vllm_url URL.",
            ],
        ),
    ),
    "demo": Command(
        "demo [options]",
        "Train the embedded model and compare before with after.",
        demo,
        plain_help("demo", DemoConfig),
    ),
    "doctor": Command(
        "doctor", "Say what this machine has and what is missing.", doctor, plain_help("doctor", Options)
    ),
}
