"""Evaluation: samples per problem, graded and stored; accuracy and unbiased pass@k by difficulty, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.table import Table

from obverse import checkpoint, tasks
from obverse.config import EvalConfig
from obverse.errors import ConfigError
from obverse.model import load, set_threads
from obverse.passk import interval, pass_at_k
from obverse.records import Problem, to_json
from obverse.resolve import slug
from obverse.runlog import RunFolder, environment
from obverse.sampling import Law, Order, Sampler, law_of
from obverse.sampling.hf import HFSampler
from obverse.seeds import seed_for
from obverse.text import Renderer
from obverse.verifiers import judge
from obverse.watch import Silent, Watcher

HELD_OUT = "arithmetic:1-6"  # what is evaluated on if nobody says: the embedded task


@dataclass(frozen=True)
class Score:
    """One problem's samples: how many there are and how many were correct, cut off, readable, without a verdict."""

    problem: str
    difficulty: str
    num_samples: int
    num_correct: int
    num_truncated: int
    num_formatted: int
    num_ungraded: int
    texts: list[str]
    correct: list[bool]


@dataclass(frozen=True)
class Report:
    """The result of one evaluation; `path` is its JSON file."""

    name: str
    scores: list[Score]
    k: tuple[int, ...]
    path: Path | None = None

    def groups(self) -> dict[str, list[Score]]:
        """Scores by difficulty, then all of them."""
        levels = sorted({score.difficulty for score in self.scores}, key=lambda level: (len(level), level))
        found = {level: [score for score in self.scores if score.difficulty == level] for level in levels if level}
        return found | {"all": self.scores} if len(found) != 1 else {"all": self.scores}

    def pass_at(self, k: int, scores: Sequence[Score] | None = None) -> float:
        """Mean unbiased pass@k over problems."""
        chosen = self.scores if scores is None else scores
        return fmean(pass_at_k(score.num_samples, score.num_correct, k) for score in chosen)

    def summary(self) -> dict[str, dict[str, Any]]:
        """By difficulty: problems, avg@n with its 95 % interval, pass@k, shares truncated, formatted, ungraded."""
        return {level: self._row(scores) for level, scores in self.groups().items()}

    def _row(self, scores: list[Score]) -> dict[str, Any]:
        num = sum(score.num_samples for score in scores)
        means = [score.num_correct / score.num_samples for score in scores]
        return {
            "problems": len(scores),
            f"avg@{scores[0].num_samples}": fmean(means),
            "interval": list(interval(means)),
            **{f"pass@{k}": self.pass_at(k, scores) for k in self.k},
            "truncated": sum(score.num_truncated for score in scores) / num,
            "formatted": sum(score.num_formatted for score in scores) / num,
            "ungraded": sum(score.num_ungraded for score in scores) / num,
        }

    def table(self) -> Table:
        """The summary for a console."""
        summary = self.summary()
        table = Table(title=self.name, title_justify="left")
        for column in ("difficulty", *next(iter(summary.values()))):
            table.add_column(column, justify="left" if column == "difficulty" else "right")
        for level, row in summary.items():
            low, high = row["interval"]
            cells = [
                str(value) if name == "problems" else f"{low:.1%}..{high:.1%}" if name == "interval" else f"{value:.1%}"
                for name, value in row.items()
            ]
            table.add_row(level, *cells)
        return table


def measure(
    problems: Sequence[Problem],
    sampler: Sampler,
    renderer: Renderer,
    law: Law,
    num_samples: int,
    seed: int,
    watcher: Watcher | None = None,
) -> list[Score]:
    """Sample every problem `num_samples` times and grade; a completion's seed names the problem and its number only.

    Raises ConfigError for a problem that names no verifier.
    """
    watch = watcher or Silent()
    total = len(problems) * num_samples
    orders = [
        Order(renderer.prompt_ids(problem), [seed_for(seed, "eval", problem.id, i) for i in range(num_samples)])
        for problem in problems
    ]
    watch.phase("eval", 0, total)
    found = sampler.sample(orders, law, lambda done: watch.phase("eval", done, total))
    scores = []
    for problem, completions in zip(problems, found, strict=True):
        texts = [renderer.decode(completion.ids) for completion in completions]
        verdicts = [verdict for text in texts if (verdict := judge(problem, text))]
        if len(verdicts) < num_samples:
            raise ConfigError(f"problem {problem.id!r} has no answer to check: add `answer` or give --verifier")
        scores.append(
            Score(
                problem=problem.id,
                difficulty=str(problem.meta.get("difficulty", problem.meta.get("level", ""))),
                num_samples=num_samples,
                num_correct=sum(bool(verdict.correct) for verdict in verdicts),
                num_truncated=sum(completion.finish == "length" for completion in completions),
                num_formatted=sum(verdict.formatted for verdict in verdicts),
                num_ungraded=sum(verdict.correct is None for verdict in verdicts),
                texts=texts,
                correct=[bool(verdict.correct) for verdict in verdicts],
            )
        )
    return scores


