"""A process that has imported everything forks the ranks of a run per line of its input.

    python tests/distributed/teams.py      # a job is a line of JSON, its answer one: how each rank ended

A rank does what torchrun would have it do: the same `train()` with its place in the environment. What a test wants of
it beside that is in the job: a split of the work, verdicts without a verifier, a fault at a place.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from distributed.ranks import free_port, variables

import runs
from obverse.cli.main import complaint
from obverse.errors import UserError
from obverse.runtime.callbacks import Phase, Silent
from obverse.training import collector as rollout
from obverse.training import loop as train
from obverse.training import prepared_update, rollout_phase, teacher_scores
from obverse.training import update as learn
from obverse.types import GradeResult

SECONDS = 900.0
MARK = "OBVERSE_TEST_RUN"


@dataclass(frozen=True)
class Job:
    """A run of `size` ranks; `split` says how many of every `sum(split)` pieces of work each gets.

    `fault`: {"rank": 1, "phase": "train", "after": 1, "kind": "raise"}, at the first report of the phase after so many
    steps. `poison`: {"rank": 1, "step": 2}: from there on its gradient is not finite; with "bit" a weight's bit turns.
    """

    method: str
    folder: str
    model: str
    dataset: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 1
    split: list[int] = field(default_factory=list)
    lucky: bool = True  # verdicts by the text's length: a random model solves nothing
    fault: dict[str, Any] = field(default_factory=dict)
    poison: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)  # options of one rank alone
    homes: list[str] = field(default_factory=list)  # the folder that each rank runs in
    mark: str = ""  # a value of OBVERSE_TEST_RUN by which all processes of the run are found
    seconds: float = SECONDS


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (negative for a signal; None: it was still there), what it said, when it ended,
    and when the fault began, in seconds since the start."""

    code: int | None
    err: str
    seconds: float
    pid: int
    fault: float | None = None


class Faulty(Silent):
    """Does at one place what the job says."""

    def __init__(self, job: Job, rank: int) -> None:
        self.fault = job.fault if job.fault.get("rank") == rank else {}
        self.mark, self.num_steps = Path(job.folder + ".fault"), 0

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        self.num_steps = step

    def phase(self, phase: Phase, done: int, total: int) -> None:
        if self.fault and phase == self.fault["phase"] and self.num_steps == self.fault.get("after", 0):
            kind, self.fault = self.fault["kind"], {}
            self.mark.write_text(str(time.monotonic()))
            if kind == "numbers":
                raise FloatingPointError("the model's logits are not finite")
            if kind == "raise":
                raise RuntimeError("planted in this rank")
            if kind == "hang":
                time.sleep(10**6)
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[kind])


def lucky(asked: Sequence[Any], seconds: float) -> list[GradeResult]:
    return [GradeResult.passed() if len(text) % 2 else GradeResult.failed("unlucky") for _, text in asked]


def dealing(split: Sequence[int]) -> Any:
    """A `balanced_shares` that gives rank r the pieces at its share of the places, in order."""

    def balanced_shares(costs: Sequence[float], size: int) -> list[list[int]]:
        edges = [round(len(costs) * edge / sum(split)) for edge in accumulate(split, initial=0)]
        return [list(range(*edge)) for edge in pairwise(edges)]

    return balanced_shares


def poisoned(job: Job, rank: int) -> Any:
    """A `pooled` before which this rank's gradient breaks at one step."""
    real, number = learn.reduce_over_ranks, [0]

    def pooled(learner: Any, *rest: Any) -> Any:
        number[0] += 1
        if job.poison.get("rank") == rank and number[0] >= job.poison["step"]:
            parameter = learner.optimizer.named[0][1]
            if job.poison.get("bit"):
                parameter.data.view(torch.int32)[0, 0] ^= 1
            else:
                parameter.grad = torch.full_like(parameter, torch.nan)
        return real(learner, *rest)

    return pooled


def work(job: Job, rank: int) -> int:
    """What a rank's process does; its exit code."""
    if job.split:
        rollout_phase.balanced_shares = prepared_update.balanced_shares = dealing(job.split)
        teacher_scores.balanced_shares = dealing(job.split)
    if job.lucky:
        rollout.grade_completions = lucky
    if job.poison:
        learn.reduce_over_ranks = poisoned(job, rank)
    options = {**job.options, **job.own.get(str(rank), {})}
    try:
        config = runs.config(job.method, Path(job.folder), job.model, job.dataset, **options)
        return int(train.train(config, Faulty(job, rank)).exit_code)
    except UserError as error:
        print(complaint(error), file=sys.stderr)
        return error.exit_code


def rank_process(job: Job, rank: int, port: int) -> int:
    """Fork a rank; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        error = os.open(f"{job.folder}.{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(error, 2)
        os.dup2(error, 1)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ[MARK] = job.mark
        if job.homes:
            os.chdir(job.homes[rank])
        if job.size > 1:
            os.environ.update(variables(rank, job.size, port))
        code = work(job, rank)
    except BaseException:  # noqa: BLE001 - as Python ends with any
        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def do(job: Job) -> list[dict[str, Any]]:
    """Run a job; how each rank ended."""
    port, start, mark = free_port(), time.monotonic(), Path(job.folder + ".fault")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    pids = [rank_process(job, rank, port) for rank in range(job.size)]
    ended: dict[int, tuple[int | None, float]] = {}
    while len(ended) < job.size and time.monotonic() - start < job.seconds:
        for pid in pids:
            if pid not in ended and (found := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = (os.waitstatus_to_exitcode(found[1]), time.monotonic() - start)
        time.sleep(0.02)
    for pid in pids:
        if pid not in ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ended[pid] = (None, time.monotonic() - start)
    fault = float(mark.read_text()) - start if mark.exists() else None
    return [
        {
            "code": ended[pid][0],
            "err": Path(f"{job.folder}.{rank}.err").read_text(errors="replace"),
            "seconds": ended[pid][1],
            "pid": pid,
            "fault": fault,
        }
        for rank, pid in enumerate(pids)
    ]


class Teams:
    """The other end: start it once, ask it often."""

    def __init__(self) -> None:
        tests = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"}
        environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it before it imports torch
        command = [sys.executable, "-W", "ignore", __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, job: Job) -> list[Ended]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(vars(job)), file=self.process.stdin, flush=True)
        return [Ended(**each) for each in json.loads(self.process.stdout.readline())]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(do(Job(**json.loads(line)))), flush=True)
    os._exit(0)  # there is nothing to tidy up, and it would take a while
