"""D1 and its kin: every malformed row is told with its place, field and reason; what is odd in good rows is said.

D2, which tokens train under which chat template, is tests/data_loading/test_renderer.py.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

import runs
from obverse.data.readers import read_path
from obverse.errors import ConfigError, DataError
from obverse.runtime.callbacks import Silent
from obverse.training.loop import train

# Python's own words, which 3.13 changed.
TRAILING_COMMA = (
    "Illegal trailing comma before end of object at column 33"
    if sys.version_info >= (3, 13)
    else "Expecting property name enclosed in double quotes at column 34"
)
FIRST = b'{"prompt": "a", "answer": "1", "id": "taken"}\n'
BAD = [
    (b'{"prompt": "2+2=", "answer": }', "json", "Expecting value at column 30"),
    (b'{"prompt": "2+2=" "answer": "4"}', "json", "Expecting ',' delimiter at column 19"),
    (b'{"prompt": "2+2=", "answer": "4"', "json", "Expecting ',' delimiter at column 33"),
    (b"{'prompt': '2+2=', 'answer': '4'}", "json", "Expecting property name enclosed in double quotes at column 2"),
    (b'{"prompt": "2+2=", "answer": "4",}', "json", TRAILING_COMMA),
    (b'{"prompt": "2+2=", "answer": NaN}', "json", "NaN is not JSON"),
    (b'{"prompt": "2+2=", "answer": Infinity}', "json", "Infinity is not JSON"),
    (b'{"prompt": "2+2=", "answer": "4"} {}', "json", "Extra data at column 35"),
    (b'{"prompt": "2+2=", "prompt": "3+3=", "answer": "4"}', "json", "the key 'prompt' is there twice"),
    (b'{"prompt": "2\t+2=", "answer": "4"}', "json", "Invalid control character at at column 14"),
    (b"not json", "json", "Expecting value at column 1"),
    (b"[1]", "row", "not an object but a list"),
    (b'"text"', "row", "not an object but text"),
    (b"null", "row", "not an object but null"),
    (b"7", "row", "not an object but a number"),
    (b"true", "row", "not an object but true or false"),
    (b"{}", "row", "no keys"),
    (b'{"prompt": "\xff", "answer": "4"}', "json", "not UTF-8 at byte 13"),
    (b'{"prompt": "\\ud800", "answer": "4"}', "prompt", "holds a lone surrogate"),
    (b'{"prompt": "a\\u0000b", "answer": "4"}', "prompt", "holds a NUL character"),
    (b"[" * 50_000, "json", "nested too deeply"),
    (
        b'{"prompt": "x", "answer": ' + b"[" * 50 + b"]" * 50 + b"}",
        "answer",
        "nested more than 32 deep",
    ),
    (b'{"prompt": "x", "answer": 1' + b"0" * 5000 + b"}", "json", "Exceeds the limit"),
    (b'{"prompt": "", "answer": "4"}', "prompt", "empty"),
    (b'{"prompt": "   ", "answer": "4"}', "prompt", "empty"),
    (b'{"prompt": 5, "answer": "4"}', "prompt", "neither text nor a list of messages but a number"),
    (b'{"prompt": [], "answer": "4"}', "prompt", "empty"),
    (b'{"prompt": {}, "answer": "4"}', "prompt", "neither text nor a list of messages but an object"),
    (b'{"prompt": ["a"], "answer": "4"}', "prompt", "message 1 is not an object but text"),
    (b'{"prompt": [{"role": "user"}], "answer": "4"}', "prompt", "message 1 has no content"),
    (b'{"prompt": [{"content": "a"}], "answer": "4"}', "prompt", "message 1 has no role"),
    (b'{"prompt": [{"role": "human", "content": "a"}], "answer": "4"}', "prompt", "message 1: unknown role 'human'"),
    (
        b'{"prompt": [{"role": "user", "content": 5}], "answer": "4"}',
        "prompt",
        "message 1: content is not text but a number",
    ),
    (
        b'{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": "4"}',
        "prompt",
        "ends with an assistant message",
    ),
    (b'{"prompt": "x"}', "row", "nothing to check or to learn from beside the prompt"),
    (b'{"prompt": "x", "answer": ""}', "answer", "empty"),
    (b'{"prompt": "x", "answer": "4", "solution": "5"}', "solution", "means the same as 'answer', but they differ"),
    (b'{"prompt": "x", "answer": "4", "verifier": "nosuch"}', "verifier", "unknown name 'nosuch'"),
    (b'{"prompt": "x", "answer": "4", "verifier": "my.py:fn"}', "verifier", "a data file may not name code to run"),
    (b'{"prompt": "x", "answer": "4", "verifier": 5}', "verifier", "not a name but a number"),
    (
        b'{"prompt": "x", "demonstration": 5}',
        "demonstration",
        "neither text, a list of steps nor messages but a number",
    ),
    (b'{"prompt": "x", "demonstration": [1]}', "demonstration", "step 1 is not text but a number"),
    (b'{"prompt": "x", "demonstration": []}', "demonstration", "empty"),
    (b'{"prompt": "x", "verifier": "math"}', "answer", "missing, although the verifier 'math' is named"),
    (b'{"prompt": "x", "chosen": "a"}', "row", "nothing to check or to learn from beside the prompt"),
    (b'{"prompt": "x", "answer": "4", "id": ""}', "id", "empty"),
    (b'{"prompt": "x", "answer": "4", "id": 1.5}', "id", "neither text nor a whole number"),
    (b'{"prompt": "x", "answer": "4", "id": "taken"}', "id", "'taken' is taken by {file}:1"),
    (b'{"answer": "4"}', "row", "the keys answer fit no layout"),
    (b'{"question": "x", "answer": "no mark"}', "answer", "no '####' before a final answer"),
    (b'{"messages": []}', "messages", "empty"),
    (
        b'{"messages": [{"role": "user", "content": "x"}]}',
        "messages",
        "the last message is from user, not from the assistant",
    ),
    (b'{"prompt": "x", "reward_model": 5}', "reward_model.ground_truth", "missing"),
    (b'{"prompt": "x", "reward_model": {}}', "reward_model.ground_truth", "missing"),
    (
        b'{"prompt": "x", "answer": "4", "verifier": "countdown"}',
        "answer",
        "the countdown verifier needs an object with numbers and target",
    ),
    (b'{"prompt": "x", "chosen": 5, "rejected": "b"}', "chosen", "neither text nor messages but a number"),
    (b'{"prompt": "x", "chosen": "a", "rejected": ""}', "rejected", "empty"),
    (b'{"prompt": "x", "answer": {"a": 1}}', "verifier", "missing, and 'answer' is an object"),
    (b'{"prompt": "x", "answer": [1]}', "verifier", "missing, and 'answer' is a list"),
    (b'{"prompt": "x", "answer": true}', "answer", "the math verifier needs text or a number, not bool"),
    (b'{"question": "x"}', "row", "the keys question fit no layout"),
    (b'{"text": "x"}', "row", "the keys text fit no layout"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD, ids=range(1, len(BAD) + 1))
def test_d1_a_malformed_row_is_told_with_its_place(row: bytes, field: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(FIRST + row + b"\n")
    with pytest.raises(DataError) as refusal:
        read_path(str(file), "train")
    assert str(refusal.value).startswith(
        f"{file}:2: {field}: {reason.format(file=file) if '{file}' in reason else reason}"
    )
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400 and refusal.value.exit_code == 3


def test_d1_forty_kinds_and_more_all_in_one_pass_and_no_good_row_among_them(tmp_path: Path) -> None:
    assert len(BAD) >= 40 and len({(field, reason) for _, field, reason in BAD}) >= 40
    file = tmp_path / "rows.jsonl"
    some = BAD[:45]
    good = [json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}).encode() for n in range(1000)]
    places = {}
    for number, (row, field, _) in enumerate(some):
        places[2 + number * 21] = field
        good.insert(number * 21, row)
    file.write_bytes(FIRST + b"\n".join(good) + b"\n")
    with pytest.raises(DataError) as refusal:
        read_path(str(file), "train")
    told = [line.removeprefix(f"{file}:").split(": ")[:2] for line in str(refusal.value).splitlines()]
    assert {int(line): field for line, field in told} == places


def test_d1_a_hundred_thousand_lines_with_a_bad_one_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = b'{"prompt": "1+1=", "answer": "2"}\n'
    file.write_bytes(row * 100_000 + b"{}\n")
    begin = time.process_time()
    with pytest.raises(DataError, match=rf"^{file}:100001: row: no keys$"):
        read_path(str(file), "train")
    assert time.process_time() - begin < 6  # 2 s on an idle core


def test_golds_that_do_not_parse_are_told_before_a_run(tiny: Path, tmp_path: Path) -> None:
    file, watch = tmp_path / "rows.jsonl", Notes()
    rows = [
        {"prompt": "x", "answer": answer, "demonstration": "y"}
        for answer in ("4", "\\frac{1}{2}", "\\operatorname{nonsense}(((", "all of them")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(runs.config("sft", tmp_path / "run", tiny, file, max_steps=1), watch)
    (told,) = [note for note in watch.notes if "compared as text" in note]
    assert "rows-3" in told or "rows-4" in told


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_problems_that_are_trained_and_evaluated_on_are_told(tiny: Path, tmp_path: Path) -> None:
    rows = runs.write_problems(tmp_path / "train.jsonl", num_problems=8)
    held_out = tmp_path / "held.jsonl"
    lines = rows.read_text().splitlines()
    spaced = json.loads(lines[1])
    spaced["prompt"] = f"  {spaced['prompt']}\n"
    fresh = {"prompt": "8+8=", "answer": "16"}
    held_out.write_text("\n".join([lines[0], json.dumps(spaced), json.dumps(fresh)]) + "\n")
    watch = Notes()
    options = {"max_steps": 1, "eval_dataset": str(held_out), "num_generations_eval": 1}
    train(runs.config("sft", tmp_path / "run", tiny, rows, **options), watch)
    assert [note.partition(":")[0] for note in watch.notes if note.startswith("LEAK")] == ["LEAK"]
    assert any("LEAK: 2 of the 3" in note for note in watch.notes)


def test_prompts_over_the_limit_are_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    file, watch = tmp_path / "rows.jsonl", Notes()
    rows = [{"prompt": "1+" * length + "1=", "answer": "1", "demonstration": "1"} for length in (1, 2, 400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(runs.config("sft", tmp_path / "run", tiny, file, max_steps=1, max_prompt_length=100), watch)
    assert any("1 of 3 problems" in note for note in watch.notes)
    with pytest.raises(ConfigError, match="at most 1 tokens"):
        train(runs.config("sft", tmp_path / "none", tiny, file, max_steps=1, max_prompt_length=1))
