"""`obverse compare`: does what is left of a comparison, alone or with others, and shows the table.

All state is files. A worker takes the first trial that is not over, can begin and that nobody else has claimed; any
number of workers, also of several calls, may work in one folder, and whatever is killed is done again by the next one.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from obverse.comparison import export as exports
from obverse.comparison.input_fingerprints import contents, refuse_changed
from obverse.comparison.plan import CONFIG, ROOM, Plan, write_problems
from obverse.comparison.progress import Board
from obverse.comparison.run_trial import (
    CLAIM,
    check_run,
    chosen_rate,
    claim,
    measure_base,
    result,
    resume_command,
    run_trial,
)
from obverse.comparison.standings import INSIDE, standings
from obverse.config import yaml_file as config_file
from obverse.errors import ConfigError, UserError
from obverse.python_files import read_once
from obverse.redact import flat
from obverse.runtime.callbacks import Metrics, Phase, Silent, Watcher
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import free_folder
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import Interrupted, SignalWatcher

FREE = {"jobs", "output_dir", "report"}  # may differ from call to call
PAUSE = 0.5  # seconds between two looks at what others do


def compare(plan: Plan, console: Console) -> int:
    """Run what is left of a comparison and write its table; returns the exit code (130 or 143 when stopped).

    Raises ConfigError or DataError before anything runs. A comparison that was stopped or killed, by any means, goes on
    with the same call and comes to the same table.
    """
    begin(plan)
    board = Board(plan, console)
    try:
        code = work(plan, after=board.update) if plan.config.jobs == 1 else lead(plan, board)
    finally:
        board.close()
    if code:
        console.print(Text(f"stopped; go on with: {resume_command(plan)}"), soft_wrap=True)
        return code
    with claim(plan.root, blocking=True), storage_errors(plan.root, ROOM):
        for trial in plan.trials():
            check_run(plan, trial)
        found = standings(plan)
        exports.write(found, plan.root)
    console.print(exports.table(found))
    main = INSIDE if INSIDE in found.columns else found.columns[0]
    for line in exports.notes(found, columns=lambda name: name == main):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"{plan.root}: standings.md, .csv, .tex and .json; the samples of every figure"), soft_wrap=True)
    return 0


def settle(plan: Plan) -> Plan:
    """The comparison with a folder that is its own: where none was named, one that no other call has taken."""
    if plan.config.output_dir is not None:
        return plan
    name, _, number = plan.root.name.rpartition("-")
    with storage_errors(plan.root, "choose an --output_dir"):
        return replace(plan, root=free_folder(plan.root.parent, name, at_least=int(number)))


def begin(plan: Plan) -> None:
    """Write what the comparison is into its folder; ConfigError where that holds another one or other things.

    Raises DamageError where it is not what was written, StorageError where it cannot be written.
    """
    refuse_foreign(plan.root)
    with claim(plan.root, blocking=True), storage_errors(plan.root, ROOM):
        refuse_foreign(plan.root)
        refuse_changed(plan)
        write_config(plan)
        write_problems(plan, contents(plan))


def refuse_foreign(root: Path) -> None:
    """Raise ConfigError where a folder is no comparison's and not empty."""
    with storage_errors(root, "choose another --output_dir"):
        if (root / CONFIG).exists() or not root.is_dir():
            return
        if any(path.name != CLAIM for path in root.iterdir()):
            raise ConfigError(f"--output_dir: {root} is not empty and holds no comparison")


def write_config(plan: Plan) -> None:
    """Write the comparison's configuration, unless it stands there; ConfigError where another one does."""
    config, path = plan.config, plan.root / CONFIG
    given = config.model_dump(mode="json", include=config.model_fields_set - FREE)
    if path.exists():
        kept = config_file.read(path).values
        differing = sorted(name for name in kept.keys() | given.keys() if kept.get(name) != given.get(name))
        if differing:
            raise ConfigError(
                f"--output_dir: {plan.root} holds a comparison with another {differing[0]}: continue it by "
                "--output_dir alone, or choose another folder"
            )
        return
    folder = RunFolder(plan.root)
    folder.create()
    folder.write_text(CONFIG, yaml.safe_dump(given, allow_unicode=True, sort_keys=False))


def work(plan: Plan, after: Callable[[], None] | None = None, watcher: Watcher | None = None) -> int:
    """Do trials until none is left; 0, or the exit code of a run that a signal stopped.

    Before each, what it reads is held against the plan: ConfigError where that was changed.
    """
    refuse_changed(plan)
    with claim(plan.root / "figures" / "base", blocking=True):
        measure_base(plan, watcher)
    while True:
        code, did, left = turn(plan, watcher)
        if after is not None:
            after()
        if code or not left:
            return code
        if not did:
            time.sleep(PAUSE)


def turn(plan: Plan, watcher: Watcher | None) -> tuple[int, bool, bool]:
    """Do one trial that is free: its exit code, whether there was one, whether any was left before."""
    left = False
    for trial in plan.trials():
        if result(plan, trial) is not None:
            continue
        left = True
        is_ready, rate = chosen_rate(plan, trial)
        if not is_ready:
            continue
        with claim(plan.root / trial.folder) as mine:
            if mine and result(plan, trial) is None:
                refuse_changed(plan)
                return run_trial(plan, trial, rate, watcher), True, True
    return 0, False, left


class Tethered(Silent):
    """The watcher of a worker process: it ends when the process that started it is gone."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def phase(self, phase: Phase, done: int, total: int) -> None:
        if os.getppid() != self.parent:
            os._exit(1)  # the claim falls with the process; files are whole at any moment

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.phase("train", 0, 0)


@read_once()
def serve(plan: Plan, parent: int) -> None:
    """What a worker process does. A Ctrl-C of the terminal reaches its parent alone, which passes it on."""
    os.setsid()
    try:
        raise SystemExit(work(plan, watcher=Tethered(parent)))
    except UserError as error:
        print(f"error: {flat(error)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def lead(plan: Plan, board: Board) -> int:
    """Start the workers, show what they do, and pass a stop on to them; the exit code."""
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = [
        context.Process(target=serve, args=(plan, os.getpid())) for _ in range(plan.config.jobs)
    ]
    with SignalWatcher(Silent()).handling_signals() as watcher:
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(PAUSE)
                board.update()
                watcher.check()
        except Interrupted as stop:
            end(workers)
            return stop.exit_code
    board.update()
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    return next((128 - code if code < 0 else code for code in codes), 0)  # a worker that a signal ended has -signal


def end(workers: list[BaseProcess]) -> None:
    """Ask every worker to stop, and wait until its run is saved."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join()
