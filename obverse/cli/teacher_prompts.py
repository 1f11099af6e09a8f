"""What the teacher of a method reads of a row, for `obverse data show --teacher METHOD`. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from obverse import methods
from obverse.config.commands import DataConfig
from obverse.data.renderer import Renderer
from obverse.data.teacher_prompts import TeacherPrompts, default_template, read_teacher_template, text_of, with_context
from obverse.errors import ConfigError
from obverse.estimator.schedule import as_schedule
from obverse.estimator.teacher import Context, Teacher, TeacherContext
from obverse.types import Problem

# In place of texts that exist in a run only.
PLACEHOLDERS: Mapping[Context, str] = {
    "sibling": "[placeholder: a correct answer of another rollout; --teacher_context gives a text]",
    "feedback": "[placeholder: why the verifier rejects the answer; --teacher_context gives a text]",
}


def teacher_of(config: DataConfig) -> Teacher | None:
    """The teacher of the method in --teacher, None without that option; ConfigError for a method without a teacher."""
    if config.teacher is None:
        for name in ("teacher_template", "teacher_context"):
            if getattr(config, name) is not None:
                raise ConfigError(f"--{name} is for what a teacher reads: give the method by --teacher")
        return None
    schedule = as_schedule(methods.build(config.teacher))
    teachers = [method.teacher for method in schedule.methods if method.teacher is not None]
    if not teachers:
        raise ConfigError(f"--teacher {config.teacher}: this method has no teacher")
    return teachers[0]


def contexts(teacher: Teacher | None, problem: Problem, text: str | None) -> Iterator[TeacherContext]:
    """Every context in which a teacher may read the problem; `text` replaces what exists in a run only."""
    for kind in teacher.contexts if teacher is not None else ():
        if kind == "demonstration" and problem.demonstration:
            yield TeacherContext(kind, problem.demonstration_text)
        elif kind != "demonstration":
            yield TeacherContext(kind, PLACEHOLDERS.get(kind, "") if text is None else text)


def message_of(config: DataConfig, problem: Problem, context: TeacherContext) -> str:
    """The user's message, or the whole text, that the teacher reads."""
    if context.kind != "prompt":
        is_text = config.chat_template != "auto" and not config.chat_template.endswith(".jinja")
        template = read_teacher_template(config.teacher_template) or default_template(context.kind, not is_text)
        problem = with_context(problem, template, text_of(context))
    prompt = problem.prompt
    if isinstance(prompt, str):
        return prompt
    return str(next((message for message in reversed(prompt) if message["role"] == "user"), prompt[-1])["content"])


def tokens_of(
    config: DataConfig, renderer: Renderer, problem: Problem, context: TeacherContext
) -> list[tuple[str, int]]:
    """Text and id of each token of the teacher's prompt."""
    prompts = TeacherPrompts(renderer, read_teacher_template(config.teacher_template))
    return [(renderer.coder.decode([token]), token) for token in prompts.prompt(problem, context).token_ids]
