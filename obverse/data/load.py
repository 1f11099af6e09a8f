"""Loading of data sets: a name or a path becomes a list of problems."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from obverse.data.file_formats import kind_of
from obverse.data.readers import read_hub, read_path
from obverse.data.splits import Range, resolve
from obverse.data.synthetic import arithmetic, countdown, knights
from obverse.errors import ConfigError
from obverse.types import Problem

Generate = Callable[[str, int, int, Range | None], list[Problem]]

EMBEDDED: dict[str, Generate] = {
    "arithmetic": arithmetic.generate,
    "countdown": countdown.generate,
    "knights": knights.generate,
}
ALLOWED = {"arithmetic": arithmetic.ALLOWED, "countdown": countdown.ALLOWED, "knights": knights.ALLOWED}
NUM_PROBLEMS = 1_000  # default number of problems of an embedded task

_DIFFICULTY = re.compile("([0-9]{1,4})(?:-([0-9]{1,4}))?")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


def load_dataset(
    dataset: str,
    *,
    split: str = "train",
    num_problems: int | None = None,
    seed: int = 42,
    verifier: str | None = None,
) -> list[Problem]:
    """Return the problems of a data set.

    Args:
        dataset: An embedded task with or without difficulties (`arithmetic`, `arithmetic:2-6`), a file of rows, a
            folder of files, or a hub name `owner/name` or `owner/name:config`.
        split: train, heldout or ood for embedded tasks; train, test or heldout (the same as test) for folders and the
            hub. A file is a single split, and `split` is ignored.
        num_problems: Number of problems, the first ones; default all, NUM_PROBLEMS for an embedded task.
        seed: Seed of embedded tasks.
        verifier: A name or `file.py:function` that grades all problems in place of the rows' own verifiers.

    Errors: ConfigError for an unknown name or split, DataError for a file that is missing or has bad rows.

    Example:
        load_dataset("arithmetic:2-6", num_problems=100)
        load_dataset("gsm8k_train.jsonl")
    """
    name, _, difficulty = dataset.partition(":")
    if name in EMBEDDED:
        num_wanted = NUM_PROBLEMS if num_problems is None else num_problems
        problems = EMBEDDED[name](split, num_wanted, seed, _range(dataset, difficulty))
        return [replace(problem, verifier=verifier) for problem in problems] if verifier else problems
    if _is_path(dataset):
        return read_path(dataset, split, num_problems, verifier)
    if _HUB_NAME.fullmatch(dataset):
        return read_hub(dataset, split, num_problems, verifier)
    matches = difflib.get_close_matches(name.lower(), EMBEDDED, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}?" if matches else f"embedded are {', '.join(EMBEDDED)};"
    raise ConfigError(
        f"unknown data set {dataset!r}: {hint} a file looks like path/to/rows.jsonl (or .json, .csv, .parquet), "
        "a hub data set like owner/name"
    )


def difficulties(dataset: str, split: str) -> Range:
    """Return the lowest and the highest difficulty of an embedded task's split, as limited by `arithmetic:2-6`.

    Errors: ConfigError if the split does not have these difficulties.
    """
    name, _, difficulty = dataset.partition(":")
    return resolve(name, split, _range(dataset, difficulty), ALLOWED[name])


def _is_path(dataset: str) -> bool:
    """Return whether a name is the path of a file or folder; a path like `owner/name` only if it exists."""
    if dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or kind_of(dataset):
        return True
    try:
        return dataset != "" and Path(dataset).exists()
    except OSError:  # a name that is too long
        return False


def _range(dataset: str, text: str) -> Range | None:
    if ":" not in dataset:
        return None
    match = _DIFFICULTY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{dataset}: {text!r} is not a difficulty; write one number or two, such as arithmetic:2-6")
    return int(match[1]), int(match[2] or match[1])
