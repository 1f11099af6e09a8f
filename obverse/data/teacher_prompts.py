"""Prompts of a teacher: the problem's prompt with a demonstration, a right answer or the verifier's feedback in it.

Context and question are one user turn, as in OPSD (2601.18734), SDFT (2601.19897) and SDPO (2601.20802): the question,
the context, and the request to answer the question. The wording is obverse's own. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.estimator.teacher import Context, TeacherContext
from obverse.rewards.reasoning_blocks import span
from obverse.types import Message, ModelInput, Problem

CHAT_TEMPLATES: Mapping[Context, str] = {
    "demonstration": (
        "{prompt}\n\nFor reference, this is a worked solution of the problem:\n\n{context}\n\n"
        "Now solve the problem yourself, with your own reasoning."
    ),
    "sibling": (
        "{prompt}\n\nFor reference, this is a correct answer to the problem:\n\n{context}\n\n"
        "Now solve the problem yourself, with your own reasoning."
    ),
    "feedback": (
        "{prompt}\n\nAn earlier attempt at this problem was not correct. The feedback on it:\n\n{context}\n\n"
        "Now solve the problem correctly."
    ),
}
# Without a chat template the model continues the prompt, which therefore comes last.
TEXT_TEMPLATES: Mapping[Context, str] = {
    "demonstration": "Worked solution: {context}\n\n{prompt}",
    "sibling": "Correct answer: {context}\n\n{prompt}",
    "feedback": "Feedback on an earlier attempt: {context}\n\n{prompt}",
}
PLACES = re.compile(r"\{(prompt|context)\}")


def read_teacher_template(value: str | None) -> str | None:
    """The text of --teacher_template: `value` itself if it has {prompt}, else the content of the file; None for None.

    Raises ConfigError for a file that cannot be read and for a text without {prompt} or {context}.
    """
    if value is None:
        return None
    text = value
    if "{prompt}" not in value:
        try:
            text = Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--teacher_template: {value!r:.80} has no {{prompt}}, and is no readable file: {error}"
            ) from None
    if missing := sorted({"prompt", "context"} - set(PLACES.findall(text))):
        raise ConfigError(f"--teacher_template: the text has no {{{missing[0]}}}")
    return text


@dataclass(frozen=True)
class TeacherPrompts:
    """Renders the prompts that a teacher reads.

    Args:
        renderer: Of the policy's tokenizer and chat template, which the teacher shares.
        template: Text of every context with {prompt} and {context}; None: the one for its kind, of `CHAT_TEMPLATES` or,
            without a chat template, of `TEXT_TEMPLATES`.
        max_tokens: A context is cut at its end until the prompt has at most this many tokens (as SDPO cuts its
            prompts); None: no limit.
    """

    renderer: Renderer
    template: str | None = None
    max_tokens: int | None = None

    def prompt(self, problem: Problem, context: TeacherContext) -> ModelInput:
        """The teacher's prompt; the policy's own for the context `prompt`.

        The context is text: control tokens in it are read as text unless --parse_special_tokens is set. Thinking blocks
        of a sibling's answer are left out.
        """
        if context.kind == "prompt":
            return self.renderer.prompt(problem)
        text = text_of(context)
        prompt = self._render(problem, context.kind, text)
        ids = self.renderer.coder.encode(text)
        num_kept = len(ids)
        while self.max_tokens is not None and len(prompt) > self.max_tokens and num_kept > 0:
            num_kept = max(0, num_kept - (len(prompt) - self.max_tokens))
            prompt = self._render(problem, context.kind, self.renderer.coder.decode(ids[:num_kept]).rstrip("\ufffd"))
        return prompt

    def _render(self, problem: Problem, kind: Context, text: str) -> ModelInput:
        template = self.template or default_template(kind, self.renderer.layout.jinja is not None)
        return self.renderer.prompt(with_context(problem, template, text))


def default_template(kind: Context, has_chat_template: bool) -> str:
    """The template of a kind of context, for a model with or without a chat template."""
    return (CHAT_TEMPLATES if has_chat_template else TEXT_TEMPLATES)[kind]


def with_context(problem: Problem, template: str, text: str) -> Problem:
    """The problem with `template` in place of its last user message (or whole text), which is filled in with `text`."""

    def filled(prompt: str) -> str:
        return PLACES.sub(lambda place: prompt if place[1] == "prompt" else text, template)

    if isinstance(problem.prompt, str):
        return replace(problem, prompt=filled(problem.prompt))
    messages: list[Message] = [*problem.prompt]
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if messages:
        number = users[-1] if users else len(messages) - 1
        messages[number] = {**messages[number], "content": filled(messages[number]["content"])}
    return replace(problem, prompt=messages)


def text_of(context: TeacherContext) -> str:
    """What the teacher reads of a context: of a sibling's answer what follows its blocks of reasoning, if anything."""
    if context.kind != "sibling":
        return context.text
    start, end = span(context.text)
    return context.text[start:end].strip() or context.text.strip()
