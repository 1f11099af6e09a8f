"""Where an analysis happens: a model at one or several points of its training, its problems, and whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from obverse import methods
from obverse.config import yaml_file as config_file
from obverse.config.analyze import BatchOptions, CoefficientsConfig, SceneOptions
from obverse.config.train import EMBEDDED_PRESET, TrainConfig
from obverse.data import load_dataset
from obverse.data.epoch_order import take
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError, DamageError
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import as_schedule
from obverse.evaluation.evaluate import HELD_OUT
from obverse.inference import SamplingParams, sampling_params
from obverse.inference.hf import HFSampler
from obverse.models.adapter_io import load_any
from obverse.models.policy import Policy, set_threads
from obverse.models.reward_model import RewardModel
from obverse.rewards import with_weights
from obverse.runtime import checkpoint
from obverse.runtime.run_dir import RunFolder
from obverse.training import validate as requirements
from obverse.training.build_models import load_reward_model
from obverse.training.collector import Collector
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.optimizer import Optimizer
from obverse.training.update import Learner
from obverse.training.validate import check_method
from obverse.types import Group, Problem

MAX_UNGRADED = 0.01  # of a batch's samples
AnyConfig = TypeVar("AnyConfig", bound=SceneOptions)
# What a run decided; its seed too, which made the problems of an embedded task.
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
class Named:
    """A method of an analysis under the name that its rows carry."""

    name: str
    method: Method


@dataclass(frozen=True)
class Scene:
    """A policy, the problems, and who samples; `initial` is the frozen model that the run began with."""

    policy: Policy
    initial: Policy
    tokenizer: Any
    renderer: Renderer
    params: SamplingParams
    problems: Sequence[Problem]
    seed: int
    micro_batch_tokens: int = 16384
    scorer: RewardModel | None = None  # the run's own, where a reward model graded it
    format_reward: float = 0.0

    @property
    def grades(self) -> bool:
        """Whether every own sample can be given a reward."""
        return self.scorer is not None or all(problem.verifier is not None for problem in self.problems)

    def collector(self, author: Policy | None = None) -> Collector:
        """Who samples and judges; `author` in place of the policy."""
        who, first = author or self.policy, self.initial
        return Collector(
            HFSampler(who.model, decode=self.renderer.decode, mixed=who.mixed),
            self.renderer,
            self.params,
            self.seed,
            initial=HFSampler(first.model, decode=self.renderer.decode, mixed=first.mixed),
            scorer=self.scorer,
            format_reward=self.format_reward,
        )

    def batch(self, number: int, num: int) -> list[Problem]:
        """The problems of a batch: the stream that a run with this seed takes from."""
        return take(self.problems, self.seed, number * num, num)

    def groups(
        self, method: Method, batch: int, num: int, progress: float, author: Policy | None = None
    ) -> list[Group]:
        """What the method collects of batch number `batch`, `num` problems; the same problems for every method.

        Samples that could not be graded are left out; GraderError when they are more than MAX_UNGRADED.
        """
        collector = self.collector(author)
        found = collector.collect(self.batch(batch, num), method, batch * num, progress)
        collector.judge(found, own=self.grades)
        return GraderErrorLimit(MAX_UNGRADED).drop_ungraded(found, own=self.grades)

    def learner(self, method: Method, samples_itself: bool = True) -> Learner:
        """The policy as the method would train it; nobody takes a step."""
        whole = samples_itself and self.params.is_whole and not samples_initial(method)
        optimizer = Optimizer(self.policy.model, TrainConfig(method="none", learning_rate=0.0), 1)
        return Learner(self.policy, self.initial, method, optimizer, self.micro_batch_tokens, samples_itself=whole)


def run_of(model: str) -> dict[str, Any] | None:
    """The configuration of the run in this folder; None for a model."""
    path = Path(model) / "config.yaml"
    if not path.is_file():
        return None
    run = dict(config_file.read(path).values)
    for name in ("method", "model"):
        if not isinstance(run.get(name), str):
            raise DamageError(f"{path} names no {name}: put the run's configuration back as it was")
    return run


def filled(config: AnyConfig) -> AnyConfig:
    """The configuration with the run's own answers where nothing was given, or those of the embedded model."""
    run = run_of(config.model)
    missing: dict[str, Any] = {"dataset": HELD_OUT}
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
        place = f"{Path(config.model) / 'config.yaml'}: {'.'.join(map(str, first['loc']))}"
        raise DamageError(f"{place}: {first['msg']}: put the run's configuration back as it was") from None
    return config.model_copy(update={name: getattr(checked, name) for name in missing})


@dataclass(frozen=True)
class Point:
    """A model on the way of a run: its name, its place, and the share of the run's steps that it has behind it."""

    name: str
    place: str
    progress: float = 0.0
    step: int = 0


