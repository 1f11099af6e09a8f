"""Stored samples graded again, by another verifier or by a newer version of theirs. No model is needed."""

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
from obverse.evaluation.result_file import figures, grader, read
from obverse.evaluation.sample_and_score import score_of
from obverse.evaluation.sample_store import ASKED, PROBLEMS, RESULT, ROOM, SAMPLES, Graded, Store
from obverse.python_files import read_once
from obverse.rewards import extract_answer, get_verifier, grade_completions
from obverse.rewards.versions import grader_version
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import slug
from obverse.types import GradeResult, Problem, to_json

BATCH = 4096  # samples graded at a time
SAID = {True: "right", False: "wrong", None: "no verdict"}


@read_once()
def regrade(config: RegradeConfig, watcher: Watcher | None = None) -> list[Report]:
    """Grade every result in a folder, or in the folders inside it, again; what was there stays.

    Writes `regraded[-VERIFIER].json`, as result.json, and the samples with their new verdicts beside it. Raises
    DataError where there is no whole result, ConfigError for an unknown verifier.
    """
    root = config.regrade
    folders = [root] if (root / ASKED).is_file() else sorted(path.parent for path in root.glob(f"*/{ASKED}"))
    if not folders:
        raise DataError(
            f"{root}: no samples of obverse eval here (a folder with {ASKED}, or one that holds such folders)"
        )
    if config.verifier is not None:
        get_verifier(config.verifier)  # an unknown one is told before anything is read
    reports = []
    for folder in folders:
        with Store(folder).writing():
            reports.append(regrade_one(folder, config, watcher or Silent()))
    return reports


def regrade_one(folder: Path, config: RegradeConfig, watch: Watcher) -> Report:
    """The same for one folder of samples."""
    if not (folder / RESULT).is_file():
        raise DataError(f"{folder}: this evaluation has not ended; the command that began it goes on where it was")
    store, result = Store(folder), read(folder / RESULT)
    problems = store.problems()
    if {each.id for each in problems.values()} != {row["problem"] for row in result["problems"]}:
        raise DamageError(
            f"{folder / PROBLEMS} has other problems than {folder / RESULT}: the command that began it puts that right"
        )
    if config.verifier is not None:
        problems = {name: replace(problem, verifier=config.verifier) for name, problem in problems.items()}
    ks = tuple(config.k or result["k"])
    if max(ks) > result["num_samples"]:
        raise ConfigError(f"{folder}: {result['num_samples']} samples are too few for k = {max(ks)}")
    stem = "regraded" + (f"-{slug(config.verifier)}" if config.verifier else "")
    with storage_errors(folder, ROOM):
        graded, changed, num = judged(store, result, problems, folder / f"{stem}.samples.jsonl.gz", watch)
    absent = [name for name in problems if any((name, number) not in graded for number in result["seeds"])]
    if absent or any(len(samples) != result["num_samples"] for samples in graded.values()):
        raise DamageError(
            f"{folder / SAMPLES}: samples of {folder / RESULT} are missing; the command that drew them draws them again"
        )
    scores = [
        score_of(problem, graded[name, number], ks, number)
        for name, problem in problems.items()
        for number in result["seeds"]
    ]
    notes = (f"of {num:,} verdicts {changed.total():,} changed" + listed(changed),)
    name = f"{result['name']} graded again" + (f" by {config.verifier}" if config.verifier else "")
    report = Report(name, scores, ks, notes=notes)
    update = {"k": list(ks), "grader": grader(config.verifier, list(problems.values())), "changed": dict(changed)}
    path = store.write_json(f"{stem}.json", {**result, **update, "notes": list(notes), **figures(report)})
    return replace(report, path=path)


Judged = dict[tuple[str, int], list[Graded]]


