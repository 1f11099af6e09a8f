"""The context of an analysis: models at one or several points of training, problems, samplers and methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from obverse import methods
from obverse.config import yaml_file as config_file
from obverse.config.analyze import AnalysisOptions, BatchOptions, CoefficientsConfig
from obverse.config.train import EMBEDDED_PRESET, TrainConfig
from obverse.data import load_dataset
from obverse.data.epoch_order import take
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError, DamageError
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial, samples_policy
from obverse.estimator.schedule import as_schedule
from obverse.evaluation.eval_sets import DEFAULT_DATASET
from obverse.inference import Sampler, SamplingParams, sampling_params
from obverse.inference.build import NoSampler, embedded_sampler
from obverse.models.adapter_io import load_any
from obverse.models.policy import Policy, set_threads
from obverse.models.reward_model import RewardModel
from obverse.rewards import with_weights
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.run_dir import RunFolder
from obverse.training import validate as requirements
from obverse.training.build_models import load_reward_model
from obverse.training.collector import Collector
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.learners import Learner, policy_for
from obverse.training.metrics import PhaseTimer
from obverse.training.optimizer import Optimizer
from obverse.training.rollout_phase import add_follow_ups
from obverse.training.validate import check_method
from obverse.types import Group, Problem

WITHOUT_SAMPLES = "analyze methods that do not sample, or samples that a run stored (analyze coefficients --step)"
MAX_UNGRADED = 0.01  # of a batch's samples
AnyConfig = TypeVar("AnyConfig", bound=AnalysisOptions)
# Options taken from a run; the seed too, which determines the problems of an embedded task.
TAKEN = (
    "dataset",
    "dataset_split",
    "seed",
    "chat_template",
    "system_prompt",
    "chat_template_kwargs",
    "parse_special_tokens",
    "max_completion_length",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)


@dataclass(frozen=True)
class NamedMethod:
    """A method with the label of its rows."""

    name: str
    method: Method


@dataclass(frozen=True)
class Context:
    """A policy, the initial model of its run (frozen), problems, and the options of sampling and grading."""

    policy: Policy
    initial: Policy
    tokenizer: Any
    renderer: Renderer
    params: SamplingParams
    problems: Sequence[Problem]
    seed: int
    micro_batch_tokens: int = 16384
    scorer: RewardModel | None = None  # of a run that was graded by a reward model
    format_reward: float = 0.0

    @property
    def grades(self) -> bool:
        """Whether every rollout can be graded."""
        return self.scorer is not None or all(problem.verifier is not None for problem in self.problems)

    def collector(self, method: Method, author: Policy | None = None, watcher: Watcher | None = None) -> Collector:
        """The collector of the method's samples; `author` samples in place of the policy, `watcher` sees the progress.

        Raises ConfigError if the method samples and the model cannot be sampled.
        """
        return Collector(
            self.sampler(author or self.policy) if samples_policy(method) else NoSampler(),
            self.renderer,
            self.params,
            self.seed,
            initial=self.sampler(self.initial) if samples_initial(method) else None,
            scorer=self.scorer,
            format_reward=self.format_reward,
            watcher=watcher or Silent(),
        )

    def sampler(self, policy: Policy) -> Sampler:
        """The embedded sampler of a policy."""
        return embedded_sampler(policy, self.renderer, remedy=WITHOUT_SAMPLES)

    def batch(self, number: int, num: int) -> list[Problem]:
        """The problems of batch `number`, in the order in which a run with this seed takes them."""
        return take(self.problems, self.seed, number * num, num)

    def groups(
        self, method: Method, batch: int, num: int, progress: float, author: Policy | None = None
    ) -> list[Group]:
        """The groups that the method collects in batch `batch` of `num` problems, which are the same for every method.

        Samples that could not be graded are dropped; GraderError if they are more than MAX_UNGRADED.
        """
        collector = self.collector(method, author)
        groups = collector.collect(self.batch(batch, num), method, batch * num, progress)
        collector.grade(groups, grades_rollouts=self.grades)
        add_follow_ups(collector, groups, method, batch * num, progress, range(num), PhaseTimer())
        return GraderErrorLimit(MAX_UNGRADED).drop_ungraded(groups, grades_rollouts=self.grades)

    def learner(self, method: Method, samples_itself: bool = True) -> Learner:
        """A learner of the method, for forward and backward passes; it takes no optimizer step."""
        has_full_distribution = samples_itself and self.params.is_untruncated and not samples_initial(method)
        optimizer = Optimizer(self.policy.model, TrainConfig(method="none", learning_rate=0.0), 1)
        return Learner(
            policy_for(method, self.policy),
            self.initial,
            method,
            optimizer,
            self.micro_batch_tokens,
            samples_itself=has_full_distribution,
        )


def run_of(model: str) -> dict[str, Any] | None:
    """The configuration of the run in this folder; None if it is not a run folder."""
    path = Path(model) / "config.yaml"
    if not path.is_file():
        return None
    run = dict(config_file.read(path).values)
    for name in ("method", "model"):
        if not isinstance(run.get(name), str):
            raise DamageError(f"{path} names no {name}: restore the run's configuration")
    return run


def with_run_options(config: AnyConfig) -> AnyConfig:
    """The configuration with the run's options (or the embedded model's) for options that were not given."""
    run = run_of(config.model)
    missing: dict[str, Any] = {"dataset": DEFAULT_DATASET}
    if run is not None:
        missing |= {name: run[name] for name in TAKEN if run.get(name) is not None}
        missing["stop_strings"] = tuple(run.get("stop_strings") or ())
        missing["verifier"] = with_weights(run.get("verifier"), run.get("verifier_weights") or ())
    elif config.model == "embedded":
        missing["max_completion_length"] = EMBEDDED_PRESET["max_completion_length"]
    given = config.model_fields_set
    missing = {name: value for name, value in missing.items() if name not in given}
    try:
        checked = type(config)(**{name: getattr(config, name) for name in given}, **missing)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{Path(config.model) / 'config.yaml'}: {'.'.join(map(str, first['loc']))}"
        raise DamageError(f"{where}: {first['msg']}: restore the run's configuration") from None
    return config.model_copy(update={name: getattr(checked, name) for name in missing})


@dataclass(frozen=True)
class Point:
    """A saved model of a run: its label, its path, the share of the run's steps that were done, and its step."""

    name: str
    path: str
    progress: float = 0.0
    step: int = 0