def points(model: str) -> list[Point]:
    """A run's initial model and its whole checkpoints, in order; for a model only itself."""
    run = run_of(model)
    if run is None:
        return [Point(Path(model).name, model)]
    saved = [path for path in checkpoint.folders(Path(model)) if checkpoint.find_damage(path) is None]
    if not saved:
        raise ConfigError(f"run {model} has no whole checkpoint to look at")
    steps = [int(path.name.removeprefix("checkpoint-")) for path in saved]
    folder = RunFolder(model)
    rows = [row.get("step") for row in folder.metrics()]
    past = [step for step in rows if isinstance(step, int) and step > 0]
    if len(past) < len(rows):
        raise DamageError(f"{folder.metrics_path}: a row has no step: put the file back as it was")
    last = max([steps[-1], *past])
    passed = (Point(f"step {step}", str(path), step / last, step) for step, path in zip(steps, saved, strict=True))
    return [Point("step 0", str(run["model"])), *passed]


def initial_of(config: BatchOptions) -> str:
    """The initial model: the one that is named, a run's own, or the model itself."""
    run = run_of(config.model) or {}
    return config.initial or str(run.get("anchor_model") or run.get("model") or config.model)


def progress_at(config: BatchOptions, point: Point) -> float:
    """Where schedules stand: as given, else where the run stood."""
    return config.progress if config.progress is not None else point.progress


def sampled_at(config: CoefficientsConfig) -> tuple[Point, str]:
    """The model to look at, and a sentence about it.

    For a run it is the newest checkpoint; for the samples of a step, the policy that drew them if it was saved, else
    the nearest one.
    """
    found = points(config.model)
    if config.step is None:
        return found[-1], f"a fresh batch of {config.num_problems} problems at {found[-1].name} of {config.model}"
    before = config.step - 1
    point = min(found, key=lambda each: abs(each.step - before))
    gap = "which drew them" if point.step == before else "the nearest policy that was saved; ratios count from it"
    return point, f"the samples of step {config.step} of {config.model}, under {point.name}, {gap}"


def scene(config: SceneOptions, place: str, initial: str) -> Scene:
    """Everything loaded; ConfigError for data without problems."""
    policy, tokenizer = load_any(place, config.dtype, config.device, trains=True)
    first = policy if initial == place else load_any(initial, config.dtype, config.device, trains=True)[0]
    set_threads(config.threads, policy)
    renderer = Renderer.of(tokenizer, config, policy.model.generation_config.eos_token_id)
    params = sampling_params(config, renderer.stop_ids)
    run = run_of(config.model) or {}
    graded = TrainConfig(method="none", reward_model=run.get("reward_model"), dtype=config.dtype, device=config.device)
    return Scene(
        policy,
        first,
        tokenizer,
        renderer,
        params,
        problems_of(config),
        config.seed,
        config.micro_batch_tokens,
        load_reward_model(graded, tokenizer),
        run.get("format_reward", 0.0),
    )


def problems_of(config: SceneOptions) -> list[Problem]:
    """The problems of an analysis; ConfigError where there are none."""
    dataset, split, run = str(config.dataset), config.dataset_split, run_of(config.model) or {}
    num = run.get("num_problems") if (dataset, split) == (run.get("dataset"), run.get("dataset_split")) else None
    found = load_dataset(dataset, split=split, num_problems=num, seed=config.seed, verifier=config.verifier)
    if not found:
        raise ConfigError(f"data set {dataset!r} has no problems")
    return found


def chosen(config: BatchOptions) -> list[Named]:
    """The methods asked for, or the run's own with its options; of a course every lane.

    ConfigError where none is named, or one needs what only a run has (a critic, a reward model) or the data lack.
    """
    run = run_of(config.model)
    if config.methods is None and run is None:
        raise ConfigError("--methods: which? name one or several, separated by commas; only a run has its own")
    found = []
    for name in config.methods or (str((run or {})["method"]),):
        own = run if run is not None and name == run["method"] else {}
        known = methods.parameters(methods.find(name))
        paper = as_schedule(methods.build(name)).run
        given = {"num_generations": config.num_generations, "max_completion_length": config.max_completion_length}
        options = {each: value for source in (paper, own or {}) for each, value in source.items() if each in known}
        options |= {each: value for each, value in given.items() if each in known and value is not None}
        stages = as_schedule(methods.build(name, options)).methods
        found += [Named(name if len(stages) == 1 else f"{name}, lane {i}", stage) for i, stage in enumerate(stages)]
    for each in found:
        check(each)
    return found


def check(named: Named) -> None:
    """ConfigError for a method whose gradient needs what is not here."""
    method = named.method
    lacks = {
        "trains no policy": not method.trains_policy,
        "needs a critic, which only its run has": method.critic is not None,
        "changes what the policy reads": method.inputs is not None,
    }
    for what, is_so in lacks.items():
        if is_so:
            raise ConfigError(f"--methods: {named.name} {what}")
    check_method(named.name, method)


def check_data(config: BatchOptions, here: Scene, found: Sequence[Named]) -> None:
    """ConfigError where no problem has what a method learns from, or samples that it grades cannot be graded."""
    for named in found:
        graded_by = "the run's own" if here.scorer is not None else None
        asked = TrainConfig(method=named.name, dataset=str(config.dataset), reward_model=graded_by)
        requirements.check_data(asked, named.method, here.problems)
