"""Checks of a run's teachers before its first step: options, rows, and the lengths of the prompts that they read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from obverse.config.train import TrainConfig
from obverse.data.renderer import Renderer
from obverse.data.teacher_prompts import TeacherPrompts, read_teacher_template
from obverse.distributed.fsdp import fsdp_forward
from obverse.errors import ConfigError
from obverse.estimator.schedule import TrainingSchedule
from obverse.estimator.teacher import Teacher, TeacherContext
from obverse.models.context_limits import MARGIN, SAMPLED, Remedies, TextLength, check
from obverse.models.position_limits import num_positions, rated_positions
from obverse.runtime.callbacks import Watcher
from obverse.training.teacher_options import teachers
from obverse.types import Problem

OF_ROLLOUTS = ("sibling", "feedback")  # contexts that are known after grading only


def teacher_prompts(
    config: TrainConfig, schedule: TrainingSchedule, renderer: Renderer, models: Mapping[str, Any]
) -> TeacherPrompts | None:
    """The renderer of the prompts that the schedule's teachers read; None without a teacher.

    Contexts of rollouts are cut so that prompt and longest completion fit the positions of each of `models`.
    """
    declared = teachers(schedule)
    if not declared:
        return None
    limits = [config.max_teacher_prompt_length]
    if any(kind in OF_ROLLOUTS for teacher in declared for kind in teacher.contexts):
        limits += [_room(model, config.max_completion_length) for model in models.values()]
    limit = min((limit for limit in limits if limit is not None), default=None)
    return TeacherPrompts(renderer, read_teacher_template(config.teacher_template), limit)


def _room(model: Any, num_more: int) -> int | None:
    """The tokens that a model can read before `num_more` others; None without a limit."""
    limit: int | None = fsdp_forward(model, lambda: num_positions(model)) or rated_positions(model)
    return None if limit is None else max(1, limit - num_more)


def fitting_problems(
    problems: list[Problem], schedule: TrainingSchedule, prompts: TeacherPrompts, config: TrainConfig, watcher: Watcher
) -> list[Problem]:
    """The problems with demonstrations that fit --max_teacher_prompt_length; notes how many do not fit or have none.

    Raises DataError for a context that the chat template does not write, ConfigError if no problem is left.
    """
    declared, limit, short = teachers(schedule), config.max_teacher_prompt_length, problems
    if limit is not None:
        short = [problem for problem in problems if all(n <= limit for n in lengths(problem, declared, prompts))]
    if not short:
        raise ConfigError(f"no prompt of the teacher has at most {limit} tokens: raise --max_teacher_prompt_length")
    if len(short) < len(problems):
        watcher.note(
            f"{len(problems) - len(short)} of {len(problems)} problems left out by --max_teacher_prompt_length"
        )
    num_without = sum(not problem.demonstration for problem in short)
    if num_without and all(teacher.contexts == ("demonstration",) for teacher in declared):
        if num_without == len(short):
            raise ConfigError(
                "no problem with a demonstration is left for the teacher to read: raise --max_prompt_length or "
                "--max_teacher_prompt_length"
            )
        watcher.note(
            f"{num_without} of {len(short)} problems have no demonstration for the teacher to read: tokens that it "
            "should score are not trained there"
        )
    return short


def lengths(problem: Problem, declared: Sequence[Teacher], prompts: TeacherPrompts) -> list[int]:
    """Tokens of the prompt that each teacher reads of a problem as far as it is known before the run.

    Contexts of rollouts, which are cut to fit, count as empty ones.
    """
    uncut = TeacherPrompts(prompts.renderer, prompts.template)
    return [len(uncut.prompt(problem, context)) for teacher in declared for context in contexts(teacher, problem)]


def contexts(teacher: Teacher, problem: Problem) -> Iterable[TeacherContext]:
    """The contexts of a teacher for a problem before anything was sampled."""
    for kind in teacher.contexts:
        if kind == "demonstration" and problem.demonstration and not set(teacher.contexts) & {*OF_ROLLOUTS}:
            yield TeacherContext(kind, problem.demonstration_text)
        elif kind != "demonstration" or problem.demonstration:
            yield TeacherContext(kind, "")


def check_teacher_lengths(
    problems: Sequence[Problem],
    schedule: TrainingSchedule,
    prompts: TeacherPrompts,
    models: Mapping[str, Any],
    max_tokens: int,
    watcher: Watcher,
) -> None:
    """Raise ConfigError for a prompt with a completion of `max_tokens` that a teacher has too few positions for."""
    declared = teachers(schedule)
    if not problems:
        return
    frame = len(prompts.renderer.prompt_text(problems[0]).encode("utf-8", "replace")) + MARGIN

    def texts(above: int) -> Iterable[TextLength]:
        for problem in problems:
            fields = (str(problem.prompt), problem.demonstration_text, prompts.template or "")
            if sum(len(text.encode("utf-8", "replace")) for text in fields) + 2 * frame + max_tokens <= above:
                continue  # a token has at least one byte
            num_prompt = max(lengths(problem, declared, prompts), default=0)
            if num_prompt + max_tokens > above:
                yield TextLength(problem.id, num_prompt, num_prompt + max_tokens, SAMPLED)

    advice = f"lower --max_completion_length (now {max_tokens}), or leave problems out by --max_teacher_prompt_length"
    check(texts, models, watcher, 1, Remedies(advice, advice))