def evaluate(config: EvalConfig, watcher: Watcher | None = None) -> Report:
    """Evaluate a model folder, a hub name, `embedded` or a run (its newest checkpoint); writes a JSON and the samples.

    Raises ConfigError when there is no such model, DataError for bad data.
    """
    watch = watcher or Silent()
    config, place, out = of_run(config, watch)
    dataset = config.dataset or HELD_OUT
    problems = tasks.load(
        dataset,
        split=config.dataset_split or "heldout",
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=config.verifier,
    )
    policy, tokenizer = load(place, config.dtype, config.device)
    threads = set_threads(config.threads, policy)
    eos_ids = policy.model.generation_config.eos_token_id
    renderer = Renderer(tokenizer, config.chat_template, config.system_prompt, eos_ids)
    law = law_of(config, renderer.stop_ids)
    num = config.num_samples
    watch.banner(
        [
            ("model", place),
            ("template", renderer.describe()),
            ("data", f"{dataset}: {len(problems)} problems x {num} samples"),
            ("sampling", f"temperature {law.temperature:g}, top_p {law.top_p:g}, at most {law.max_tokens} tokens"),
        ]
    )
    sampler = HFSampler(policy.model, config.batch_size, renderer.decode, policy.mixed)
    scores = measure(problems, sampler, renderer, law, num, config.seed, watch)
    report = Report(f"{place} on {dataset}", scores, config.k)
    return store(report, config, dataset, out, threads)


def store(report: Report, config: EvalConfig, dataset: str, out: Path, threads: int) -> Report:
    """Write `<dataset>.json` (what was asked, the summary) and `<dataset>.samples.jsonl` (every text and verdict)."""
    folder = RunFolder(out)
    folder.create()
    stem = slug(dataset)
    rows = "".join(to_json(asdict(score)) + "\n" for score in report.scores)
    folder.write_text(f"{stem}.samples.jsonl", rows)
    about = {"config": json.loads(config.model_dump_json()), "environment": environment(threads)}
    path = folder.write_json(f"{stem}.json", {"summary": report.summary(), **about})
    return Report(report.name, report.scores, report.k, path)


def of_run(config: EvalConfig, watcher: Watcher) -> tuple[EvalConfig, str, Path]:
    """The configuration with a run's own answers filled in, the model's folder, and where results go.

    A run is evaluated on its eval_dataset, else on the other side of its data set; where there is no other side, that
    is said: figures on training problems are no figures.
    """
    folder = Path(config.model)
    if not (folder / "config.yaml").is_file():
        return config, config.model, Path(config.output or "evals")
    newest = checkpoint.newest(folder)
    if newest is None:
        raise ConfigError(f"run {folder} has no whole checkpoint to evaluate")
    run = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    filled: dict[str, Any] = {"dataset": run["eval_dataset"] or run["dataset"]}
    if config.dataset is None and run["eval_dataset"] is None and Path(run["dataset"]).is_file():
        watcher.note(
            f"{run['dataset']} has no held-out side: these are the run's own training problems (give --dataset)"
        )
    for name in ("chat_template", "system_prompt", "verifier", "max_completion_length", "temperature"):
        filled[name] = run.get(name)
    filled["stop_strings"] = tuple(run.get("stop_strings") or ())
    given = config.model_fields_set
    missing = {name: value for name, value in filled.items() if name not in given and value is not None}
    return config.model_copy(update=missing), str(newest), Path(config.output or folder / "eval" / newest.name)
