"""`make bench`: obverse and its peers on the same work, alternating A B A B; medians, ratios, a table and JSON.

    python -m bench.run                 # every case that this machine can do
    python -m bench.run B --pairs 5     # one case

Each program is a worker process with its model; the driver requests a step from one, then from the other, so that other
load on the machine affects both. The first step of each is not counted. The ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.cases import CASES, Case
from bench.machine import describe
from bench.material import HOME, model_folder, problem_file
from bench.table import write_table

RESULTS = Path(__file__).parent / "results"
MEMORY_STEPS = 2


class Worker:
    """The driver's end of a worker process."""

    def __init__(self, side: str, case: Case, device: str, dtype: str, threads: int) -> None:
        HOME.mkdir(parents=True, exist_ok=True)
        self.log = HOME / f"{case.name}-{side.replace(':', '-')}.log"
        case_text = json.dumps(case.plain())
        command = [sys.executable, "-m", "bench.worker", side, case_text, "--device", device, "--dtype", dtype]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )
        self.facts = self._read()

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for the reply."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended; the end of its log:\n{self.log.read_text()[-3000:]}")
        row: dict[str, Any] = json.loads(line)
        return row


def measure(case: Case, peers: tuple[str, ...], pairs: int, device: str, dtype: str, threads: int) -> dict[str, Any]:
    """One case: obverse against each peer in turn, pair by pair."""
    model_folder(case), problem_file(case)  # created before the measurement
    names = {peer: peer if peer == "generate" else f"trl:{peer}" for peer in peers}
    ours = Worker("obverse", case, device, dtype, threads)
    ours.ask("step")
    sides: dict[str, Any] = {"obverse": {"facts": ours.facts, "rows": []}}
    do = "memory" if case.is_long else "step"
    ratios: dict[str, Any] = {}
    for peer, side in names.items():
        theirs = Worker(side, case, device, dtype, threads)
        theirs.ask("step")
        rows = []
        for number in range(pairs):
            rows.append((ours.ask(do), theirs.ask(do)))
            print(case.name, number, *(f"{row['seconds']['step']:.2f}" for row in rows[-1]), peer, flush=True)
        sides["obverse"]["rows"] += [pair[0] for pair in rows]
        sides[side] = {"facts": theirs.facts, "rows": [pair[1] for pair in rows]}
        sides[side]["peak"] = peak(theirs, sides[side]["rows"])
        theirs.end()
        ratios[side] = compare(rows)
    if not names:
        sides["obverse"]["rows"] = [ours.ask(do) for _ in range(pairs)]
    sides["obverse"]["peak"] = peak(ours, sides["obverse"]["rows"])
    rate = ours.ask("rate")["rate"]
    ours.end()
    for side, ratio in ratios.items():
        ratio["memory"] = sides[side]["peak"] / sides["obverse"]["peak"]
    for side in sides.values():
        side |= summary(side["rows"])
    return {"case": case.plain(), "sides": sides, "ratios": ratios, "rate": rate}


def difference(case: Case) -> dict[str, Any] | None:
    """The difference of the two programs' gradients of one batch, by bench.check; None without TRL."""
    if not any(peer in ("fast", "lean", "default") for peer in case.peers) or find_spec("trl") is None:
        return None
    command = [sys.executable, "-W", "ignore", "-m", "bench.check", case.name]
    completed = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"}
    )
    if completed.returncode:
        raise SystemExit(f"bench.check {case.name} failed:\n{completed.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def peak(worker: Worker, rows: list[dict[str, Any]]) -> float:
    """The peak memory of a step in bytes, from the rows or from additional steps if the rows have none."""
    measured = [row for row in rows if "peak" in row] or [worker.ask("memory") for _ in range(MEMORY_STEPS)]
    return float(median(row["peak"] for row in measured))


def compare(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Ratios of a peer to obverse: medians over pairs, with the smallest and the largest."""
    step = [peer_row["seconds"]["step"] / obverse_row["seconds"]["step"] for obverse_row, peer_row in rows]
    pace = [tokens_per_second(obverse_row) / tokens_per_second(peer_row) for obverse_row, peer_row in rows]
    return {"step": median(step), "tokens_per_second": median(pace), "step_range": [min(step), max(step)]}


def tokens_per_second(row: dict[str, Any]) -> float:
    """Generated tokens per second of the whole step; trained ones where none are generated."""
    return float((row["generated"] or row["trained"]) / row["seconds"]["step"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a side's rows; `train` of a peer is the step without its other phases."""
    for row in rows:
        seconds = row["seconds"]
        other_phases = sum(value for phase, value in seconds.items() if phase in ("sample", "grade"))
        seconds.setdefault("train", seconds["step"] - other_phases)
    phases = rows[0]["seconds"]
    return {
        "seconds": {phase: median(row["seconds"][phase] for row in rows) for phase in phases},
        "generated": median(row["generated"] for row in rows),
        "trained": median(row["trained"] for row in rows),
        "tokens_per_second": median(map(tokens_per_second, rows)),
    }


def wanted(names: list[str], device: str) -> list[Case]:
    """The named cases, or all that the device can do."""
    if names:
        return [CASES[name] for name in names]
    return [case for case in CASES.values() if device != "cpu" or not case.needs_cuda]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--pairs", type=int, help="pairs of steps per peer; the case's own number otherwise")
    parser.add_argument("--peers", help="only these, with commas; 'none' for obverse alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float32 on a CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON and the table go")
    arguments = parser.parse_args()
    dtype = arguments.dtype or ("float32" if arguments.device == "cpu" else "bfloat16")
    machine = describe(arguments.device)
    print(machine, flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for case in wanted(arguments.cases, arguments.device):
        peers = case.peers
        if arguments.peers is not None:
            peers = tuple(peer for peer in peers if peer in arguments.peers.split(","))
        if find_spec("trl") is None:
            peers = tuple(peer for peer in peers if peer == "generate")
        result = measure(case, peers, arguments.pairs or case.pairs, arguments.device, dtype, arguments.threads)
        result |= {
            "check": None if arguments.device != "cpu" else difference(case),
            "machine": machine,
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "dtype": dtype,
        }
        path = arguments.results / f"{case.name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(write_table(arguments.results))


if __name__ == "__main__":
    main()
