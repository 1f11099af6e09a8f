"""Rows of the calling program as JSON Lines: what is written, and what is refused with the row's index."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest

from obverse.api.rows import by_index, is_name, json_lines
from obverse.errors import ConfigError, DataError


def rows_of(rows: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in json_lines(rows, "dataset").splitlines()]


def test_values_of_libraries_become_json() -> None:
    row = {
        "prompt": "2+2=",
        "level": np.int64(3),
        "weight": np.float32(0.1),
        "ids": np.array([1, 2]),
        "steps": ("a", "b"),
        "day": date(2026, 1, 2),
        "price": Decimal("1.50"),
        "meta": {"none": None, "flag": np.bool_(True)},
    }
    (line,) = rows_of([row])
    assert line == {
        "prompt": "2+2=",
        "level": 3,
        "weight": 0.1,
        "ids": [1, 2],
        "steps": ["a", "b"],
        "day": "2026-01-02",
        "price": "1.50",
        "meta": {"none": None, "flag": True},
    }


def test_iterables_of_rows() -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    assert rows_of(iter(rows)) == rows_of(tuple(rows)) == rows
    endless = ({"prompt": str(number)} for number in iter(int, 1))
    assert len(json_lines(endless, "dataset", num_rows=3).splitlines()) == 3
    assert is_name("gsm8k.jsonl") and is_name(Path("a")) and not is_name(rows)


def test_a_dataset_gives_the_rows_that_iterating_it_gives() -> None:
    data = datasets.Dataset.from_dict({"question": ["1+1", "2+2"], "answer": ["2", "4"]})
    changed = data.with_transform(lambda batch: {"prompt": [text + "=" for text in batch["question"]]})
    assert rows_of(changed) == [{"prompt": "1+1="}, {"prompt": "2+2="}]
    assert rows_of(data.with_format("numpy", columns=["answer"])) == [{"answer": "2"}, {"answer": "4"}]
    stream = data.to_iterable_dataset()
    assert len(json_lines(stream, "dataset", num_rows=1).splitlines()) == 1


class Indexed:
    """A torch-style data set, which raises no IndexError at its end."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"prompt": str(index)}


def test_data_sets_of_other_libraries() -> None:
    assert rows_of(Indexed()) == [{"prompt": "0"}, {"prompt": "1"}]
    with pytest.raises(ConfigError, match="several columns called 'prompt'"):
        json_lines(pandas.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "dataset")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], DataError, "no rows"),
        ([{"a": 1}, 5], DataError, r"^dataset\[1\]: row: .*int"),
        ([{"a": {"b": {1}}}], DataError, r"^dataset\[0\]: a.b: a set"),
        ([{"a": b"x"}, {"a": 1}, {"a": float("nan")}], DataError, r"\[0\]: a: a bytes(.|\n)*\[2\]: a: nan"),
        ([{1: 2}], DataError, "keys"),
        ({"prompt": ["a"]}, ConfigError, "list of rows"),
        (5, ConfigError, "int"),
    ],
)
def test_what_cannot_be_written_is_refused(rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        json_lines(rows, "dataset")


def test_messages_name_the_item_of_the_list() -> None:
    text = "runs/a/data/train-1.jsonl:4: id: 'x' is taken by runs/a/data/train-1.jsonl:1\n"
    assert by_index(text, "runs/a/data/train-1.jsonl", "dataset") == "dataset[3]: id: 'x' is taken by dataset[0]\n"
