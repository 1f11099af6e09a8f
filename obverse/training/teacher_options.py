"""Checks of the options and rows of a run's teachers, before a model is loaded. No torch import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from obverse.config.train import TrainConfig
from obverse.data.teacher_prompts import read_teacher_template
from obverse.errors import ConfigError, DataError
from obverse.estimator.schedule import TrainingSchedule
from obverse.estimator.teacher import Teacher
from obverse.types import Problem

OF_MODELS = frozenset({"teacher_model", "teacher_field", "teacher_url", "teacher_name"})  # which other model it is
OF_PROMPTS = frozenset({"teacher_template", "max_teacher_prompt_length"})
TEACHER_OPTIONS = OF_MODELS | OF_PROMPTS


def teachers(schedule: TrainingSchedule) -> list[Teacher]:
    """The teachers of the schedule's methods."""
    return [method.teacher for method in schedule.methods if method.teacher is not None]


def used_teacher_options(schedule: TrainingSchedule) -> frozenset[str]:
    """The names of the teacher options that have an effect on the schedule's methods."""
    declared = teachers(schedule)
    reads_model = any(teacher.who == "model" for teacher in declared)
    has_context = any(kind != "prompt" for teacher in declared for kind in teacher.contexts)
    return (OF_MODELS if reads_model else frozenset()) | (OF_PROMPTS if has_context else frozenset())


def check_teacher_options(config: TrainConfig, schedule: TrainingSchedule) -> None:
    """Raise ConfigError for options of teachers that the method needs and lacks, or that it does not use."""
    declared, used = teachers(schedule), used_teacher_options(schedule)
    if used >= OF_MODELS and not config.teacher_models and config.teacher_url is None:
        raise ConfigError(
            f"method {config.method} has another model as its teacher: give --teacher_model, or --teacher_url"
        )
    for name in sorted(TEACHER_OPTIONS - used):
        if getattr(config, name) is None:
            continue
        if name in OF_PROMPTS:
            raise ConfigError(f"--{name}: {config.method} has no teacher with a prompt of its own: leave it out")
        kind = declared[0].who if declared else "none"
        raise ConfigError(f"--{name}: {config.method} reads no other model (its teacher: {kind}): leave it out")
    read_teacher_template(config.teacher_template)
    thresholds = [teacher.threshold for teacher in declared if "sibling" in teacher.contexts]
    if thresholds and config.format_reward >= min(thresholds):
        raise ConfigError(
            f"--format_reward {config.format_reward:g}: {config.method} reads answers with a reward of at least "
            f"{min(thresholds):g} as correct ones, and would read wrong answers in the right format: lower it"
        )
    if len({teacher.rate for teacher in declared if teacher.who == "average"}) > 1:
        raise ConfigError(f"method {config.method}: its stages average the policy's weights at different rates")
    several = len(config.teacher_models) > 1
    if several and _compares_distributions(schedule):
        raise ConfigError(
            f"--teacher_field: the divergence of {config.method} reads the distribution of one teacher: give one"
        )
    _check_served_teacher(config, schedule)


def _compares_distributions(schedule: TrainingSchedule) -> bool:
    """Whether a method reads its teacher's distribution over the vocabulary, and not only log-probs of tokens."""
    return any(method.compares_with("teacher") for method in schedule.methods)


def _check_served_teacher(config: TrainConfig, schedule: TrainingSchedule) -> None:
    """Raise ConfigError for options that a teacher behind a server cannot serve."""
    if config.teacher_url is None:
        return
    if _compares_distributions(schedule):
        raise ConfigError(
            f"--teacher_url: {config.method} compares whole distributions, and servers return log-probs of the given "
            "tokens only: load the teacher by --teacher_model"
        )
    if config.temperature != 1:
        raise ConfigError(
            f"--teacher_url: servers return log-probs of a prompt at temperature 1, and --temperature "
            f"{config.temperature:g} trains another distribution: leave --temperature at 1, or load the teacher by "
            "--teacher_model"
        )
    if config.sampler == "vllm" and server_of(config.teacher_url) == server_of(config.vllm_url):
        raise ConfigError(
            "--teacher_url: the server of --vllm_url receives the policy's weights, and would be the policy itself: "
            "start another one for the teacher"
        )


def server_of(url: str) -> str:
    """The address of a server, of which OpenAI's clients give the prefix of its endpoints, http://HOST:PORT/v1."""
    return url.rstrip("/").removesuffix("/v1")


def check_teacher_rows(config: TrainConfig, schedule: TrainingSchedule, problems: Sequence[Problem]) -> None:
    """Raise DataError for rows that name no teacher, ConfigError where no row has what the teacher is to read."""
    if config.teacher_field is not None:
        refuse_rows_without_teacher(problems, config.teacher_field, config.teacher_models)
    reads_only_demonstrations = any(teacher.contexts == ("demonstration",) for teacher in teachers(schedule))
    if reads_only_demonstrations and not any(problem.demonstration for problem in problems):
        raise ConfigError(
            f"method {config.method!r} has a teacher that reads demonstrations and {config.dataset!r} has none: add "
            "the column"
        )


def teacher_of_row(problem: Problem, field: str | None) -> str:
    """The value of a row's field that names its teacher; "" without a field."""
    return "" if field is None else str(problem.meta.get(field, ""))


def refuse_rows_without_teacher(problems: Sequence[Problem], field: str | None, models: Mapping[str, str]) -> None:
    """Raise DataError if a row's field names none of the teachers."""
    wrong = [
        (number, problem)
        for number, problem in enumerate(problems, start=1)
        if teacher_of_row(problem, field) not in models
    ]
    if wrong:
        number, problem = wrong[0]
        value = problem.meta.get(field or "")
        held = f"{field} is {value!r:.60}" if value is not None else f"it has no field {field}"
        raise DataError(
            f"row {number} ({problem.id}): {held}, and --teacher_model has teachers for {', '.join(sorted(models))} "
            f"({len(wrong)} of {len(problems)} rows name none): add a teacher, or drop these rows"
        )
