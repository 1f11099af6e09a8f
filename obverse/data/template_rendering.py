"""What a chat template writes of a row, and what it must not leave out of one. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obverse.data.chat_template import (
    ERRORS,
    FIXED_DATE,
    REASONING,
    ChatTemplate,
    Layout,
    TooLargeError,
    compiled,
    first_line,
)
from obverse.errors import ConfigError, DataError
from obverse.types import Message, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Forty-two."  # stands for a message when a template is asked how it writes one
LINKS = frozenset({"role", "content", "tool_call_id"})  # of a message; an id only says which call is answered
RESERVED = frozenset({"messages", "add_generation_prompt", "tools", "documents"})  # of a template's variables


class Writer:
    """A layout with all that is given to it: the tokenizer's special tokens, a system prompt, variables.

    Raises ConfigError for variables that the template never reads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        system_prompt: str | None,
        variables: Mapping[str, Any],
    ) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.system_prompt, self.variables = system_prompt, variables
        self._special = getattr(tokenizer, "special_tokens_map", {})
        self._refuse_variables()
        self.takes_system = layout.jinja is None or self._keeps_system_messages()

    def messages(self, problem: Problem) -> list[Message]:
        """The prompt as messages, with the system prompt where the problem has none of its own."""
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
        """The variables that the row gives to the template. Raises DataError for one that it never reads."""
        given = problem.template
        values = {"tools": given["tools"]} if "tools" in given else {}
        values |= given.get("chat_template_kwargs", {})
        template = self.template(values)
        for name in values:
            if template is None or name not in template.variables:
                reason = "there is no chat template" if template is None else f"{template.name} does not read it"
                raise DataError(
                    f"problem {problem.id}: {name} is for chat templates, and {reason}: take it out or give another one"
                )
        return values

    def _refuse_variables(self) -> None:
        """Raise ConfigError for a variable that the template never reads."""
        template = self.template()
        for name in self.variables:
            if template is None or name not in template.variables or name in RESERVED:
                read = sorted(template.variables - RESERVED - self._special.keys()) if template else []
                listed = f"the names in it are {', '.join(read)[:300]}" if read else "it reads none"
                raise ConfigError(f"chat_template_kwargs: the chat template does not read {name!r}; {listed}")

    def refuse_left_out(self, messages: list[Message], values: Mapping[str, Any], text: str, where: str) -> None:
        """Raise DataError for a message, or a key of one, that the template does not write."""
        template = self.template(values)

        def changes(number: int, message: Message) -> bool:
            others = [*messages[:number], message, *messages[number + 1 :]]
            return self.differs(others, values, text, where=where, answer_next=True)

        for number, message in enumerate(messages):
            place = f"{where}: message {number + 1} ({message['role']})"
            content = message["content"]
            is_there = not content.strip() or content.strip() in text
            if not is_there and not changes(number, {**message, "content": content + PROBE}):
                raise DataError(f"{place}: the chat template does not write it: take it out, or give another template")
            for key in message.keys() - LINKS:
                is_name = key == "name" and message["role"] == "tool"  # of the function, which the call names already
                words = set(REASONING) if key in REASONING else {key}
                if is_name or template is None or template.words & words:
                    continue
                if not changes(number, {name: value for name, value in message.items() if name != key}):
                    raise DataError(
                        f"{place}: {key}: the chat template does not read it: take it out, or give another template"
                    )

    def template(self, values: Mapping[str, Any] | None = None) -> ChatTemplate | None:
        """The template for these variables: some tokenizers have another one for tools."""
        if self.layout.jinja is None:
            return None
        source = self.layout.jinja_tools if values and "tools" in values else None
        return compiled(self.layout.name, source or self.layout.jinja)

    def render(
        self, messages: Sequence[Message], values: Mapping[str, Any] | None = None, *, where: str, answer_next: bool
    ) -> str:
        template = self.template(values)
        assert template is not None
        given = {"tools": None, "documents": None, "date_string": FIXED_DATE, **self.variables, **(values or {})}
        try:
            return template.render(messages, add_generation_prompt=answer_next, **{**self._special, **given})
        except ERRORS as error:
            what = "cannot be rendered" if isinstance(error, TooLargeError | RecursionError) else "refuses its messages"
            place = f"{where}: " if where else ""
            raise ConfigError(f"{place}the chat template ({self.layout.name}) {what}: {first_line(error)}") from error

    def render_by(self, source: str, messages: Sequence[Message]) -> str:
        """A prompt as a program writes it that knows nothing but a template and the tokenizer's special tokens."""
        template = compiled("as it is stored", source)
        return template.render(messages, add_generation_prompt=True, tools=None, documents=None, **self._special)

    def differs(
        self, messages: Sequence[Message], values: Mapping[str, Any], text: str, *, where: str, answer_next: bool
    ) -> bool:
        """Whether the template writes something else than `text` of messages, or refuses them."""
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

    def written(self) -> str:
        """What the template writes of itself around messages."""
        if self.layout.jinja is None:
            return self.layout.form
        messages = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
        parts = [(messages, False), (messages[:1], True)]
        if self.takes_system:
            parts.append(([{"role": "system", "content": PROBE}, *messages[:1]], True))
        return "".join(self.render(turns, where="", answer_next=next_) for turns, next_ in parts)

    def turn_end(self) -> tuple[str, str | None]:
        """What the template writes after an answer: the text before its first control token, and that token.

        Without a template, or where it writes no control token, the token is None: eos ends the answer.
        """
        if self.layout.jinja is None:
            return "", None
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        _, is_there, after = self.render(messages, where="", answer_next=False).rpartition(PROBE)
        if not is_there:
            raise ConfigError(f"the chat template ({self.layout.name}) does not write the assistant's messages")
        tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.content.strip()]
        places = [(after.find(token), -len(token), token) for token in tokens if token in after]
        if not places:
            return after.rstrip(), None
        place, _, token = min(places)
        return after[:place], token
