"""Grading stored samples again, by another verifier or by a newer version of the same one. No model is needed."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from obverse.config.eval import RegradeConfig
from obverse.errors import ConfigError, DamageError, DataError
from obverse.evaluation.report import Report
from obverse.evaluation.result_file import grader_record, metrics_of, read
from obverse.evaluation.sample_and_score import score_of
from obverse.evaluation.sample_store import MAKE_SPACE, PROBLEMS, REQUEST, RESULT, SAMPLES, GradedSample, SampleStore
from obverse.python_files import read_once
from obverse.rewards import extract_answer, get_verifier, grade_completions
from obverse.rewards.versions import grader_version
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import slug
from obverse.types import GradeResult, Problem, to_json

BATCH = 4096  # samples graded at a time
GRADE_NAMES = {True: "right", False: "wrong", None: "no verdict"}


@read_once()
def regrade(config: RegradeConfig, watcher: Watcher | None = None) -> list[Report]:
    """Grade every result in a folder, or in the folders inside it, again; existing files are kept.

    Writes `regraded[-VERIFIER].json`, in the format of result.json, and the samples with their new grades next to it.
    Raises DataError without a complete result, ConfigError for an unknown verifier.
    """
    root = config.regrade
    folders = [root] if (root / REQUEST).is_file() else sorted(path.parent for path in root.glob(f"*/{REQUEST}"))
    if not folders:
        raise DataError(
            f"{root}: no samples of obverse eval here (a folder with {REQUEST}, or one that holds such folders)"
        )
    if config.verifier is not None:
        get_verifier(config.verifier)  # raises for an unknown one before anything is read
    reports = []
    for folder in folders:
        with SampleStore(folder).writing():
            reports.append(regrade_one(folder, config, watcher or Silent()))
    return reports


def regrade_one(folder: Path, config: RegradeConfig, watch: Watcher) -> Report:
    """Grade the samples of one folder again; see `regrade`."""
    if not (folder / RESULT).is_file():
        raise DataError(f"{folder}: this evaluation is unfinished; repeat its command to continue")
    store, result = SampleStore(folder), read(folder / RESULT)
    problems = store.problems()
    if {problem.id for problem in problems.values()} != {row["problem"] for row in result["problems"]}:
        raise DamageError(
            f"{folder / PROBLEMS} has other problems than {folder / RESULT}: the command that began it puts that right"
        )
    if config.verifier is not None:
        problems = {name: replace(problem, verifier=config.verifier) for name, problem in problems.items()}
    ks = tuple(config.k or result["k"])
    if max(ks) > result["num_samples"]:
        raise ConfigError(f"{folder}: {result['num_samples']} samples are too few for k = {max(ks)}")
    stem = "regraded" + (f"-{slug(config.verifier)}" if config.verifier else "")
    with storage_errors(folder, MAKE_SPACE):
        graded, changed, num_samples = regrade_samples(
            store, result, problems, folder / f"{stem}.samples.jsonl.gz", watch
        )
    missing = [name for name in problems if any((name, number) not in graded for number in result["seeds"])]
    if missing or any(len(samples) != result["num_samples"] for samples in graded.values()):
        raise DamageError(
            f"{folder / SAMPLES}: samples of {folder / RESULT} are missing; the command that drew them draws them again"
        )
    scores = [
        score_of(problem, graded[name, number], ks, number)
        for name, problem in problems.items()
        for number in result["seeds"]
    ]
    notes = (f"of {num_samples:,} verdicts {changed.total():,} changed" + change_list(changed),)
    name = f"{result['name']} graded again" + (f" by {config.verifier}" if config.verifier else "")
    report = Report(name, scores, ks, notes=notes)
    update = {
        "k": list(ks),
        "grader": grader_record(config.verifier, list(problems.values())),
        "changed": dict(changed),
    }
    path = store.write_json(f"{stem}.json", {**result, **update, "notes": list(notes), **metrics_of(report)})
    return replace(report, path=path)


SamplesByProblem = dict[tuple[str, int], list[GradedSample]]


def regrade_samples(
    store: SampleStore, result: dict[str, Any], problems: dict[str, Problem], target: Path, watch: Watcher
) -> tuple[SamplesByProblem, Counter[str], int]:
    """Grade the samples of a result and write them to `target` atomically.

    Returns the samples by (problem digest, evaluation seed), the changes of grades with their counts, and the number of
    samples.
    """
    graded: SamplesByProblem = {}
    changed: Counter[str] = Counter()
    total, done = len(problems) * result["num_samples"] * len(result["seeds"]), 0
    part = target.with_name(f".{target.name}.part")
    try:
        with gzip.open(part, "wt", encoding="utf-8", errors="surrogatepass") as file:
            stream = samples_of_result(store, result, problems)
            while rows := list(islice(stream, BATCH)):
                grades = grade_completions([(problems[row["digest"]], row["text"]) for row in rows])
                for row, grade in zip(rows, grades, strict=True):
                    new_row = with_grade(row, grade, problems[row["digest"]], changed)
                    file.write(to_json(new_row) + "\n")
                    graded.setdefault((row["digest"], row["round"]), []).append(GradedSample.read(new_row))
                done += len(rows)
                watch.phase("grade", done, total)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return graded, changed, done


def with_grade(
    row: Mapping[str, Any], grade: GradeResult | None, problem: Problem, changed: Counter[str]
) -> dict[str, Any]:
    """Return a sample's row with another grade; counts the change in `changed` if there is one."""
    if grade is None:
        raise ConfigError(f"problem {problem.id!r} has no answer to check: give --verifier")
    if row["correct"] is not grade.correct:
        changed[f"{GRADE_NAMES[row['correct']]} -> {GRADE_NAMES[grade.correct]}"] += 1
    grade_fields = {"correct": grade.correct, "reward": grade.reward, "reason": grade.reason}
    grade_fields |= {
        "formatted": grade.formatted,
        "answer": extract_answer(problem, row["text"]),
        "grader": grader_version(problem),
    }
    return {**row, **grade_fields}


