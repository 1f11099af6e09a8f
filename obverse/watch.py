"""How a run tells what it is doing: the loop calls a watcher, a console or a test implements one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

Phase = Literal["load", "sample", "grade", "train", "eval", "save"]
Metrics = Mapping[str, float]


class Watcher(Protocol):
    """What the loop reports, in the order of a run: banner, then phases and steps, notes at any time."""

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        """What is about to run: ("model", "..."), ("batch", "32 problems x 8 completions = 256 ...")."""

    def phase(self, phase: Phase, done: int, total: int) -> None:
        """`done` of `total` units of the current phase (completions, micro batches, problems)."""

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        """A finished step with its row of metrics.jsonl."""

    def note(self, text: str) -> None:
        """One line for the user: a warning, a checkpoint's path, what was skipped."""


class Silent:
    """Watches nothing; the default in Python."""

    def banner(self, facts: Sequence[tuple[str, str]]) -> None: ...

    def phase(self, phase: Phase, done: int, total: int) -> None: ...

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None: ...

    def note(self, text: str) -> None: ...


# Variables of the environment that hold a secret, by their name, and what a secret looks like by itself.
_SECRET_NAME = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST_SECRET = 12  # characters: a shorter one may be a word


def masked(text: str) -> str:
    """Text without secrets: values of the environment that are named as one, known forms, passwords in addresses.

    Example:
        masked("https://me:hunter2@host/") == "https://***@host/"
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _SECRET.sub("***", text)


def flat(value: Any) -> str:
    """Text that came from outside, safe to print: without secrets, and control characters are shown as \\xNN."""
    text = masked(str(value))
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
