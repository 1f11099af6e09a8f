"""Prompts, demonstrations and chat messages as rows hold them, checked; `UnusableError` says what is wrong with one."""

from __future__ import annotations

from typing import Any

from obverse.records import Message, Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


class UnusableError(ValueError):
    """A value that its field cannot hold; the text is the reason in the report."""


def kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    return "null" if value is None else KINDS.get(type(value), type(value).__name__)


def as_prompt(value: Any) -> Prompt:
    """Return a prompt, a text or messages, as it is asked: not blank, and the assistant's turn comes next."""
    if isinstance(value, str):
        if not value or value.isspace():
            raise UnusableError("empty")
        return value
    if not isinstance(value, list):
        raise UnusableError(f"neither text nor a list of messages but {kind(value)}")
    messages = as_messages(value)
    if not any(message["content"].strip() for message in messages):
        raise UnusableError("empty")
    if messages[-1]["role"] == "assistant":
        raise UnusableError("ends with an assistant message; a prompt ends where the assistant's turn begins")
    return messages


def as_messages(value: Any) -> list[Message]:
    """Return chat messages, each with a known `role`, a text as `content` and nothing but texts beside them."""
    if not isinstance(value, list):
        raise UnusableError(f"not a list of messages but {kind(value)}")
    if not value:
        raise UnusableError("empty")
    return [_message(item, number) for number, item in enumerate(value, start=1)]


def as_steps(value: Any) -> tuple[str, ...]:
    """Return a demonstration as its steps: a text is one step, a list of texts as many, an assistant message one."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = as_response(value)
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise UnusableError(
            f"neither text, a list of steps nor messages but {kind(value)} (it is read as the demonstration)"
        )
    for number, step in enumerate(value, start=1):
        if not isinstance(step, str):
            raise UnusableError(f"step {number} is not text but {kind(step)}")
    if not "".join(value).strip():
        raise UnusableError("empty")
    return tuple(value)


def as_response(value: Any) -> str:
    """Return what the assistant said, given as a text or as a list with one assistant message."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list):
        messages = as_messages(value)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages[:5])
            raise UnusableError(f"expected one assistant message, found {len(messages)} ({roles})")
        text = messages[0]["content"]
    else:
        raise UnusableError(f"neither text nor messages but {kind(value)}")
    if not text or text.isspace():
        raise UnusableError("empty")
    return text


def split_last(value: Any) -> tuple[list[Message], str]:
    """Return the prompt and the response of a conversation that the assistant ends."""
    messages = as_messages(value)
    if messages[-1]["role"] != "assistant":
        raise UnusableError(f"the last message is from {messages[-1]['role']}, not from the assistant")
    if len(messages) == 1:
        raise UnusableError("no message before the assistant's")
    as_prompt(messages[:-1])
    return messages[:-1], as_response(messages[-1:])


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise UnusableError(f"message {number} is not an object but {kind(item)}")
    for key in ("role", "content"):
        if item.get(key) is None:
            raise UnusableError(f"message {number} has no {key}")
    for key, value in item.items():
        if value is not None and not isinstance(value, str):
            raise UnusableError(f"message {number}: {key} is not text but {kind(value)}")
    if item["role"] not in ROLES:
        raise UnusableError(f"message {number}: unknown role {item['role'][:40]!a}; there are {', '.join(ROLES)}")
    rest = {key: value for key, value in item.items() if value is not None and key not in ("role", "content")}
    return {"role": item["role"], "content": item["content"], **rest}