def points(model: str) -> list[Point]:
    """A run's initial model and its undamaged checkpoints, in order of steps; of a model only itself."""
    run = run_of(model)
    if run is None:
        return [Point(Path(model).name, model)]
    checkpoints = [path for path in checkpoint.folders(Path(model)) if manifest.find_damage(path) is None]
    if not checkpoints:
        raise ConfigError(f"run {model} has no undamaged checkpoint")
    steps = [int(path.name.removeprefix("checkpoint-")) for path in checkpoints]
    folder = RunFolder(model)
    rows = [row.get("step") for row in folder.metrics()]
    steps_done = [step for step in rows if isinstance(step, int) and step > 0]
    if len(steps_done) < len(rows):
        raise DamageError(f"{folder.metrics_path}: a row has no step: restore the file")
    last = max([steps[-1], *steps_done])
    saved_points = (
        Point(f"step {step}", str(path), step / last, step) for step, path in zip(steps, checkpoints, strict=True)
    )
    return [Point("step 0", str(run["model"])), *saved_points]


def initial_of(config: BatchOptions) -> str:
    """The initial model: that of --initial, that of the run, or the model itself."""
    run = run_of(config.model) or {}
    return config.initial or str(run.get("anchor_model") or run.get("model") or config.model)


def progress_at(config: BatchOptions, point: Point) -> float:
    """The progress for schedules: --progress, or that of the run at this point."""
    return config.progress if config.progress is not None else point.progress


