"""Validation of prompts, demonstrations and chat messages in rows; `UnusableError` has the reason of a rejection."""

from __future__ import annotations

import json
from typing import Any

from obverse.data.chat_template import REASONING
from obverse.types import Message, Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


class UnusableError(ValueError):
    """A value that its field cannot have; the message is the reason in the report."""


def kind(value: object) -> str:
    """Return the type of a JSON value, in words."""
    return "null" if value is None else KINDS.get(type(value), type(value).__name__)


def as_prompt(value: Any) -> Prompt:
    """Return a prompt: a text that is not blank, or messages after which the assistant's turn follows."""
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
    """Return chat messages with a known `role`, a text as `content`, and only texts in other keys."""
    if not isinstance(value, list):
        raise UnusableError(f"not a list of messages but {kind(value)}")
    if not value:
        raise UnusableError("empty")
    return [_message(item, number) for number, item in enumerate(value, start=1)]


def as_answer(value: Any) -> tuple[tuple[str, ...], Message]:
    """Return the steps of a demonstration, and the other keys of its message: reasoning, tool calls.

    A text, or a list with one assistant message, is one step; a list of texts has one step per text.
    """
    if isinstance(value, list) and value and isinstance(value[0], dict):
        messages = as_messages(value)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages[:5])
            raise UnusableError(f"expected one assistant message, found {len(messages)} ({roles})")
        return _content_and_extra(messages[0])
    return as_steps(value), {}


def as_steps(value: Any) -> tuple[str, ...]:
    """Return the steps of a demonstration: a text is one step, a list of texts has one step per text."""
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
    """Return a response: a text that is not blank."""
    if not isinstance(value, str):
        raise UnusableError(f"neither text nor messages but {kind(value)}")
    if not value or value.isspace():
        raise UnusableError("empty")
    return value


def split_last(value: Any) -> tuple[list[Message], str, Message]:
    """Return the prompt, the response and the other keys of the last message of a conversation; see `as_answer`."""
    messages = as_messages(value)
    if messages[-1]["role"] != "assistant":
        raise UnusableError(f"the last message is from {messages[-1]['role']}, not from the assistant")
    if len(messages) == 1:
        raise UnusableError("no message before the assistant's")
    as_prompt(messages[:-1])
    (text,), extra = _content_and_extra(messages[-1])
    return messages[:-1], text, extra


def _content_and_extra(message: Message) -> tuple[tuple[str], Message]:
    extra = {key: value for key, value in message.items() if key not in ("role", "content")}
    if not message["content"].strip() and "tool_calls" not in extra:
        raise UnusableError("empty")
    return (message["content"],), extra


def as_objects(value: Any) -> list[dict[str, Any]]:
    """Return a list of objects from a list or its JSON; nulls in objects, which tables fill in, are removed."""
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UnusableError("not a list of objects, nor the JSON of one")
    result: list[dict[str, Any]] = without_null(value)
    return result


def as_object(value: Any) -> dict[str, Any]:
    """Return an object from an object or its JSON; nulls are removed."""
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, dict):
        raise UnusableError("not an object, nor the JSON of one")
    result: dict[str, Any] = without_null(value)
    return result


def without_null(value: Any) -> Any:
    """Return the value without keys whose value is null, recursively."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise UnusableError(f"message {number} is not an object but {kind(item)}")
    item = {key: value for key, value in item.items() if value is not None and (key != "tool_calls" or value != [])}
    calls = item.pop("tool_calls", None)
    if calls is not None and item.get("role") == "assistant":
        item.setdefault("content", "")
    for key in ("role", "content"):
        if key not in item:
            raise UnusableError(f"message {number} has no {key}")
    for key, value in item.items():
        if not isinstance(value, str):
            raise UnusableError(f"message {number}: {key} is not text but {kind(value)}")
    if item["role"] not in ROLES:
        raise UnusableError(f"message {number}: unknown role {item['role'][:40]!a}; there are {', '.join(ROLES)}")
    if thoughts := [key for key in REASONING if key in item][1:]:
        raise UnusableError(f"message {number}: {thoughts[0]} is another name of its reasoning; keep one of them")
    if calls is not None:
        if item["role"] != "assistant":
            raise UnusableError(f"message {number}: tool_calls of {item['role']}, which only the assistant makes")
        try:
            item["tool_calls"] = as_objects(calls)
        except UnusableError as error:
            raise UnusableError(f"message {number}: tool_calls: {error}") from None
    extra = {key: value for key, value in item.items() if key not in ("role", "content")}
    return {"role": item["role"], "content": item["content"], **extra}
