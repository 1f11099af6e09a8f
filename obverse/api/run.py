"""A run as its folder stores it: options, metrics, completions, checkpoints and models; and callbacks of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.api.evaluate import evaluate
from obverse.api.table import Table
from obverse.errors import DataError
from obverse.lazy_import import load
from obverse.report.load_runs import checkpoints_of, read_config, read_run, steps_of
from obverse.runtime import branches
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.json_lines import read_objects
from obverse.runtime.run_summary import summarize

if TYPE_CHECKING:
    from obverse.evaluation.report import Report

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
# the columns that notebooks show
METRICS_COLUMNS = (
    "step",
    "reward",
    "accuracy",
    "nll",
    "entropy",
    "kl",
    "grad_norm",
    "completions/mean_length",
    "num_tokens",
)
SAMPLES_COLUMNS = ("problem", "kind", "prompt", "text", "answer", "reward", "correct", "kept")


class Run:
    """A run, finished or not, read from its folder whenever an attribute is used: a running run may be looked at.

    `obverse.train` returns it, and `obverse.load_run` opens it again.

    Attributes:
        folder: The run folder.
        exit_code: What `obverse train` would have returned: 0, or 130 or 143 after a signal.

    Example:
        run = obverse.train("hpt", model="embedded", dataset="arithmetic:1-6", max_steps=50)
        run.metrics["reward"]
        run.samples()[0]["text"]
    """

    def __init__(self, folder: str | Path, *, stopped: bool | None = None, exit_code: int = 0) -> None:
        self.folder = Path(folder).expanduser()
        self._stopped = stopped
        self.exit_code = exit_code
        self._metrics: tuple[object, Table] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.method}, step {self.step}{', stopped' if self._stopped else ''}>"

    def _repr_html_(self) -> str:
        return str(load("obverse.api.run_html:html_of")(self))

    @property
    def config(self) -> Mapping[str, Any]:
        """The options by name, the method's included; DataError where the folder has no config.yaml."""
        return read_config(self.folder / CONFIG)

    @property
    def method(self) -> str:
        """The method's name, or its `file.py:function`."""
        return str(self.config.get("method", "?"))

    @property
    def step(self) -> int:
        """The last step that is stored, in metrics or as a checkpoint; 0 before the first one."""
        checkpoints = self.checkpoints
        newest = int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else 0
        return max(newest, int(self.metrics[-1]["step"])) if self.metrics else newest

    @property
    def state(self) -> str:
        """`running`, `finished`, `stopped` (it can be resumed), `failed` or `damaged`, as `obverse runs` prints it."""
        return summarize(self.folder).state

    @property
    def stopped(self) -> bool:
        """Whether a signal or a callback ended the call that returned the run; after `load_run`, by its `state`."""
        return self.state == "stopped" if self._stopped is None else self._stopped

    @property
    def metrics(self) -> Table:
        """The rows of metrics.jsonl by rising step: `metrics[-1]["reward"]`, `metrics["reward"]`, `.to_pandas()`.

        The columns are described in docs/metrics.md. Empty before the first step.
        """
        path = self.folder / METRICS
        if not path.is_file():
            return Table([], "metrics")
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size, branches.names_leaving(self.folder))
        if self._metrics is None or self._metrics[0] != state:
            self._metrics = (state, Table(read_run(self.folder).rows, "metrics", METRICS_COLUMNS))
        return self._metrics[1]

    @property
    def evaluations(self) -> Mapping[int, Mapping[str, Mapping[str, Any]]]:
        """What was measured on held-out problems while training: by step, then by difficulty."""
        return read_run(self.folder).evals

    @property
    def checkpoints(self) -> Sequence[Path]:
        """The checkpoint folders by rising step."""
        return checkpoints_of(self.folder)

    def samples(self, step: int | None = None) -> Table:
        """The stored completions of a step, by default of the last one: prompt, text, reward, kept (trained on), ids.

        Samples that a teacher scored also have the log-probs of their ids, in nats, under the policy that sampled them
        (behavior) and under the teacher (teacher).

        Raises DataError for a step without completions.
        """
        hidden = branches.names_leaving(self.folder)
        files = {
            number: path
            for number, path in steps_of(self.folder / "samples", "jsonl")
            if f"samples/{path.name}" not in hidden
        }
        if not files:
            raise DataError(f"run {self.folder} has no completions: they are stored with log_completions")
        step = max(files) if step is None else step
        if step not in files:
            raise DataError(
                f"run {self.folder} has no completions of step {step}: there are {len(files)} steps from "
                f"{min(files)} to {max(files)}"
            )
        return Table(list(read_objects(files[step])), f"completions of step {step}", SAMPLES_COLUMNS)

    def evaluate(self, *, watcher: Watcher | None = None, **options: Any) -> list[Report]:
        """Evaluate the newest checkpoint; see `obverse.evaluate`.

        Example:
            (report,) = run.evaluate(dataset="arithmetic:4-6", k=(1, 8))
        """
        return evaluate(self.folder, watcher=watcher, **options)

    def model(self, step: int | None = None, *, dtype: str = "auto", device: str = "auto") -> Any:
        """The transformers model of a checkpoint, by default the newest; adapters are merged into their base.

        Args:
            step: The step of a checkpoint in `checkpoints`.
            dtype: As the option: auto is float32 on a CPU and bfloat16 on a GPU.
            device: As the option: auto, cpu, cuda, cuda:N or mps.

        Raises DataError if the run has no such checkpoint, CheckpointError if it is damaged.
        """
        return load("obverse.api.models:load_model")(self._checkpoint(step), dtype, device)

    def tokenizer(self, step: int | None = None) -> Any:
        """The tokenizer of a checkpoint, with the chat template of the training."""
        return load("obverse.api.models:load_tokenizer")(self._checkpoint(step))

    def report(self) -> Path:
        """Write report.html into the run folder, and return its path; a notebook shows the page in its output."""
        path: Path = load("obverse.api.run_html:write_report")(self.folder)
        return path

    def resume(
        self, *, callbacks: Callback | Sequence[Callback] | None = None, watcher: Watcher | None = None, **options: Any
    ) -> Run:
        """Continue an unfinished run from its newest checkpoint, with the options that it has; returns it.

        Args:
            callbacks, watcher: As of `obverse.train`.
            options: Options with another value than before, such as a larger `max_steps`; those that would make it
                another run are refused, unless `allow_config_change` names them.

        Raises CheckpointError for a run without a checkpoint, and for changed inputs or options.

        Example:
            run = obverse.load_run("runs/hpt-arithmetic-1-6-1").resume(max_steps=200)
        """
        resumed: Run = load("obverse.api.train:resume")(self.folder, options, watcher or Silent(), callbacks)
        return resumed

    def _checkpoint(self, step: int | None) -> Path:
        by_step = {int(path.name.rpartition("-")[2]): path for path in self.checkpoints}
        if not by_step:
            raise DataError(f"run {self.folder} has no checkpoint yet")
        if step is not None and step not in by_step:
            steps = ", ".join(map(str, by_step))
            raise DataError(f"run {self.folder} has no checkpoint of step {step}: there are checkpoints of {steps}")
        return by_step[max(by_step) if step is None else step]