def sampling_point(config: CoefficientsConfig) -> tuple[Point, str]:
    """The model to analyze, and a sentence about it.

    For a run it is the newest checkpoint; with --step, the policy that sampled that step if it was saved, else the
    nearest saved one.
    """
    saved = points(config.model)
    if config.step is None:
        return saved[-1], f"a fresh batch of {config.num_problems} problems at {saved[-1].name} of {config.model}"
    before = config.step - 1
    point = min(saved, key=lambda point: abs(point.step - before))
    gap = "which drew them" if point.step == before else "the nearest policy that was saved; ratios count from it"
    return point, f"the samples of step {config.step} of {config.model}, under {point.name}, {gap}"


def load_context(config: AnalysisOptions, model: str, initial: str) -> Context:
    """Load the models and the problems; ConfigError for data without problems."""
    policy, tokenizer = load_any(model, config.dtype, config.device, trains=True)
    initial_policy = policy if initial == model else load_any(initial, config.dtype, config.device, trains=True)[0]
    set_threads(config.threads, policy)
    renderer = Renderer.of(tokenizer, config, policy.model.generation_config.eos_token_id)
    params = sampling_params(config, renderer.stop_ids)
    run = run_of(config.model) or {}
    options = TrainConfig(method="none", reward_model=run.get("reward_model"), dtype=config.dtype, device=config.device)
    return Context(
        policy,
        initial_policy,
        tokenizer,
        renderer,
        params,
        problems_of(config),
        config.seed,
        config.micro_batch_tokens,
        load_reward_model(options, tokenizer),
        run.get("format_reward", 0.0),
    )


def problems_of(config: AnalysisOptions) -> list[Problem]:
    """The problems of an analysis; ConfigError if there are none."""
    dataset, split, run = str(config.dataset), config.dataset_split, run_of(config.model) or {}
    num = run.get("num_problems") if (dataset, split) == (run.get("dataset"), run.get("dataset_split")) else None
    problems = load_dataset(dataset, split=split, num_problems=num, seed=config.seed, verifier=config.verifier)
    if not problems:
        raise ConfigError(f"data set {dataset!r} has no problems")
    return problems


def chosen_methods(config: BatchOptions) -> list[NamedMethod]:
    """The methods of --methods, or the run's method with its options; every stage of a training schedule.

    Raises ConfigError if none is given, or if one needs what an analysis does not have (a critic, a reward model).
    """
    run = run_of(config.model)
    if config.methods is None and run is None:
        raise ConfigError("--methods: is required for a model that is not a run: names, separated by commas")
    chosen = []
    for name in config.methods or (str((run or {})["method"]),):
        run_options = run if run is not None and name == run["method"] else {}
        names = methods.parameters(methods.find(name))
        paper = as_schedule(methods.build(name)).run
        sizes = {"num_generations": config.num_generations, "max_completion_length": config.max_completion_length}
        options = {
            option: value for source in (paper, run_options) for option, value in source.items() if option in names
        }
        options |= {option: value for option, value in sizes.items() if option in names and value is not None}
        stages = as_schedule(methods.build(name, options)).methods
        chosen += [
            NamedMethod(name if len(stages) == 1 else f"{name}, stage {i}", stage) for i, stage in enumerate(stages)
        ]
    for named in chosen:
        check(named)
    return chosen


def check(named: NamedMethod) -> None:
    """Raise ConfigError for a method that needs more than a model and its data."""
    method = named.method
    lacks = {
        "trains no policy": not method.trains_policy,
        "needs a critic, which only its run has": method.critic is not None,
        "reads a teacher, which only its run has": method.teacher is not None,
        "changes what the policy reads": method.inputs is not None,
    }
    for reason, holds in lacks.items():
        if holds:
            raise ConfigError(f"--methods: {named.name} {reason}")
    check_method(named.name, method)


def check_data(config: BatchOptions, context: Context, methods_to_check: Sequence[NamedMethod]) -> None:
    """Raise ConfigError if no problem has what a method learns from, or if its rollouts cannot be graded."""
    for named in methods_to_check:
        reward_model = "the run's" if context.scorer is not None else None
        options = TrainConfig(method=named.name, dataset=str(config.dataset), reward_model=reward_model)
        requirements.check_data(options, named.method, context.problems)
