"""`obverse compare`: runs the remaining trials of a comparison and shows its table.

All state is in files. A worker takes the first trial that is not finished, can start and is not locked by another
process. Any number of workers, also of several calls, may work in one folder; the work of a killed one is repeated.
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
from obverse.comparison.progress import Progress
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
from obverse.comparison.standings import INSIDE, Standings, standings
from obverse.config import yaml_file as config_file
from obverse.errors import ConfigError, UserError
from obverse.python_files import read_once
from obverse.redact import flat
from obverse.runtime.callbacks import Metrics, Phase, Silent, Watcher
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import free_folder, is_input_file
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import Interrupted, SignalWatcher

FREE = {"jobs", "output_dir", "report"}  # may differ from call to call
PAUSE = 0.5  # seconds between two looks at the state of other workers


def compare(plan: Plan, console: Console) -> int:
    """Run the remaining trials of a comparison and write its table; returns the exit code (130 or 143 when stopped).

    Raises ConfigError or DataError before anything runs. The same call continues a comparison that was stopped or
    killed, and produces the same table.
    """
    write_plan(plan)
    progress = Progress(plan, console)
    try:
        code = run_trials(plan, after=progress.update) if plan.config.jobs == 1 else run_workers(plan, progress)
    finally:
        progress.close()
    if code:
        console.print(Text(f"stopped; continue with: {resume_command(plan)}"), soft_wrap=True)
        return code
    with claim(plan.root, blocking=True), storage_errors(plan.root, ROOM):
        for trial in plan.trials():
            check_run(plan, trial)
        table = standings(plan)
        exports.write(table, plan.root)
    show(table, plan.root, console)
    return 0


def show(table: Standings, root: Path, console: Console) -> None:
    """Print the table, and a sentence about each entry on its main column."""
    console.print(exports.console_table(table))
    main = INSIDE if INSIDE in table.columns else table.columns[0]
    for line in exports.notes(table, columns=lambda name: name == main):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"{root}: standings.md, .csv, .tex and .json; the samples of every figure"), soft_wrap=True)


def reserve_folder(plan: Plan) -> Plan:
    """The plan with a folder of its own: without --output_dir, one that no other call has taken."""
    if plan.config.output_dir is not None:
        return plan
    name, _, number = plan.root.name.rpartition("-")
    with storage_errors(plan.root, "choose an --output_dir"):
        return replace(plan, root=free_folder(plan.root.parent, name, at_least=int(number)))


def write_plan(plan: Plan) -> None:
    """Write the configuration and the problems of a comparison into its folder.

    Raises ConfigError if the folder has another comparison or other files, DamageError for changed files, StorageError
    where the folder cannot be written.
    """
    refuse_foreign(plan.root)
    with claim(plan.root, blocking=True), storage_errors(plan.root, ROOM):
        refuse_foreign(plan.root)
        refuse_changed(plan)
        fingerprints = contents(plan)  # first: an input that cannot be read leaves no comparison behind
        write_config(plan)
        write_problems(plan, fingerprints)


def refuse_foreign(root: Path) -> None:
    """Raise ConfigError if a folder is not empty and has no comparison."""
    with storage_errors(root, "choose another --output_dir"):
        if (root / CONFIG).exists() or not root.is_dir():
            return
        if any(path.name != CLAIM and not is_input_file(path) for path in root.iterdir()):
            raise ConfigError(f"--output_dir: {root} is not empty and has no comparison")


def write_config(plan: Plan) -> None:
    """Write the comparison's configuration if the folder has none; ConfigError if it has another one."""
    config, path = plan.config, plan.root / CONFIG
    options = config.model_dump(mode="json", include=config.model_fields_set - FREE)
    if path.exists():
        stored = config_file.read(path).values
        differing = sorted(name for name in stored.keys() | options.keys() if stored.get(name) != options.get(name))
        if differing:
            raise ConfigError(
                f"--output_dir: {plan.root} has a comparison with another {differing[0]}: continue it by "
                "--output_dir alone, or choose another folder"
            )
        return
    folder = RunFolder(plan.root)
    folder.create()
    folder.write_text(CONFIG, yaml.safe_dump(options, allow_unicode=True, sort_keys=False))


def run_trials(plan: Plan, after: Callable[[], None] | None = None, watcher: Watcher | None = None) -> int:
    """Run trials until all are done; returns 0, or the exit code of a run that a signal stopped.

    Before each trial, its inputs are compared with the plan: ConfigError if they changed.
    """
    refuse_changed(plan)
    with claim(plan.root / "figures" / "base", blocking=True):
        measure_base(plan, watcher)
    while True:
        code, was_run, unfinished = run_next(plan, watcher)
        if after is not None:
            after()
        if code or not unfinished:
            return code
        if not was_run:
            time.sleep(PAUSE)


def run_next(plan: Plan, watcher: Watcher | None) -> tuple[int, bool, bool]:
    """Run one free trial: returns its exit code, whether one was run, and whether any trial was unfinished."""
    unfinished = False
    for trial in plan.trials():
        if result(plan, trial) is not None:
            continue
        unfinished = True
        is_ready, rate = chosen_rate(plan, trial)
        if not is_ready:
            continue
        with claim(plan.root / trial.folder) as is_locked:
            if is_locked and result(plan, trial) is None:
                refuse_changed(plan)
                return run_trial(plan, trial, rate, watcher), True, True
    return 0, False, unfinished


class ExitWithParent(Silent):
    """The watcher of a worker process: ends it when the process that started it has ended."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def phase(self, phase: Phase, done: int, total: int) -> None:
        if os.getppid() != self.parent:
            os._exit(1)  # the lock ends with the process; all files are written atomically

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.phase("train", 0, 0)


@read_once()
def worker_main(plan: Plan, parent: int) -> None:
    """The main function of a worker process. Ctrl-C reaches only its parent, which passes it on."""
    os.setsid()
    try:
        raise SystemExit(run_trials(plan, watcher=ExitWithParent(parent)))
    except UserError as error:
        print(f"error: {flat(error)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def run_workers(plan: Plan, progress: Progress) -> int:
    """Start the workers, show their progress, and pass a signal on to them; returns the exit code."""
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = [
        context.Process(target=worker_main, args=(plan, os.getpid())) for _ in range(plan.config.jobs)
    ]
    with SignalWatcher(Silent()).handling_signals() as watcher:
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(PAUSE)
                progress.update()
                watcher.check()
        except Interrupted as stop:
            terminate(workers)
            return stop.exit_code
    progress.update()
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    return next((128 - code if code < 0 else code for code in codes), 0)  # negative for a worker that a signal ended


def terminate(workers: list[BaseProcess]) -> None:
    """Terminate every worker, and wait until its run is saved."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join()
