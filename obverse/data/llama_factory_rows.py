"""Rows of LLaMA-Factory, alpaca and sharegpt, as rows with messages.

    alpaca      instruction, output       with input, system, history; the last turn is the demonstration
                instruction, chosen, rejected
    sharegpt    conversations             turns of {"from": "human", "value": ...}, with system
                conversations, chosen, rejected

The prompt of alpaca is the instruction, a line feed and the input, as in LLaMA-Factory.
"""

from __future__ import annotations

from typing import Any

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
OTHER_LAYOUTS = frozenset({"prompt", "messages", "question", "problem"})  # keys of rows that are read as they are


def with_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row of LLaMA-Factory with `messages`, or with `prompt` for a pair; any other row unchanged.

    Example:
        with_messages({"instruction": "Add.", "input": "1+2", "output": "3"})
        == {"messages": [{"role": "user", "content": "Add.\\n1+2"}, {"role": "assistant", "content": "3"}]}
    """
    if OTHER_LAYOUTS & row.keys():
        return row
    keys: tuple[str, ...] = ("conversations", "system")
    if "conversations" in row:
        turns = _turns(row["conversations"])
    elif isinstance(row.get("instruction"), str) and isinstance(row.get("input", ""), str):
        keys, turns = ("instruction", "input", "system", "history"), _past_turns(row.get("history", []))
        text = "\n".join(filter(None, [row["instruction"], row.get("input")]))
        turns = None if turns is None else [*turns, _message("user", text)]
    else:
        return row
    if turns is None or not isinstance(row.get("system", ""), str):
        return row
    system = [_message("system", row["system"])] if row.get("system") else []
    rest = {key: value for key, value in row.items() if key not in keys}
    if "chosen" in row and "rejected" in row:
        pair = {key: _response(row[key]) for key in ("chosen", "rejected")}
        return {**rest, "prompt": [*system, *turns], **pair} if all(pair.values()) else row
    if "conversations" in row:
        return {**rest, "messages": [*system, *turns]}
    if not isinstance(output := rest.pop("output", None), str):
        return row
    return {**rest, "messages": [*system, *turns, _message("assistant", output)]}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _turns(values: Any) -> list[dict[str, str]] | None:
    """The turns of sharegpt as messages; None where one is not text of a known role."""
    if not isinstance(values, list):
        return None
    messages = [
        _message(ROLES[value["from"]], value["value"])
        for value in values
        if isinstance(value, dict) and value.get("from") in ROLES and isinstance(value.get("value"), str)
    ]
    return messages if len(messages) == len(values) else None


def _past_turns(history: Any) -> list[dict[str, str]] | None:
    """The past turns of alpaca, pairs of two texts, as messages; None for anything else."""
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        return None
    texts = [text for pair in history for text in pair]
    if not all(isinstance(text, str) for text in texts):
        return None
    return [_message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]


def _response(value: Any) -> list[dict[str, str]] | None:
    """A response of a pair, a text or a turn of sharegpt, as messages; None for anything else."""
    return [_message("assistant", value)] if isinstance(value, str) else _turns([value])
