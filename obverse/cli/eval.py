"""`obverse eval`: sample models on held-out problems, or grade stored samples again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from obverse.api.evaluate import SEE_HELP, check_benchmarks
from obverse.cli.command import parse_options
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import print_help, scan
from obverse.cli.results_console import results_console
from obverse.config.eval import EvalConfig, RegradeConfig
from obverse.config.fields import at_home
from obverse.config.resolve import read
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.data.benchmarks import BENCHMARKS
from obverse.errors import ConfigError
from obverse.python_files import read_once
from obverse.redact import flat
from obverse.runtime.output_dir import slug


@read_once()
def run(words: Words) -> int:
    """`obverse eval MODEL_OR_RUN... [options]` and `obverse eval --regrade FOLDER`."""
    if any(word.partition("=")[0] == "--regrade" for word in words):
        regrade_config = parse_options(RegradeConfig, words, "eval --regrade")
        with load("obverse.cli.progress_panel:Panel")() as watcher:
            print_reports(load("obverse.evaluation.regrade:regrade")(regrade_config, watcher))
        return 0
    configs = configs_of(words)
    check_benchmarks(configs[0])
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        evaluate_each = load("obverse.evaluation.evaluate:evaluate_each")
        reports_by_model = [evaluate_each(config, watcher) for config in configs]
    for reports in reports_by_model:
        print_reports(reports)
    if configs[0].paired:
        compare, store = load("obverse.evaluation.paired:compare"), load("obverse.evaluation.paired:write_pair")
        print_reports([store(compare(*pair), *pair) for pair in zip(*reports_by_model, strict=True)])
    if configs[0].over_seeds:
        over_seeds = load("obverse.evaluation.paired:over_seeds")
        print_reports([over_seeds(reports) for reports in zip(*reports_by_model, strict=True)])
    return 0


def configs_of(words: Words) -> list[EvalConfig]:
    """The options of `eval`, once per model; ConfigError where they do not fit the number of models."""
    scanned = scan(words, EvalConfig)
    by_name = [scanned.given["model"]] if "model" in scanned.given else []
    models = scanned.take(len(scanned.positional)) or by_name
    if scanned.positional and by_name:
        scanned.problems.append(f"--model: given twice, once as {models[0]}")
    if not models and not scanned.problems:
        raise ConfigError(f"eval: expects obverse {COMMANDS['eval'].usage}")
    given = {**scanned.given, **({"model": models[0]} if models else {})}
    config = scanned.check(lambda: read(EvalConfig, [Layer(COMMAND_LINE, given)], SEE_HELP))
    if config.paired and len(models) != 2:
        raise ConfigError(f"--paired compares two models, named are {len(models)}: obverse eval FIRST SECOND --paired")
    if config.over_seeds and len(models) < 2:
        raise ConfigError("--over_seeds needs the models of several seeds: obverse eval RUN1 RUN2 RUN3 --over_seeds")
    if len(models) == 1:
        return [config]
    folders = [config.output and config.output / f"{n}-{slug(model)}" for n, model in enumerate(models, start=1)]
    return [
        config.model_copy(update={"model": at_home(model), **({"output": folder} if folder else {})})
        for model, folder in zip(models, folders, strict=True)
    ]


def print_reports(reports: Sequence[Any]) -> None:
    """Print tables of results, and where they are stored."""
    console = results_console()
    for report in reports:
        console.print(report.table())
        if report.path is not None:
            console.print(Text(flat(report.path)), soft_wrap=True)


def show_help(words: Words) -> None:
    command = COMMANDS["eval"]
    notes = [
        f"Benchmarks: {', '.join(BENCHMARKS)}.",
        "obverse eval --regrade DIR [--verifier NAME] [--k 1,8] grades stored samples again, without a model.",
    ]
    print_help(f"obverse {command.usage}", command.summary, EvalConfig, notes, is_full="--help-all" in words)
