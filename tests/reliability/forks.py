"""A process that has imported everything forks a run per line of its input, and a run may kill itself anywhere.

    python tests/reliability/forks.py       # a job is a line of JSON, its answer one: {"code": ..., "points": [...]}

A point is a report of the loop (a phase or a step), or a call that writes while a checkpoint is being saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from reliability.faults import Breaker

import runs
from obverse.errors import UserError
from obverse.runtime.callbacks import Phase, Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train


class Points(Silent, Breaker):
    """Counts a run's points; at number `at` the process is killed. `kinds` has what each was, while nobody kills."""

    def __init__(self, at: int) -> None:
        Breaker.__init__(self, "kill" if at else "none", at)
        self.kinds: list[str] = []
        self.is_saving = False

    def note(self, removes: bool | str = False) -> None:
        if isinstance(removes, str) or not self.is_saving:  # a line for the user, or no call of a save
            return
        self.point("save")

    def point(self, kind: str) -> None:
        self.kinds.append(kind)
        Breaker.note(self)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        self.is_saving = phase == "save" and done == 0
        self.point(phase)

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        self.point(f"step {step}")


def do(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a child; its exit code (negative for a signal) and, where it lived, its points."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 70
        try:
            if job["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
            points = Points(job["at"])
            points.install()
            train(
                runs.config(job["method"], Path(job["folder"]), job["model"], job["dataset"], **job["options"]), points
            )
            with os.fdopen(write, "w") as pipe:
                json.dump(points.kinds, pipe)
            code = 0
        except UserError as error:
            print(error, file=sys.stderr)
            code = error.exit_code
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "points": json.loads(told) if told else []}


def serve() -> None:
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), flush=True)


class Forks:
    """The other end: start it once, ask it often."""

    def __init__(self) -> None:
        tests = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"}
        command = [sys.executable, "-W", "ignore", __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, folder: Path, model: Path, dataset: Path, method: str, at: int = 0, limit: int = 0, **options: Any
    ) -> dict[str, Any]:
        """One run; with `at` it is killed at that point, if it has so many; no file grows over `limit` bytes."""
        job = {"folder": str(folder), "model": str(model), "dataset": str(dataset), "method": method, "limit": limit}
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(job | {"at": at, "options": options}), file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def digest(folder: Path, step: int) -> dict[str, str]:
    """sha256 of all that must not differ between equal runs: every file of the checkpoint, the rows, the completions.

    What a clock measured is left out, and so are the size and sha256 of metrics.jsonl, which has seconds in it, and
    the run's own number in the manifest.
    """
    place = folder / f"checkpoint-{step}"
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (*place.rglob("*"), *(folder / "samples").glob("*.jsonl"))
        if path.is_file() and path.name not in ("manifest.json", "state.json")
    }
    state = json.loads((place / "state.json").read_text())
    del state["metrics"]
    found |= {f"state {name}": json.dumps(value).encode() for name, value in state.items()}
    found["metrics"] = json.dumps(runs.figures(folder)).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def steps(folder: Path) -> list[int]:
    """The steps of metrics.jsonl, in its order."""
    return [row["step"] for row in RunFolder(folder).metrics()]


KILLED = -signal.SIGKILL

if __name__ == "__main__":
    serve()
