"""One trial: train or resume the run, measure its last and its best step on every test, and store the result."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse.comparison.input_fingerprints import expected
from obverse.comparison.plan import BASE, ROOM, Plan, Trial, check_files, fingerprint
from obverse.config.train import TrainConfig
from obverse.data import load_dataset
from obverse.data.renderer import Renderer
from obverse.errors import CheckpointError, DamageError, DivergedError
from obverse.evaluation.sample_and_score import EvalSetup, measure
from obverse.inference import sampling_params
from obverse.inference.build import embedded_sampler
from obverse.models.adapter_io import load_any
from obverse.models.policy import set_threads
from obverse.runtime import branches as history
from obverse.runtime import checkpoint, manifest
from obverse.runtime import integrity as sealing
from obverse.runtime.callbacks import Watcher
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.json_lines import read_object
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.types import to_json

STEPS = ("last", "best")
CLAIM = ".claim"
TRIAL = "trial.json"


@dataclass(frozen=True)
class Result:
    """The result of a trial, stored as `trial.json` in its run folder after all its measurements."""

    entry: str
    seed: int
    rate: float
    is_grid: bool
    steps: int = 0
    num_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0  # of the steps
    validation: dict[str, float] = field(default_factory=dict)  # pass@1 by step; step 0 is the model before training
    last: int = 0
    best: int = 0  # the first step with the best validation, after step 0
    failed: str | None = None  # why the run has no figures

    @property
    def score(self) -> float:
        """The score of a learning rate: validation after the last step; -1 for a failed run."""
        return -1.0 if self.failed else self.validation[str(self.last)]


def result(plan: Plan, trial: Trial) -> Result | None:
    """The result of a finished trial, else None; DamageError if the file is damaged."""
    path = plan.root / trial.folder / TRIAL
    if not path.exists():
        return None
    content = sealing.read_sealed(path)
    try:
        outcome = _RESULT.validate_python(
            {name: content[name] for name in Result.__dataclass_fields__ if name in content}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DamageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}: {sealing.REMEDY}") from None
    if not outcome.failed and not {str(outcome.last), str(outcome.best)} <= outcome.validation.keys():
        raise DamageError(f"{path}: validation has no value for the last or the best step: {sealing.REMEDY}")
    return outcome


_RESULT = TypeAdapter(Result)


def files_of(folder: Path) -> dict[str, Any]:
    """Fingerprints of the files of a run that tables and reports are computed from, by name."""
    names = ["config.yaml", "environment.json", "metrics.jsonl"]
    names += [f"eval/{path.name}" for path in sorted((folder / "eval").glob("step-*.json"))]
    return {name: fingerprint(folder / name) for name in names if (folder / name).is_file()}


def check_run(plan: Plan, trial: Trial) -> None:
    """Raise DamageError if a file of a finished trial was changed."""
    folder = plan.root / trial.folder
    if (folder / TRIAL).exists():
        check_files(folder, sealing.read_sealed(folder / TRIAL).get("files"))


def chosen_rate(plan: Plan, trial: Trial) -> tuple[bool, float | None]:
    """Whether the trial can start, and its learning rate; None means the method's default.

    The rate is the entry's rate with the best score, the smallest of several. It is known once the grid is done.
    """
    if trial.rate is not None:
        return True, trial.rate
    rates, grid = plan.rates(trial.entry), [result(plan, member) for member in plan.grid(trial.entry)]
    if not grid:
        return True, rates[0] if rates else None
    finished = [outcome for outcome in grid if outcome is not None]
    if len(finished) < len(grid):
        return False, None
    return True, max(finished, key=lambda outcome: (outcome.score, -outcome.rate)).rate


def resume_command(plan: Plan) -> str:
    """The command that continues a comparison, and with it each of its runs."""
    return f"obverse compare --output_dir {quote(str(plan.root))}"


def run_trial(plan: Plan, trial: Trial, rate: float | None, watcher: Watcher | None = None) -> int:
    """Do the remaining work of a trial; returns 0, or the exit code of a run that a signal stopped."""
    config = plan.resolved(trial, rate)
    folder = RunFolder(plan.root / trial.folder)
    set_aside_without_checkpoint(folder.path)
    try:
        outcome = train(config, watcher, expected(plan), resume_command(plan))
        if outcome.stopped:
            return outcome.exit_code
        trained = summary(trial, config, folder)
    except DivergedError as error:
        trained = Result(trial.entry.name, trial.seed, config.learning_rate or 0.0, trial.is_grid, failed=str(error))
    if not trial.is_grid and not trained.failed:
        for step in STEPS:
            measure_step(plan, trial, step, trained, config, watcher)
    with storage_errors(folder.path, ROOM):
        finish(folder, trained)
    return 0


def set_aside_without_checkpoint(path: Path) -> None:
    """Move the rows of a run aside that was killed before its first checkpoint: it starts again."""
    with storage_errors(path, ROOM):
        if RunFolder(path).metrics_path.exists() and not checkpoint.folders(path):
            history.set_aside(path, 0, 0, history.names_after(path, -1, 0))


def finish(folder: RunFolder, trained: Result) -> None:
    """Store a trial's result, and remove the checkpoints of its run other than the last and the best step."""
    steps = set() if trained.is_grid else {trained.last, trained.best}
    content = {"schema": 2, **asdict(trained), "files": files_of(folder.path)}
    for path in checkpoint.written_by_run(folder.path, folder.run_id()):
        if manifest.step_of(path) not in steps:
            shutil.rmtree(path)
    folder.write_json(TRIAL, sealing.add_seal(content))


