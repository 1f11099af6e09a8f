"""Every command of the command line: how it is written, what it does, which module runs it.

Nothing is imported before it is needed: `obverse --help` reads this table alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from obverse.lazy_import import load

__all__ = ["COMMANDS", "Command", "SchemaCommand", "Words", "load"]

Words = list[str]


@dataclass(frozen=True)
class Command:
    """A command that reads its own words: its module has `run(words) -> int` and `show_help(words) -> None`.

    The words of `show_help` end with --help-all where every option is listed, not only the essential ones.
    """

    usage: str
    summary: str
    module: str

    def run(self, words: Words) -> int:
        """Run the command; returns its exit code. `words` are those after the command's name."""
        return int(load(f"{self.module}:run")(words))

    def show_help(self, words: Words) -> None:
        """Print the command's options; `words` may name a method or a question that has options of its own."""
        load(f"{self.module}:show_help")(words)


@dataclass(frozen=True)
class SchemaCommand(Command):
    """A command with one schema of options: its module has `run(config) -> int`, and is imported once they are valid.

    `positional` are the options that may be given without their names, in this order; `notes` end the help.
    """

    schema: str
    positional: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def run(self, words: Words) -> int:
        parse_options = load("obverse.cli.command:parse_options")
        config = parse_options(load(self.schema), words, self.usage.split()[0], *self.positional)
        return int(load(f"{self.module}:run")(config))

    def show_help(self, words: Words) -> None:
        print_help = load("obverse.cli.parser:print_help")
        print_help(f"obverse {self.usage}", self.summary, load(self.schema), self.notes, is_full="--help-all" in words)


COMMANDS: dict[str, Command] = {
    "train": Command("train METHOD", "Train a model by a method; writes a run folder.", "obverse.cli.train"),
    "init": SchemaCommand(
        "init METHOD [options]",
        "Write a commented configuration file for obverse train.",
        "obverse.cli.init",
        schema="obverse.config.commands:InitConfig",
        positional=("method",),
    ),
    "eval": Command(
        "eval MODEL_OR_RUN... [options]",
        "Measure runs, folders, adapters or hub models: accuracy, pass@k.",
        "obverse.cli.eval",
    ),
    "export": SchemaCommand(
        "export CHECKPOINT_OR_RUN --output DIR",
        "Write a plain transformers folder, adapters merged in.",
        "obverse.cli.export",
        schema="obverse.config.commands:ExportConfig",
        positional=("model",),
    ),
    "grade": SchemaCommand(
        "grade VERIFIER FILE [options]",
        "Grade predictions against answers; one line of JSON each.",
        "obverse.cli.grade",
        schema="obverse.config.commands:GradeConfig",
        positional=("verifier", "file"),
        notes=("A row: prediction, answer. A line: verdict, reason, seconds.",),
    ),
    "compare": Command(
        "compare METHOD... [options]",
        "Train by several methods at one budget and put them into one table.",
        "obverse.cli.compare",
    ),
    "methods": Command(
        "methods [options]",
        "List every method: what it needs, how its tokens count.",
        "obverse.cli.methods",
    ),
    "explain": Command(
        "explain METHOD [options]",
        "Print a method in full: formula, defaults, pitfalls, parts.",
        "obverse.cli.explain",
    ),
    "weigh": Command(
        "weigh METHOD STEP.json [options]",
        "Print the coefficient of every token of the update in a file.",
        "obverse.cli.weigh",
    ),
    "data": Command(
        "data check|show DATASET [options]",
        "Count what is in a data set, or show problems and tokens.",
        "obverse.cli.data",
    ),
    "report": SchemaCommand(
        "report RUN_OR_COMPARISON [options]",
        "Write a page that shows and explains a run or several.",
        "obverse.cli.report",
        schema="obverse.config.commands:ReportConfig",
        positional=("run",),
    ),
    "runs": Command(
        "runs [FOLDER] [options]",
        "List run folders: method, step, last figures, state.",
        "obverse.cli.runs",
    ),
    "analyze": Command(
        "analyze QUESTION [options]",
        "Bias and variance of gradients, token coefficients, shifts of probabilities.",
        "obverse.cli.analyze",
    ),
    "serve-vllm": Command(
        "serve-vllm MODEL [options]",
        "Start a vLLM server that a run can sample from.",
        "obverse.cli.serve_vllm",
    ),
    "completion": SchemaCommand(
        "completion bash|zsh|fish",
        "Print a script that completes commands and options in a shell.",
        "obverse.cli.completion",
        schema="obverse.config.commands:CompletionConfig",
        positional=("shell",),
    ),
    "demo": SchemaCommand(
        "demo [options]",
        "Train the embedded model and compare before with after.",
        "obverse.cli.demo",
        schema="obverse.config.commands:DemoConfig",
    ),
    "doctor": SchemaCommand(
        "doctor",
        "Report what this machine has and what is missing.",
        "obverse.cli.doctor",
        schema="obverse.config.fields:Options",
    ),
}
