"""Deadlines and limits that do not depend on what else the machine does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from obverse.rewards import algebra_requests as algebra_questions
from obverse.rewards import get_verifier, worker_pool
from obverse.types import Problem

NUM_BUSY = 6
SOURCE = """
import subprocess, sys, time

BUSY = "import time\\nwhile time.process_time() < 0.3: pass"

def act(problem, text):
    if text == "compute":
        end = time.process_time() + 0.3
        while time.process_time() < end: pass
    if text == "child":
        subprocess.run([sys.executable, "-I", "-S", "-c", BUSY], check=True)
    if text == "sleep":
        time.sleep(0.3)
    if text == "sleep too long":
        time.sleep(30)
    return 1.0
"""
needs_counters = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waiting for a core"
)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """More busy processes than cores, until the test ends."""
    # a session of its own for each: Linux shares cores out among sessions first
    loop = [sys.executable, "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(loop, start_new_session=True) for _ in range(NUM_BUSY)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@needs_counters
def test_waiting_for_a_core_is_not_charged(tmp_path: Path, busy_machine: None) -> None:
    path = tmp_path / "act.py"
    path.write_text(SOURCE)
    verify = get_verifier(f"{path}:act", 0.6)
    problem = Problem("p", "q", answer="1")
    seconds, grades = {}, {}
    for text in ("compute", "child", "sleep", "sleep too long"):
        start = time.monotonic()
        grades[text] = verify(problem, text).reason
        seconds[text] = time.monotonic() - start
    assert grades == {
        "compute": "",
        "child": "",
        "sleep": "",
        "sleep too long": "timeout",
    }
    assert seconds["compute"] > 0.6, "the machine was not busy: nothing was shown"


def test_what_is_too_hard_is_wrong_by_the_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra_questions, "MAX_CALLS", 300_000)
    algebra_questions.ask.cache_clear()
    problem = Problem("p", "q", answer="(a+b+c+d+f+g)^{10}")
    grade = get_verifier("math")(problem, "\\boxed{(a+b+c+d+f+h)^{10}}")
    assert (grade.correct, grade.reason.partition(":")[0]) == (False, "too_hard")
    algebra_questions.ask.cache_clear()


def test_the_limit_is_the_same_number_of_calls_in_every_fresh_worker() -> None:
    """The smallest limit that lets a question through lets it through in other fresh workers, one less in none."""
    question = (("(x+1)^3", "x^3+3x^2+3x+1"),)
    pool = worker_pool.pool(algebra_questions.WORKER)

    def passes(most: int) -> bool:
        answer = pool.ask((question, most), 60.0, fresh=True)
        assert answer in ([True, ""], [False, "too_hard"])
        return answer[0]

    low, high = 0, 2_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    assert [passes(high) for _ in range(3)] == [True] * 3
    assert [passes(high - 1) for _ in range(3)] == [False] * 3
