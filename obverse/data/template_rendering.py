"""Rendering of rows by a chat template, with checks that no part of a row is omitted. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obverse.data.chat_template import (
    ERRORS,
    FIXED_DATE,
    REASONING,
    ChatTemplate,
    PromptFormat,
    TooLargeError,
    compiled,
    first_line,
)
from obverse.errors import ConfigError, DataError
from obverse.types import Message, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Forty-two."  # content of test messages that find out how a template writes messages
LINKS = frozenset({"role", "content", "tool_call_id"})  # keys of a message; an id only refers to a call
RESERVED = frozenset(
    {"messages", "add_generation_prompt", "tools", "documents"}
)  # variables that are set by the renderer


class TemplateRenderer:
    """A prompt format with its inputs: the tokenizer's special tokens, a system prompt and template variables.

    Raises ConfigError for variables that the template does not read.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: PromptFormat,
        system_prompt: str | None,
        variables: Mapping[str, Any],
    ) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.system_prompt, self.variables = system_prompt, variables
        self._special = getattr(tokenizer, "special_tokens_map", {})
        self._refuse_variables()
        self.takes_system = layout.jinja is None or self._keeps_system_messages()

    def messages(self, problem: Problem) -> list[Message]:
        """Return the prompt as messages, with the system prompt if the problem has none."""
        prompt = problem.prompt
        messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise ConfigError(f"problem {problem.id}: the prompt has no messages")
        if self.system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        if not self.takes_system and messages[0]["role"] == "system" and len(messages) > 1:
            system, user = messages[:2]
            messages[:2] = [{**user, "content": f"{system['content']}\n\n{user['content']}"}]
        return messages

    def values(self, problem: Problem) -> dict[str, Any]:
        """Return the row's template variables. Raises DataError for one that the template does not read."""
        row_values = problem.template
        values = {"tools": row_values["tools"]} if "tools" in row_values else {}
        values |= row_values.get("chat_template_kwargs", {})
        template = self.template(values)
        for name in values:
            if template is None or name not in template.variables:
                reason = "there is no chat template" if template is None else f"{template.name} does not read it"
                raise DataError(
                    f"problem {problem.id}: {name} is for chat templates, and {reason}: take it out or give another one"
                )
        return values

    def _refuse_variables(self) -> None:
        """Raise ConfigError for a variable that the template does not read."""
        template = self.template()
        for name in self.variables:
            if template is None or name not in template.variables or name in RESERVED:
                read = sorted(template.variables - RESERVED - self._special.keys()) if template else []
                hint = f"the names in it are {', '.join(read)[:300]}" if read else "it reads none"
                raise ConfigError(f"chat_template_kwargs: the chat template does not read {name!r}; {hint}")

    def check_nothing_omitted(self, messages: list[Message], values: Mapping[str, Any], text: str, where: str) -> None:
        """Raise DataError for a message, or a key of a message, that the template omits."""
        template = self.template(values)

        def changes(number: int, message: Message) -> bool:
            changed = [*messages[:number], message, *messages[number + 1 :]]
            return self.differs(changed, values, text, where=where, answer_next=True)

        for number, message in enumerate(messages):
            location = f"{where}: message {number + 1} ({message['role']})"
            content = message["content"]
            is_there = not content.strip() or content.strip() in text
            if not is_there and not changes(number, {**message, "content": content + PROBE}):
                raise DataError(
                    f"{location}: the chat template does not write it: take it out, or give another template"
                )
            for key in message.keys() - LINKS:
                is_name = (
                    key == "name" and message["role"] == "tool"
                )  # the function's name, which is part of the call too
                words = set(REASONING) if key in REASONING else {key}
                if is_name or template is None or template.words & words:
                    continue
                if not changes(number, {name: value for name, value in message.items() if name != key}):
                    raise DataError(
                        f"{location}: {key}: the chat template does not read it: take it out, or give another template"
                    )

    def template(self, values: Mapping[str, Any] | None = None) -> ChatTemplate | None:
        """Return the template for these variables; some tokenizers have a separate one for tools."""
        if self.layout.jinja is None:
            return None
        source = self.layout.jinja_tools if values and "tools" in values else None
        return compiled(self.layout.name, source or self.layout.jinja)

    def render(
        self, messages: Sequence[Message], values: Mapping[str, Any] | None = None, *, where: str, answer_next: bool
    ) -> str:
        template = self.template(values)
        assert template is not None
        variables = {"tools": None, "documents": None, "date_string": FIXED_DATE, **self.variables, **(values or {})}
        try:
            return template.render(messages, add_generation_prompt=answer_next, **{**self._special, **variables})
        except ERRORS as error:
            problem = (
                "cannot be rendered" if isinstance(error, TooLargeError | RecursionError) else "refuses its messages"
            )
            location = f"{where}: " if where else ""
            raise ConfigError(
                f"{location}the chat template ({self.layout.name}) {problem}: {first_line(error)}"
            ) from error

    def render_by(self, source: str, messages: Sequence[Message]) -> str:
        """Return a prompt as other programs render it, with a template and the tokenizer's special tokens only."""
        template = compiled("as it is stored", source)
        return template.render(messages, add_generation_prompt=True, tools=None, documents=None, **self._special)

    def differs(
        self, messages: Sequence[Message], values: Mapping[str, Any], text: str, *, where: str, answer_next: bool
    ) -> bool:
        """Return whether rendering messages gives another text than `text`, or an error."""
        try:
            return self.render(messages, values, where=where, answer_next=answer_next) != text
        except ConfigError:
            return True

    def _keeps_system_messages(self) -> bool:
        messages = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
        try:
            return PROBE in self.render(messages, where="", answer_next=True)
        except ConfigError:
            return False

    def template_text(self) -> str:
        """Return the text that the template writes around messages."""
        if self.layout.jinja is None:
            return self.layout.form
        messages = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
        parts = [(messages, False), (messages[:1], True)]
        if self.takes_system:
            parts.append(([{"role": "system", "content": PROBE}, *messages[:1]], True))
        return "".join(self.render(turns, where="", answer_next=add_prompt) for turns, add_prompt in parts)

    def turn_end(self) -> tuple[str, str | None]:
        """Return the text that the template writes after an answer up to its first control token, and that token.

        Without a template, or if it writes no control token, the token is None and EOS ends the answer.
        """
        if self.layout.jinja is None:
            return "", None
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        _, is_there, after = self.render(messages, where="", answer_next=False).rpartition(PROBE)
        if not is_there:
            raise ConfigError(f"the chat template ({self.layout.name}) does not write the assistant's messages")
        tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.content.strip()]
        candidates = [(after.find(token), -len(token), token) for token in tokens if token in after]
        if not candidates:
            return after.rstrip(), None
        start, _, token = min(candidates)
        return after[:start], token