def judged(
    store: Store, result: dict[str, Any], problems: dict[str, Problem], target: Path, watch: Watcher
) -> tuple[Judged, Counter[str], int]:
    """Grade the samples of a result and write them to `target`, whole or not at all.

    Returns them by problem and evaluation seed, how many verdicts changed from what to what, and how many there are.
    """
    graded: Judged = {}
    changed: Counter[str] = Counter()
    total, done = len(problems) * result["num_samples"] * len(result["seeds"]), 0
    part = target.with_name(f".{target.name}.part")
    try:
        with gzip.open(part, "wt", encoding="utf-8", errors="surrogatepass") as file:
            stream = wanted(store, result, problems)
            while rows := list(islice(stream, BATCH)):
                grades = grade_completions([(problems[row["digest"]], row["text"]) for row in rows])
                for row, grade in zip(rows, grades, strict=True):
                    new = with_verdict(row, grade, problems[row["digest"]], changed)
                    file.write(to_json(new) + "\n")
                    graded.setdefault((row["digest"], row["round"]), []).append(Graded.read(new))
                done += len(rows)
                watch.phase("grade", done, total)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return graded, changed, done


def with_verdict(
    row: Mapping[str, Any], grade: GradeResult | None, problem: Problem, changed: Counter[str]
) -> dict[str, Any]:
    """A sample's row with another verdict; counts in `changed` what it was and is, if that is another."""
    if grade is None:
        raise ConfigError(f"problem {problem.id!r} has no answer to check: give --verifier")
    if row["correct"] is not grade.correct:
        changed[f"{SAID[row['correct']]} -> {SAID[grade.correct]}"] += 1
    now = {"correct": grade.correct, "reward": grade.reward, "reason": grade.reason}
    now |= {
        "formatted": grade.formatted,
        "answer": extract_answer(problem, row["text"]),
        "grader": grader_version(problem),
    }
    return {**row, **now}


def renew(store: Store, problems: Mapping[str, Problem], watch: Watcher) -> str:
    """Grade again the stored samples of problems, by digest, whose verdicts are of another version of the verifier.

    Also of another answer's tolerance, or of whatever else of a row a verifier may read. All verdicts of the problems
    are of one version then. Returns what was done in a sentence, "" where nothing was.
    """
    graders = {name: grader_version(problem) for name, problem in problems.items()}

    def is_old(row: Mapping[str, Any]) -> bool:
        return row["digest"] in graders and row.get("grader") != graders[row["digest"]]

    total, done = sum(map(is_old, store.rows())), 0
    if not total:
        return ""
    changed: Counter[str] = Counter()

    def batches() -> Iterator[list[dict[str, Any]]]:
        nonlocal done
        stream = store.rows()
        while rows := list(islice(stream, BATCH)):
            old = [number for number, row in enumerate(rows) if is_old(row)]
            grades = grade_completions([(problems[rows[number]["digest"]], rows[number]["text"]) for number in old])
            for number, grade in zip(old, grades, strict=True):
                rows[number] = with_verdict(rows[number], grade, problems[rows[number]["digest"]], changed)
            done += len(old)
            watch.phase("grade", done, total)
            yield rows

    store.rewrite(batches())
    return (
        f"{total:,} stored samples were graded by another version of the verifier, or of their rows, and are graded "
        f"again: {changed.total():,} verdicts changed{listed(changed)}"
    )


def wanted(store: Store, result: dict[str, Any], problems: dict[str, Problem]) -> Iterator[dict[str, Any]]:
    """The stored samples that the result is made of; others may be left of an evaluation of more, or of other rows."""
    seen: set[tuple[str, int]] = set()
    for row in store.rows():
        key = (row["digest"], row["seed"])
        is_asked = (
            row["digest"] in problems and row["round"] in result["seeds"] and row["number"] < result["num_samples"]
        )
        if is_asked and key not in seen:
            seen.add(key)
            yield row


def listed(changed: Counter[str]) -> str:
    return f" ({', '.join(f'{count:,} {what}' for what, count in changed.most_common())})" if changed else ""
