"""U1: a long run takes no more memory, files or processes at its end than at its beginning."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

import runs
from obverse.runtime.callbacks import Silent
from obverse.training.loop import train

SECONDS = float(os.environ.get("OBVERSE_SOAK_SECONDS", "600"))
MAX_SLOPE = 1.0  # MB a minute
NUM_PARTS = 12  # of what comes then: the medians of these are compared, for a step takes and gives back megabytes
SETTLED = 0.25  # of the run, in which caches fill, and
NUM_SETTLING = 300  # steps at least: on a busy machine a quarter of the time is not enough of them


class Usage(Silent):
    """After every step: seconds, resident MB, open files, children."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.rows: list[tuple[float, float, int, int]] = []

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        files = len(os.listdir("/proc/self/fd"))
        self.rows.append((time.monotonic() - self.begin, resident, files, len(tasks)))


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares rise of y over x."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def test_a_slope_is_a_slope() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)


@pytest.mark.release
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_u1_memory_files_and_children_stay_as_they_are(tmp_path: Path) -> None:
    """RL on the embedded model with a grader in worker processes, a checkpoint every 20 steps and an evaluation."""
    reward = tmp_path / "reward.py"
    reward.write_text("def lucky(problem, text):\n    return len(text) % 2\n")
    options = {"max_steps": 10**6, "budget": round(SECONDS), "budget_in": "seconds", "save_steps": 20, "eval_steps": 50}
    options |= {"eval_dataset": "arithmetic:1", "num_eval_problems": 4, "num_generations_eval": 1}
    watch = Usage()
    given = {**options, "verifier": f"{reward}:lucky", "prompts_per_step": 8}
    train(runs.config("grpo", tmp_path / "run", "embedded", "arithmetic:1-3", **given), watch)
    late = sum(row[0] <= SETTLED * watch.rows[-1][0] for row in watch.rows)
    settled = watch.rows[max(late, NUM_SETTLING) :]
    parts = [settled[len(settled) * n // NUM_PARTS : len(settled) * (n + 1) // NUM_PARTS] for n in range(NUM_PARTS)]
    assert all(len(part) > 5 for part in parts), f"only {len(watch.rows)} steps: give it more OBVERSE_SOAK_SECONDS"
    middle = [tuple(statistics.median(column) for column in list(zip(*part, strict=True))[:2]) for part in parts]
    rise = slope([(seconds / 60, resident) for seconds, resident in middle])
    sizes = " ".join(f"{resident:.0f}" for _, resident in middle)
    minutes = (settled[-1][0] - settled[0][0]) / 60
    counts = f"{settled[0][2]} files, {settled[0][3]} children"
    told = (
        f"{len(watch.rows)} steps, {watch.rows[-1][0]:.0f} s, {rise:+.2f} MB a minute over the last {minutes:.1f} min"
    )
    print(f"{told}: {sizes} MB; {counts}")
    assert rise < MAX_SLOPE
    assert {files for _, _, files, _ in settled} == {settled[0][2]}
    assert {children for _, _, _, children in settled} == {settled[0][3]}
