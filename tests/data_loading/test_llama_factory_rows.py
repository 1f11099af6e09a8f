"""Rows of LLaMA-Factory: the same prompt and trained response as there, and no change to rows of other layouts."""

from __future__ import annotations

from typing import Any

import pytest

from obverse.data.layouts import Flaw, RowLocation, read_row
from obverse.data.llama_factory_rows import with_messages
from obverse.types import Problem


def problem(row: dict[str, Any]) -> Problem:
    read = read_row(row, RowLocation("rows.jsonl", 1))
    assert isinstance(read, Problem), read
    return read


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
RESPONSES = {"chosen": "a", "rejected": "b"}
TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}, {"from": "human", "value": "and?"}]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (
            {"instruction": "Add.", "input": "1+2", "output": "3", "system": "Be brief."},
            [SYSTEM, user("Add.\n1+2"), assistant("3")],
        ),
        (
            {"instruction": "and?", "input": "", "output": "3", "history": [["hi", "yo"]]},
            [user("hi"), assistant("yo"), user("and?"), assistant("3")],
        ),
        (
            {"conversations": [*TURNS, {"from": "gpt", "value": "no"}], "system": "Be brief."},
            [SYSTEM, user("hi"), assistant("yo"), user("and?"), assistant("no")],
        ),
    ],
)
def test_the_last_turn_is_the_demonstration(row: dict[str, Any], messages: list[dict[str, str]]) -> None:
    expected = problem({"messages": messages})
    read = problem({**row, "source": "x"})
    assert (read.prompt, read.demonstration, read.meta) == (expected.prompt, expected.demonstration, {"source": "x"})


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "hi", "chosen": "a", "rejected": "b"},
        {
            "conversations": TURNS[:1],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
    ],
)
def test_pairs(row: dict[str, Any]) -> None:
    expected = problem({"prompt": [user("hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]})
    assert problem(row) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2=", "answer": "4", "instruction": "x", "output": "y"},
        {"messages": [user("a"), assistant("b")], "conversations": TURNS},
        {"instruction": "x"},
        {"instruction": "x", "output": 3},
        {"conversations": [{"from": "function_call", "value": "f()"}]},
        {"conversations": "text"},
        {"instruction": "x", "output": "y", "history": [["only one"]]},
        {"instruction": "x", "output": "y", "system": 3},
        {"instruction": "x", "chosen": [user("a")], "rejected": [user("b")]},
    ],
)
def test_other_rows_are_unchanged(row: dict[str, Any]) -> None:
    assert with_messages(row) == row


def test_a_row_that_cannot_be_converted_has_a_flaw() -> None:
    read = read_row({"conversations": [{"from": "observation", "value": "1"}]}, RowLocation("rows.jsonl", 1))
    assert isinstance(read, list) and isinstance(read[0], Flaw) and "conversations" in str(read[0])