def refresh_grades(store: SampleStore, problems: Mapping[str, Problem], watch: Watcher) -> str:
    """Grade stored samples again whose grades are of another version of the verifier or of the problem's row.

    `problems` are by digest. Afterwards all grades of the problems are of one version. Returns a note, "" if nothing
    was to do.
    """
    graders = {name: grader_version(problem) for name, problem in problems.items()}

    def is_outdated(row: Mapping[str, Any]) -> bool:
        return row["digest"] in graders and row.get("grader") != graders[row["digest"]]

    total, done = sum(map(is_outdated, store.rows())), 0
    if not total:
        return ""
    changed: Counter[str] = Counter()

    def batches() -> Iterator[list[dict[str, Any]]]:
        nonlocal done
        stream = store.rows()
        while rows := list(islice(stream, BATCH)):
            outdated = [number for number, row in enumerate(rows) if is_outdated(row)]
            grades = grade_completions(
                [(problems[rows[number]["digest"]], rows[number]["text"]) for number in outdated]
            )
            for number, grade in zip(outdated, grades, strict=True):
                rows[number] = with_grade(rows[number], grade, problems[rows[number]["digest"]], changed)
            done += len(outdated)
            watch.phase("grade", done, total)
            yield rows

    store.rewrite(batches())
    return (
        f"{total:,} stored samples were graded by another version of the verifier, or of their rows, and are graded "
        f"again: {changed.total():,} verdicts changed{change_list(changed)}"
    )


def samples_of_result(
    store: SampleStore, result: dict[str, Any], problems: dict[str, Problem]
) -> Iterator[dict[str, Any]]:
    """Yield the stored samples that belong to a result; the folder may have more, of other problems or seeds."""
    seen: set[tuple[str, int]] = set()
    for row in store.rows():
        key = (row["digest"], row["seed"])
        belongs_to_result = (
            row["digest"] in problems and row["round"] in result["seeds"] and row["number"] < result["num_samples"]
        )
        if belongs_to_result and key not in seen:
            seen.add(key)
            yield row


def change_list(changed: Counter[str]) -> str:
    return f" ({', '.join(f'{count:,} {change}' for change, count in changed.most_common())})" if changed else ""
