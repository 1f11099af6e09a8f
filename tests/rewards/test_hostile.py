"""Hostile and misleading answers: the expected verdict on each, fast, from anywhere, and nothing is ever run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rewards.hostile import CANARY, COUNTDOWN, MATH

from obverse.rewards import get_verifier, start_workers
from obverse.types import GradeResult, Problem

SECONDS = 1.5  # the bar is 1.0 on a machine that does nothing else; tests share theirs
CASES = [(Problem(f"{name}-{n}", "q", gold), text, right)
         for name, rows in MATH.items() for n, (gold, text, right) in enumerate(rows)]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    start_workers("math")


def timed(problem: Problem, text: str) -> tuple[GradeResult, float]:
    start = time.perf_counter()
    return get_verifier("math")(problem, text), time.perf_counter() - start


def check(grade: GradeResult, expected: bool | None) -> None:
    assert grade.correct is expected if expected is not None else not grade.correct, grade
    assert grade.reason.isascii() and len(grade.reason) <= 400
    assert not Path(CANARY).exists()


@pytest.mark.parametrize(("problem", "text", "expected"), CASES, ids=[problem.id for problem, _, _ in CASES])
def test_math(problem: Problem, text: str, expected: bool | None) -> None:
    grade, seconds = timed(problem, text)
    check(grade, expected)
    assert seconds < SECONDS


@pytest.mark.parametrize(("numbers", "target", "text", "expected"), COUNTDOWN)
def test_countdown(numbers: list[int], target: int, text: str, expected: bool | None) -> None:
    start = time.perf_counter()
    check(get_verifier("countdown")(Problem("p", "q", {"numbers": numbers, "target": target}), text), expected)
    assert time.perf_counter() - start < 0.5


def test_from_threads_and_from_asyncio() -> None:
    some = CASES[::3]
    with ThreadPoolExecutor(4) as threads:
        for grade, (_, _, expected) in zip(threads.map(lambda case: timed(*case[:2])[0], some), some, strict=True):
            check(grade, expected)

    async def together() -> list[GradeResult]:
        found = await asyncio.gather(*(asyncio.to_thread(timed, *case[:2]) for case in some))
        return [grade for grade, _ in found]

    for grade, (_, _, expected) in zip(asyncio.run(together()), some, strict=True):
        check(grade, expected)


@pytest.mark.slow
def test_in_two_processes_at_once(tmp_path: Path) -> None:
    rows = [{"prediction": text, "answer": problem.answer} for problem, text, _ in CASES[1::4]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [sys.executable, "-m", "obverse", "grade", "math", str(file)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ, text=True) for _ in range(2)]
    for process in both:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        grades = [json.loads(line)["verdict"] for line in printed.splitlines()]
        for grade, (_, _, expected) in zip(grades, CASES[1::4], strict=True):
            assert grade == str(expected).lower() if expected is not None else grade != "true"
