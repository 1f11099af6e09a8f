"""The commands that measure and show: eval, grade, compare, analyze, report."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from obverse.cli.command import Words, console, load, options_of
from obverse.cli.parser import print_help, scan
from obverse.config.analyze import QUESTIONS, home_of
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig, RegradeConfig
from obverse.config.fields import Options, at_home
from obverse.config.report import ReportConfig
from obverse.config.resolve import read
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.config.train import GradeConfig
from obverse.config.yaml_file import read as read_config
from obverse.data.benchmarks import find as find_benchmark
from obverse.errors import ConfigError
from obverse.methods import find
from obverse.python_files import read_once
from obverse.redact import flat
from obverse.runtime.file_writes import exclusive_lock, storage_errors
from obverse.runtime.integrity import add_seal
from obverse.runtime.output_dir import slug
from obverse.runtime.run_dir import RunFolder

ANALYZE = "Bias and variance of gradients, who pushed what, what moved."
COMPARE_NOTES = [
    "A method may have options of its own behind commas: hpt,gate=1. Options of training hold for every run. "
    "obverse compare --output_dir FOLDER goes on with a comparison as it began; so does the same call again."
]


@read_once()
def evaluate(words: Words) -> int:
    if any(word.partition("=")[0] == "--regrade" for word in words):
        regraded = options_of(RegradeConfig, words, "eval --regrade")
        with load("obverse.cli.progress_panel:Panel")() as watcher:
            show(load("obverse.evaluation.regrade:regrade")(regraded, watcher))
        return 0
    configs = models_of(words)
    if configs[0].benchmarks is not None:
        for name in configs[0].benchmarks:
            find_benchmark(name)
    each = load("obverse.evaluation.evaluate:evaluate_each")
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        found = [each(config, watcher) for config in configs]
    for reports in found:
        show(reports)
    if configs[0].paired:
        compare, store = load("obverse.evaluation.paired:compare"), load("obverse.evaluation.paired:store")
        show([store(compare(*pair), *pair) for pair in zip(*found, strict=True)])
    if configs[0].over_seeds:
        show([load("obverse.evaluation.paired:over_seeds")(reports) for reports in zip(*found, strict=True)])
    return 0


def grade(words: Words) -> int:
    load("obverse.cli.grade:grade")(options_of(GradeConfig, words, "grade", "verifier", "file"), print_row)
    return 0


def print_row(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def models_of(words: Words) -> list[EvalConfig]:
    """The options of `eval`, once for each model that is named; ConfigError where they do not fit that number."""
    scanned = scan(words, EvalConfig)
    named = [scanned.given["model"]] if "model" in scanned.given else []
    models = scanned.take(len(scanned.positional)) or named
    if scanned.positional and named:
        scanned.problems.append(f"--model: given twice, once as {models[0]}")
    given = {**scanned.given, **({"model": models[0]} if models else {})}
    config = scanned.check(lambda: read(EvalConfig, [Layer(COMMAND_LINE, given)], "see 'obverse eval --help'"))
    if config.paired and len(models) != 2:
        raise ConfigError(f"--paired compares two models, named are {len(models)}: obverse eval FIRST SECOND --paired")
    if config.over_seeds and len(models) < 2:
        raise ConfigError("--over_seeds needs the models of several seeds: obverse eval RUN1 RUN2 RUN3 --over_seeds")
    if len(models) == 1:
        return [config]
    outs = [config.output and config.output / f"{n}-{slug(model)}" for n, model in enumerate(models, start=1)]
    return [
        config.model_copy(update={"model": at_home(model), **({"output": out} if out else {})})
        for model, out in zip(models, outs, strict=True)
    ]


def show(reports: Sequence[Any]) -> None:
    """Tables of results, and where they are stored."""
    out = console()
    for report in reports:
        out.print(report.table())
        if report.path is not None:
            out.print(Text(flat(report.path)), soft_wrap=True)


@read_once()
def compare(words: Words) -> int:
    scanned = scan(words, CompareConfig, others=("config",))
    file = scanned.given.pop("config", None)
    kept = Path(scanned.given.get("output_dir", ""), "comparison.yaml").expanduser()
    if file is None and not scanned.positional and kept.is_file():
        load("obverse.comparison.plan:check_config")(kept.parent)
        file = kept  # it goes on as it began
    written = {"methods": tuple(scanned.positional)} if scanned.positional else {}
    layers = [Layer(COMMAND_LINE, {**written, **scanned.given}), *([read_config(file)] if file else [])]
    config = scanned.check(lambda: read(CompareConfig, layers, "see 'obverse compare --help'"))
    plan = load("obverse.comparison.plan:make_plan")(config)  # what is wrong is said before torch is loaded
    plan = load("obverse.comparison.run:reserve_folder")(plan)
    code = int(load("obverse.comparison.run:compare")(plan, console()))
    if config.report and code == 0:
        with load("obverse.cli.progress_panel:Panel")() as watcher:
            load("obverse.report:report_after_run")(plan.root, watcher)
    return code


def analyze(words: Words) -> int:
    question = words.pop(0) if words and words[0] in QUESTIONS else ""
    if not question:
        near = difflib.get_close_matches(words[0].lower() if words else "", QUESTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else "'obverse analyze --help' says what each of them tells"
        raise ConfigError(f"analyze what? {', '.join(QUESTIONS)}; {hint}")
    made = QUESTIONS[question]
    words_alone = ("model",) if "model" in made.model_fields else ()
    config: Any = options_of(made, words, f"analyze {question}", *words_alone)
    for name in getattr(config, "methods", None) or ():
        find(name)
    home = config.output or home_of(config)
    if home is None:
        answered(question, config)
        return 0
    RunFolder(home).create()
    advice = "give another --output"
    with exclusive_lock(home / f".{question}.lock", f"{home / question}.json", advice):
        answer = {"schema": 2, **answered(question, config).plain()}
        with storage_errors(home / f"{question}.json", advice):
            print(flat(RunFolder(home).write_json(f"{question}.json", add_seal(answer))))
    return 0


def answered(question: str, config: Any) -> Any:
    """What an analysis found, on the console too."""
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        found = load(f"obverse.analysis.{question}:{question}")(config, watcher)
    console().print(found.table())
    return found


def analyze_help(words: Words) -> None:
    question = next((word for word in words if word in QUESTIONS), "")
    made = QUESTIONS.get(question, Options)
    usage = f"obverse analyze {question or 'QUESTION'}{' MODEL' if 'model' in made.model_fields else ''} [options]"
    told = "\n".join(f"  {name:<15}{(each.__doc__ or '').splitlines()[0]}" for name, each in QUESTIONS.items())
    notes = [] if question else [f"Questions:\n{told}", "Their options: obverse analyze variance --help"]
    print_help(usage, (made.__doc__ or "") if question else ANALYZE, made, notes)


def report(words: Words) -> int:
    config = options_of(ReportConfig, words, "report", "run")
    for path in load("obverse.report:report")(config):
        print(flat(path))
    return 0
