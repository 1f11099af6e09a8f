"""Worker processes: what hangs or dies there ends there, whoever asks; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from obverse.errors import ConfigError
from obverse.rewards import get_verifier, worker_pool
from obverse.rewards.python_file import code_of
from obverse.types import GradeResult, Problem

SOURCE = """
import ctypes, os, sys, time

def act(problem, text):
    if text == "hang":
        while True: pass
    if text == "sleep":
        time.sleep(60)
    if text == "exit":
        os._exit(0)
    if text == "leave":
        sys.exit(3)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "raise":
        return 1 / 0
    if text == "nan":
        return float("nan")
    if text == "print":
        print("x" * 100_000)
    if text == "pid":
        return float(os.getpid())
    return text == problem.answer
"""
PROBLEM = Problem("p", "q", answer="right", meta={"when": {1, 2}, "raw": b"\\x00"})


@pytest.fixture
def act(tmp_path: Path):
    path = tmp_path / "act.py"
    path.write_text(SOURCE)
    return get_verifier(f"{path}:act", 0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hang", "timeout"),
        ("sleep", "timeout"),
        ("exit", "crash"),
        ("leave", "crash"),
        ("segfault", "crash"),
        ("raise", "raised: ZeroDivisionError: division by zero"),
        ("nan", "unusable: verifier "),
    ],
)
def test_a_function_that_fails_is_an_error_with_its_reason_and_the_next_call_works(act, text, reason):
    start = time.perf_counter()
    grade = act(PROBLEM, text)
    assert (grade.correct, grade.reward) == (None, 0.0)
    assert grade.reason.startswith(reason)
    assert time.perf_counter() - start < 3
    assert act(PROBLEM, "right") == GradeResult.passed()
    assert act(PROBLEM, "other").correct is False


def test_what_it_prints_is_not_in_the_way(act, capfd):
    assert act(PROBLEM, "print").correct is False
    assert capfd.readouterr().out == ""


def test_a_worker_is_used_again_and_replaced_when_it_is_old(act, monkeypatch):
    pid = act(PROBLEM, "pid").reward
    assert act(PROBLEM, "pid").reward == pid != os.getpid()
    monkeypatch.setattr(worker_pool, "MAX_TASKS", 1)
    act(PROBLEM, "right")
    assert act(PROBLEM, "pid").reward != pid


def test_a_worker_that_died_while_it_waited_is_nobodys_answer(act):
    pid = int(act(PROBLEM, "pid").reward)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert act(PROBLEM, "right").correct


def test_when_the_process_that_forks_is_killed_another_takes_its_place(act):
    act(PROBLEM, "right")
    worker_pool._fork_servers[0].process.kill()
    worker_pool._fork_servers[0].process.wait()
    found = [act(PROBLEM, "right") for _ in range(2)]
    assert found[1].correct  # the first may be lost with it


def test_threads_share_the_workers(act):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: act(PROBLEM, "right" if number % 2 else "raise"), range(40)))
    assert [grade.correct for grade in found] == [None, True] * 20


def test_a_fork_of_the_process_has_workers_of_its_own(act):
    mine = act(PROBLEM, "pid").reward
    child = os.fork()
    if child == 0:
        os._exit(0 if act(PROBLEM, "pid").reward not in (mine, 0.0) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert act(PROBLEM, "pid").reward == mine


@pytest.mark.parametrize("children", ["", "ctypes.CDLL(None).fork() or (time.sleep(15), os._exit(0))\n"])
def test_no_worker_outlives_its_parent(tmp_path, children):
    """Not even where a child of the parent, forked behind Python's back, still holds the parent's files."""
    (tmp_path / "act.py").write_text(SOURCE)
    code = (
        "import ctypes, os, sys, time\n"
        "from obverse.types import Problem\n"
        "from obverse.rewards import get_verifier\n"
        "act = get_verifier(sys.argv[1] + ':act', 60)\n"
        "problem = Problem('p', 'q', answer='right')\n"
        "print(int(act(problem, 'pid').reward), flush=True)\n"
        f"{children}act(problem, 'hang')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "act.py")], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)  # in 10 seconds, the child holds out for 15


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nothing_is_started_before_it_is_needed():
    code = (
        "from obverse.types import Problem\n"
        "from obverse.rewards import grade_completion, worker_pool\n"
        "problem = Problem('p', 'q', answer='1,080', verifier='math')\n"
        "assert grade_completion(problem, '#### 1080').correct\n"
        "assert not grade_completion(problem, 'The answer is 7.').correct\n"
        "assert not worker_pool._fork_servers\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_file_that_ends_its_process_is_refused(tmp_path):
    (tmp_path / "ends.py").write_text("import os\nos._exit(0)\n")
    with pytest.raises(ConfigError, match="cannot be loaded: crash"):
        get_verifier(f"{tmp_path / 'ends.py'}:fn")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"fails\.py.*ZeroDivisionError"):
        get_verifier(f"{tmp_path / 'fails.py'}:fn")


def test_workers_hold_to_their_limits(tmp_path):
    kind = worker_pool.WorkerSpec("obverse.rewards.python_file", memory=2**28, files=32)
    (tmp_path / "big.py").write_text("def fn(problem, text):\n    return float(len(bytearray(2**29)))\n")
    code = code_of(f"{tmp_path / 'big.py'}:fn")
    source = (code.module, "fn", "big.py:fn")
    correct, reward, reason, _ = worker_pool.pool(kind).ask((source, PROBLEM, ""), 5.0, before=(code, *source[1:]))
    assert (correct, reward, reason) == (None, 0.0, "raised: MemoryError: ")
