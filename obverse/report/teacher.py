"""What a report shows of a teacher: completions shaded by log pi_T - log pi, and the gap by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenizers import Tokenizer

from obverse.errors import DataError
from obverse.redact import flat
from obverse.report.figures import Figure
from obverse.report.load_runs import Row, RunData, checkpoints_of
from obverse.report.schemas import REMEDY
from obverse.report.svg_chart import Chart, Series

MOST_WINDOWS = 24  # points of the gap by position
FEWEST_TOKENS = 20  # of a window; one with fewer is not drawn
INCOMPLETE = "\ufffd"  # how a tokenizer shows bytes that are no whole character
POSITION_MEANING = (
    "The mean of log pi_T - log pi over the rollout tokens at each position of the completion, in nats, in the first "
    "and the last third of the run. Below 0 the policy writes tokens that the teacher finds less likely. A gap that "
    "grows along the completion shows prefixes that the teacher would not have written."
)


def gaps_of(row: Row) -> list[float]:
    """log pi_T - log pi of each token of a stored rollout that a teacher scored; [] for other rows."""
    policy, teacher = row.get("behavior"), row.get("teacher")
    if policy is None or teacher is None or row["kind"] != "rollout" or not any(teacher):
        return []
    return [of_teacher - of_policy for of_policy, of_teacher in zip(policy, teacher, strict=True)]


@dataclass
class GapSums:
    """Sums of the gap and numbers of tokens by position, of the completions of a step."""

    sums: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, gaps: Sequence[float]) -> None:
        """Add a completion."""
        missing = len(gaps) - len(self.sums)
        self.sums += [0.0] * missing
        self.counts += [0] * missing
        for position, gap in enumerate(gaps):
            self.sums[position] += gap
            self.counts[position] += 1


def by_position(steps: Mapping[int, GapSums]) -> Iterator[Figure]:
    """The mean gap by position in the first and the last third of the steps; none without scored completions."""
    numbers = [step for step, sums in steps.items() if sums.counts]
    if not numbers:
        return
    third = max(1, len(numbers) // 3)
    parts = (
        {"first third of the run": numbers[:third], "last third": numbers[-third:]}
        if len(numbers) > 1
        else {f"step {numbers[0]}": numbers}
    )
    longest = max(len(steps[step].counts) for step in numbers)
    width = -(-longest // MOST_WINDOWS)
    series = tuple(
        curve for name, part in parts.items() if (curve := _curve(name, [steps[step] for step in part], width))
    )
    if series:
        chart = Chart("position in the completion", "log pi_T - log pi, nats", series)
        yield Figure("teacher-position", "Gap to the teacher by position", POSITION_MEANING, {"": chart})


def _curve(name: str, sums: Sequence[GapSums], width: int) -> Series | None:
    """The mean gap over windows of `width` positions; None where no window has FEWEST_TOKENS tokens."""
    x, y = [], []
    for start in range(0, max(len(of_step.counts) for of_step in sums), width):
        window = slice(start, start + width)
        num = sum(sum(of_step.counts[window]) for of_step in sums)
        if num >= FEWEST_TOKENS:
            x.append(start + (width - 1) / 2)
            y.append(sum(sum(of_step.sums[window]) for of_step in sums) / num)
    return Series(name, tuple(x), tuple(y), marks=True) if x else None


def tokenizer_of(run: RunData) -> Tokenizer | None:
    """The tokenizer of the run's newest checkpoint, or of its model's folder; None where neither has one.

    Raises DataError for a file that is damaged.
    """
    folders = [*reversed(checkpoints_of(run.path)), Path(str(run.config.get("model", "")))]
    for folder in folders:
        path = folder / "tokenizer.json"
        if _exists(path):
            try:
                return Tokenizer.from_file(str(path))
            except Exception as error:  # noqa: BLE001  # the class that the library raises
                raise DataError(f"{path} is no tokenizer ({error}): {REMEDY}") from None
    return None


def _exists(path: Path) -> bool:
    """Whether the file is there; False for a name that no file can have, as of a damaged configuration."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shaded(row: Row, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`gaps`, the text of each token of a scored rollout with its gap, and `gap`, their mean, for the page.

    {} for other rows and without a tokenizer. Tokens that are parts of one character are one text, with the sum of
    their gaps.
    """
    gaps = gaps_of(row)
    if tokenizer is None or not gaps:
        return {}
    tokens: list[list[str | float]] = []
    start = end = 0  # of the tokens that were shown last: what a tokenizer writes may depend on the token before
    for index in range(len(gaps)):
        before = tokenizer.decode(row["ids"][start:end], skip_special_tokens=False)
        text = tokenizer.decode(row["ids"][start : index + 1], skip_special_tokens=False)
        if (text.endswith(INCOMPLETE) or len(text) == len(before)) and index + 1 < len(gaps):
            continue
        tokens.append([flat(text[len(before) :]), round(sum(gaps[end : index + 1]), 2)])
        start, end = end, index + 1
    return {"gaps": tokens, "gap": round(fmean(gaps), 2)}
