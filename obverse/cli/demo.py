"""`obverse demo`: the embedded base learns the embedded task by one method or several, all at the same budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from obverse import methods
from obverse.cli.progress_panel import Panel
from obverse.config.commands import DemoConfig
from obverse.config.resolve import resolve
from obverse.data import load_dataset
from obverse.data.renderer import Renderer
from obverse.evaluation.report import Report
from obverse.evaluation.sample_and_score import EvalSetup, measure
from obverse.inference import SamplingParams
from obverse.inference.build import embedded_sampler
from obverse.models.load import load
from obverse.models.policy import set_threads
from obverse.redact import flat
from obverse.report.write import report_after_run
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Watcher
from obverse.runtime.output_dir import free_folder, slug
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.types import Problem

DATASET = "arithmetic:1-6"
EASY, HARD = (1, 3), (4, 6)  # operations: difficulties of the base's training data, and those that it never solves
K = (1, 8)
NUM_HELD_OUT = 120

# About two minutes on a laptop; the same for every method.
RUN: Mapping[str, Any] = {
    "dataset": DATASET,
    "num_problems": 1000,
    "max_completion_length": 96,
    "log_completions": True,
}
BUDGET = 1_000_000  # generated plus trained tokens
NEVER = 10**6  # steps: the budget ends the run


@dataclass(frozen=True)
class Evaluated:
    """A policy's name, and its report on the held-out problems."""

    name: str
    report: Report


def run(config: DemoConfig) -> int:
    """Evaluate the base, train by each method, compare; returns the exit code (130 or 143 when a signal stopped it)."""
    for name in config.methods:
        methods.find(name)  # refuses an unknown method before the first one is trained
    console = Console(highlight=False)
    root = free_folder(Path("runs"), "demo") if config.output_dir is None else config.output_dir
    problems = load_dataset(DATASET, split="heldout", num_problems=NUM_HELD_OUT, seed=config.seed)
    with Panel(console) as watcher:
        policies = [Evaluated("base", score("embedded", problems, config.seed, watcher))]
        watcher.note(preflight(policies[0].report))
        budget = BUDGET
        for name in config.methods:
            limit = {"budget": budget, "max_steps": NEVER}
            if config.max_steps and len(policies) == 1:
                limit = {"max_steps": config.max_steps}
            options = {**RUN, **limit, "seed": config.seed, "output_dir": str(root / slug(name))}
            outcome = train(resolve(name, methods.find(name), options), watcher)
            if outcome.stopped:
                return outcome.exit_code
            budget = int(RunFolder(outcome.folder).metrics()[-1]["num_tokens"])
            trained = str(checkpoint.newest(outcome.folder))
            policies.append(Evaluated(name, score(trained, problems, config.seed, watcher)))
        RunFolder(root).write_json("demo.json", figures(policies))
        if config.report:
            report_after_run(root, watcher)
    console.print(before_and_after(policies))
    console.print(side_by_side(policies, problems))
    console.print(f"{root}: the runs, each of {budget:,} generated plus trained tokens", soft_wrap=True)
    return 0


def score(model: str, problems: Sequence[Problem], seed: int, watcher: Watcher) -> Report:
    """The held-out problems, 8 samples each at temperature 1."""
    policy, tokenizer = load(model)
    set_threads(0, policy)
    renderer = Renderer(tokenizer, eos_ids=policy.model.generation_config.eos_token_id)
    params = SamplingParams(renderer.stop_ids, RUN["max_completion_length"])
    setup = EvalSetup(embedded_sampler(policy, renderer), renderer, params, max(K), seed)
    scores = measure(problems, setup, watcher)
    return Report(model, scores, K)


def preflight(base: Report) -> str:
    """A note on the base before training: how many problems it solves, how many answers can be parsed."""
    row = base.summary()["all"]
    return (
        f"preflight: the base solves {base.pass_at(1):.0%} of held-out problems; {row['truncated']:.0%} of its answers "
        f"are cut off, {row['formatted']:.0%} have the form that the verifier reads"
    )


def split(report: Report) -> dict[str, Report]:
    """The report by difficulty, with the easy half, the hard half and all of it."""
    groups = {level: scores for level, scores in report.groups().items() if level != "all"}
    for name, (low, high) in (("easy half", EASY), ("hard half", HARD)):
        groups[name] = [score for score in report.scores if low <= int(score.difficulty) <= high]
    groups["all"] = report.scores
    return {name: Report(report.name, scores, report.k) for name, scores in groups.items()}


def figures(policies: Sequence[Evaluated]) -> dict[str, dict[str, dict[str, float]]]:
    """pass@k by policy and difficulty, for `demo.json`."""
    return {
        policy.name: {level: {f"pass@{k}": part.pass_at(k) for k in K} for level, part in split(policy.report).items()}
        for policy in policies
    }


def before_and_after(policies: Sequence[Evaluated]) -> Table:
    """pass@1 and pass@8 by difficulty, a pair of columns per policy."""
    table = Table(title="held-out problems: pass@1 / pass@8", title_justify="left")
    table.add_column("operations")
    for policy in policies:
        table.add_column(policy.name, justify="right")
    parts = [split(policy.report) for policy in policies]
    for level in parts[0]:
        cells = [" / ".join(f"{part[level].pass_at(k):6.1%}" for k in K) for part in parts]
        table.add_row(level, *cells, end_section=level in (str(HARD[1]), "hard half"))
    return table


def side_by_side(policies: Sequence[Evaluated], problems: Sequence[Problem], num: int = 3) -> Table:
    """A completion of every policy to problems that the base fails, solved and hard ones first."""
    table = Table(title="the first answer of each to the same problem", title_justify="left", show_lines=True)
    table.add_column("problem")
    for policy in policies:
        table.add_column(policy.name, overflow="fold")

    def interest(index: int) -> tuple[bool, bool, int]:
        base = policies[0].report.scores[index]
        last = policies[-1 if len(policies) < 3 else 1].report.scores[index]
        return last.correct[0], not base.correct[0], int(base.difficulty)

    for index in sorted(range(len(problems)), key=interest, reverse=True)[:num]:
        answers = [policy.report.scores[index] for policy in policies]
        cells = [Text(flat(score.texts[0]), style="green" if score.correct[0] else "red") for score in answers]
        table.add_row(flat(problems[index].prompt), *cells)
    return table