def summary(trial: Trial, config: TrainConfig, folder: RunFolder) -> Result:
    """The result of a finished run, from its folder; DamageError names a file that lacks a value."""
    rows = folder.metrics()
    try:
        steps = _ROWS.validate_python(rows, strict=True)
    except ValidationError as error:
        number, *field = error.errors()[0]["loc"]
        where = f"{folder.metrics_path}:{int(number) + 1 if isinstance(number, int) else 1}"
        raise DamageError(f"{where}: {'.'.join(map(str, field))}: {error.errors()[0]['msg']}") from None
    if not steps:
        raise DamageError(f"{folder.metrics_path} has no rows, but the run is finished: restore it, or remove the run")
    evaluations = {
        int(path.stem.removeprefix("step-")): validated(path)
        for path in sorted((folder.path / "eval").glob("step-*.json"))
        if path.stem.removeprefix("step-").isdigit()
    }
    last = steps[-1]["step"]
    candidates = {step: score for step, score in evaluations.items() if 0 < step <= last}
    if last not in candidates:
        raise DamageError(f"{folder.path / 'eval'} has no evaluation of step {last}, the last step of the run")
    return Result(
        entry=trial.entry.name,
        seed=trial.seed,
        rate=config.learning_rate or 0.0,
        is_grid=trial.is_grid,
        steps=last,
        num_tokens=steps[-1]["num_tokens"],
        flops=steps[-1]["flops"],
        seconds=sum(row["step_time"] for row in steps),
        validation={str(step): score for step, score in sorted(evaluations.items())},
        last=last,
        best=max(candidates, key=lambda step: (candidates[step], -step)),
    )


class Step(TypedDict):
    """The fields of a row of metrics.jsonl that a result is computed from."""

    step: int
    num_tokens: int
    flops: float
    step_time: float


_ROWS = TypeAdapter(list[Step])


def validated(path: Path) -> float:
    """pass@1 of an evaluation during training; DamageError if the file has none."""
    row = read_object(path, DamageError).get("all")
    score = row.get("pass@1") if isinstance(row, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DamageError(f"{path} has no pass@1 of all problems: {sealing.REMEDY}")
    return float(score)


def measure_step(
    plan: Plan, trial: Trial, step: str, outcome: Result, config: TrainConfig, watcher: Watcher | None
) -> None:
    """Measure a step on every test; if the best step is the last one, its samples are copied."""
    name = trial.entry.name
    if step == "best" and outcome.best == outcome.last:
        for test in plan.tests:
            source = plan.figures_path(name, "last", test.name, trial.seed)
            target = plan.figures_path(name, step, test.name, trial.seed)
            with storage_errors(target, ROOM):
                RunFolder(target.parent).write_text(target.name, source.read_text(encoding="utf-8"))
        return
    folder = plan.root / trial.folder / f"checkpoint-{outcome.last if step == 'last' else outcome.best}"
    if damage := manifest.find_damage(folder):
        raise CheckpointError(f"checkpoint {folder}, the {step} step of {name}: {damage}; restore it")
    measure_tests(plan, str(folder), config, name, step, trial.seed, watcher)


def measure_base(plan: Plan, watcher: Watcher | None = None) -> None:
    """Measure the model before training with the sampling seeds of every run, as its last and as its best step."""
    for seed in plan.seeds:
        config = plan.resolved(Trial(plan.entries[0], seed), 1.0)
        for step in STEPS:
            measure_tests(plan, plan.config.model, config, BASE, step, seed, watcher)


def options_of_tests(plan: Plan, config: TrainConfig) -> TrainConfig:
    """A run's options with the temperature of the comparison: methods with one of their own are tested at it too."""
    return config.model_copy(update={"temperature": plan.config.temperature})


def measure_tests(
    plan: Plan, model: str, config: TrainConfig, name: str, step: str, seed: int, watcher: Watcher | None
) -> None:
    """Sample every test that has no file yet with the model at `model`, and write the graded samples."""
    paths = {test: plan.figures_path(name, step, test.name, seed) for test in plan.tests}
    missing = {test: path for test, path in paths.items() if not path.exists()}
    if not missing:
        return
    policy, tokenizer = load_any(model, config.dtype, config.device)
    set_threads(config.threads, policy)
    renderer = Renderer.of(tokenizer, config, policy.model.generation_config.eos_token_id)
    sampler = embedded_sampler(policy, renderer, config.rollout_batch_size)
    params = sampling_params(options_of_tests(plan, config), renderer.stop_ids)
    for test, path in missing.items():
        problems = load_dataset(str(plan.problems_path(test.name)), verifier=config.verifier)
        setup = EvalSetup(sampler, renderer, params, plan.config.num_generations_test, seed)
        scores = measure(problems, setup, watcher)
        rows = (json.loads(to_json(asdict(score))) for score in scores)
        with storage_errors(path, ROOM):
            RunFolder(path.parent).write_text(path.name, "".join(to_json(sealing.add_seal(row)) + "\n" for row in rows))


@contextmanager
def claim(folder: Path, blocking: bool = False) -> Iterator[bool]:
    """Lock a folder for this process; yields whether it is locked. The lock ends with the block or the process."""
    with storage_errors(folder, "choose another --output_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / CLAIM).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
