"""`obverse analyze`: one question about gradients, coefficients or probabilities, answered as a table and as JSON."""

from __future__ import annotations

import difflib
from typing import Any

from obverse.cli.command import parse_options
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import print_help
from obverse.cli.results_console import results_console
from obverse.config.analyze import QUESTIONS, default_output
from obverse.config.fields import Options
from obverse.errors import ConfigError
from obverse.methods import find
from obverse.redact import flat
from obverse.runtime.file_writes import exclusive_lock, storage_errors
from obverse.runtime.integrity import add_seal
from obverse.runtime.run_dir import RunFolder


def run(words: Words) -> int:
    """`obverse analyze QUESTION [MODEL] [options]`."""
    question = words.pop(0) if words and words[0] in QUESTIONS else ""
    if not question:
        near = difflib.get_close_matches(words[0].lower() if words else "", QUESTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see 'obverse analyze --help'"
        raise ConfigError(f"analyze what? {', '.join(QUESTIONS)}; {hint}")
    schema = QUESTIONS[question]
    positional = ("model",) if "model" in schema.model_fields else ()
    config: Any = parse_options(schema, words, f"analyze {question}", *positional)
    for name in getattr(config, "methods", None) or ():
        find(name)
    folder = config.output or default_output(config)
    if folder is None:
        print_answer(question, config)
        return 0
    RunFolder(folder).create()
    advice = "give another --output"
    with exclusive_lock(folder / f".{question}.lock", f"{folder / question}.json", advice):
        answer = {"schema": 2, **print_answer(question, config).plain()}
        with storage_errors(folder / f"{question}.json", advice):
            print(flat(RunFolder(folder).write_json(f"{question}.json", add_seal(answer))))
    return 0


def print_answer(question: str, config: Any) -> Any:
    """Compute the answer to a question, print its table, and return it."""
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        answer = load(f"obverse.analysis.{question}:{question}")(config, watcher)
    results_console().print(answer.table())
    return answer


def show_help(words: Words) -> None:
    question = next((word for word in words if word in QUESTIONS), "")
    schema = QUESTIONS.get(question, Options)
    usage = f"obverse analyze {question or 'QUESTION'}{' MODEL' if 'model' in schema.model_fields else ''} [options]"
    summaries = {name: (schema.__doc__ or "").splitlines()[0] for name, schema in QUESTIONS.items()}
    listed = "\n".join(f"  {name:<15}{summary}" for name, summary in summaries.items())
    notes = [] if question else [f"Questions:\n{listed}", "Their options: obverse analyze variance --help"]
    summary = (schema.__doc__ or "") if question else COMMANDS["analyze"].summary
    print_help(usage, summary, schema, notes, is_full="--help-all" in words)