class Callback:
    """The base class of callbacks: override the methods of the events to react to.

    They are called in the training process, of several ranks on the first one, between two units of work, so that their
    time adds to the run's. An exception ends the run with its traceback, after a checkpoint was saved.

    Example:
        >>> class Patience(Callback):
        ...     def on_step_end(self, step, metrics):
        ...         return metrics["reward"] < 0.9   # False stops the run
        >>> Patience().on_step_end(7, {"reward": 0.95})
        False
    """

    def on_train_begin(self, run: Run) -> None:
        """The run folder exists and the models are loaded; `run.step` is above 0 for a resumed run."""

    def on_step_end(self, step: int, metrics: dict[str, Any]) -> bool | None:
        """A step was trained; `metrics` is its row of metrics.jsonl. False stops the run after saving a checkpoint.

        A stopped run is like one after Ctrl-C: `run.stopped` is True, and `run.resume()` continues it.
        """

    def on_evaluate(self, step: int, figures: dict[str, Any]) -> bool | None:
        """Held-out problems were evaluated: `figures["all"]["pass@1"]`, and by difficulty. False stops the run."""

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint was saved in `folder`."""

    def on_train_end(self, run: Run) -> None:
        """The training of this call has ended, finished or stopped, and its report is written."""


def load_run(folder: str | Path) -> Run:
    """Open a run folder, of a run that is finished, stopped or still running. DataError if it is none.

    Example:
        run = obverse.load_run("runs/hpt-arithmetic-1-6-1")
        run.metrics["reward"]
    """
    run = Run(folder)
    if not (run.folder / CONFIG).is_file():
        raise DataError(f"{run.folder} contains no run: a run folder has config.yaml")
    return run
