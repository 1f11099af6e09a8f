"""Files, folders and the hub: every kind reads the same rows, and everything wrong is said in one pass."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from obverse.data import file_formats as formats
from obverse.data.readers import count, read_hub, read_path
from obverse.errors import ConfigError, DataError
from obverse.rewards import get_verifier
from obverse.types import Problem

ROWS = Path(__file__).parents[1] / "data" / "rows"
SHARED = Path(__file__).parents[2] / "../shared/data"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return str(path)


def line(number, **more):
    return json.dumps({"prompt": f"{number}+1=", "answer": str(number + 1), **more})


def read(path, split="train", **kwargs):
    return read_path(str(path), split, **kwargs)


def error_of(path, split="train", **kwargs):
    with pytest.raises(DataError) as error:
        read_path(str(path), split, **kwargs)
    assert error.value.exit_code == 3
    return str(error.value)


# Good files


def test_jsonl_takes_a_bom_windows_line_ends_and_blank_lines(tmp_path):
    path = write(tmp_path / "sums.jsonl", "\ufeff" + line(1) + "\r\n\r\n   \n" + line(2) + "\r\n" + line(3))
    problems = read(path)
    assert [problem.id for problem in problems] == ["sums-1", "sums-4", "sums-5"]
    assert problems[0] == Problem("sums-1", "1+1=", "2", verifier="math")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_reads_the_same_problems(tmp_path, suffix):
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}"}], "answer": n, "completion": ["a", "b"], "x": {"y": [n]}}
        for n in range(5)
    ]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    else:
        write(path, "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows))
    expected = [
        Problem(f"rows-{n + 1}", [{"role": "user", "content": f"{n}"}], n, ("a", "b"), "math", meta={"x": {"y": [n]}})
        for n in range(5)
    ]
    assert read(path) == expected
    assert read(path, num_problems=3) == expected[:3]
    assert read(path, num_problems=99) == expected


def test_parquet_rows_that_lack_a_column_do_without_it(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [{"prompt": "a", "answer": "1", "target": None}, {"prompt": "b", "answer": None, "target": "2"}]
        ),
        path,
    )
    assert [(p.answer, p.demonstration, p.verifier) for p in read(path)] == [("1", (), "math"), (None, ("2",), None)]


def test_only_the_rows_that_are_asked_for_are_read(tmp_path):
    path = write(tmp_path / "a.jsonl", line(1) + "\n" + line(2) + "\n{broken")
    assert len(read(path, num_problems=2)) == 2
    assert error_of(path, num_problems=3).startswith(f"{path}:3: json: ")
    with pytest.raises(ConfigError, match="num_problems is 0"):
        read(path, num_problems=0)


def test_a_verifier_from_outside_judges_every_row(tmp_path):
    path = write(tmp_path / "a.jsonl", line(1, verifier="exact") + '\n{"prompt": "just this"}')
    assert [problem.verifier for problem in read(path, verifier="my.py:fn")] == ["my.py:fn"] * 2


def test_counts(tmp_path):
    rows = [
        line(1),
        line(22, completion="23"),
        '{"prompt": [{"role": "user", "content": "0123456789"}], "completion": "x"}',
    ]
    counts = count(read(write(tmp_path / "a.jsonl", "\n".join(rows))))
    assert (counts.num_rows, counts.num_with_answer, counts.num_with_demonstration) == (3, 2, 2)
    assert (counts.num_by_verifier, counts.longest_prompt) == ({"math": 2, "none": 1}, 10)
    assert count([]).longest_prompt == 0


# Bad rows


def test_every_bad_line_is_reported_in_one_pass(tmp_path):
    lines = [
        line(1, id="first"),
        '{"prompt": "2+2=", "answer": }',
        '{"prompt": "2+2=" "answer": "4"}',
        '{"prompt": "2+2=", "answer": "4"',
        '{"prompt": "2+2=", "answer": NaN}',
        '{"prompt": "2+2=", "answer": 1' + "0" * 5000 + "}",
        '{"prompt": "2+2=", "prompt": "3+3=", "answer": "4"}',
        '{"prompt": "2\t+2=", "answer": "4"}',
        "[" * 100_000,
        "not json",
        "[1]",
        '{"prompt": "\\ud800", "answer": "4"}',
        '{"prompt": "\\u0000", "answer": "4"}',
        line(2, id="first"),
        line(3, id="a-16"),
        line(4),
        '{"prompt": "", "answer": ""}',
    ]
    path = write(
        tmp_path / "a.jsonl", "\n".join(lines).encode() + b'\n{"prompt": "\xff", "answer": "4"}\n' + line(5).encode()
    )
    limit = f"Exceeds the limit ({sys.get_int_max_str_digits()} digits) for integer string conversion"
    expected = [
        "2: json: Expecting value at column 30",
        "3: json: Expecting ',' delimiter at column 19",
        "4: json: Expecting ',' delimiter at column 33",
        "5: json: NaN is not JSON",
        f"6: json: {limit}",
        "7: json: the key 'prompt' is there twice",
        "8: json: Invalid control character at at column 14",
        "9: json: nested too deeply",
        "10: json: Expecting value at column 1",
        "11: row: not an object but a list",
        "12: prompt: holds a lone surrogate",
        "13: prompt: holds a NUL character",
        f"14: id: 'first' is taken by {path}:1",
        f"16: id: 'a-16' is taken by {path}:15",
        "17: prompt: empty",
        "17: answer: empty",
        "18: json: not UTF-8 at byte 13",
    ]
    found = error_of(path).splitlines()
    assert found[4].startswith(f"{path}:{expected[4]}")  # the words after it are Python's own
    found[4] = f"{path}:{expected[4]}"
    assert found == [f"{path}:{text}" for text in expected]


def test_the_report_ends_after_fifty_lines_and_a_count(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join([line(1)] * 40 + ['{"prompt": 1, "answer": "1"}'] * 60))
    report = error_of(path).splitlines()
    assert len(report) == 51
    assert report[0] == f"{path}:41: prompt: neither text nor a list of messages but a number"
    assert report[49].startswith(f"{path}:90: ")
    assert report[50] == "... and 10 more of 100 rows"
    path = write(tmp_path / "b.jsonl", "\n".join(["{}"] * 50))
    assert error_of(path).splitlines()[-1] == f"{path}:50: row: no keys"


def test_a_line_that_is_too_long_is_named_and_the_next_one_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 2**20)
    path = write(tmp_path / "a.jsonl", line(1) + "\n" + line(2, pad="x" * 3 * 2**20) + "\n" + line(3, prompt="") + "\n")
    assert error_of(path).splitlines() == [f"{path}:2: json: longer than 1 MB", f"{path}:3: prompt: empty"]


def test_thousand_good_lines_around_bad_ones_are_not_reported(tmp_path):
    lines = [line(number) for number in range(1000)]
    lines[500:500] = ["{}"]
    assert error_of(write(tmp_path / "a.jsonl", "\n".join(lines))).count("\n") == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ":1: json: Expecting value at column 1"),
        ("[]", ": no rows"),
        ('{"data": []}', ": expected a list of objects, found an object"),
        ('[{"prompt": "a",\n "answer" 1}]', ":2: json: Expecting ':' delimiter at column 11"),
        ('{"prompt": "a"}\n{"prompt": "b"}', ":2: json: Extra data at column 1; one object a line is .jsonl"),
        ('[{"prompt": "a", "answer": "1"}, 5]', ":2: row: not an object but a number"),
    ],
)
def test_json_files_hold_one_list(tmp_path, text, reason):
    path = write(tmp_path / "a.json", text)
    assert error_of(path) == f"{path}{reason}"


def test_parquet_rows_are_named_by_their_number(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"prompt": "a" if n % 1500 else "", "answer": "1"} for n in range(1, 3001)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    assert error_of(path).splitlines() == [f"{path}:1500: prompt: empty", f"{path}:3000: prompt: empty"]


def test_a_damaged_parquet_file_is_one_sentence(tmp_path):
    good = (ROWS / "uft_math.parquet").read_bytes()
    middle = len(good) // 2
    for damaged in (
        b"PAR1 but no more",
        good[:-20],
        good[:40] + b"\0" * 400 + good[440:],
        good[:middle] + good[middle + 9 :],
    ):
        text = error_of(write(tmp_path / "a.parquet", damaged))
        assert text.startswith(f"{tmp_path / 'a.parquet'}: not a readable parquet file (")
        assert "\n" not in text


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), tmp_path / "a.parquet")
    assert error_of(tmp_path / "a.parquet") == f"{tmp_path / 'a.parquet'}: more than one column is called 'prompt'"


# Paths


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path):
    write(tmp_path / "gsm8k_train.jsonl", line(1))
    near = tmp_path / "gsm8k_train.jsonl"
    missing = tmp_path / "gsm8k_trian.jsonl"
    assert error_of(missing) == f"there is no file {str(missing)!r}; did you mean {str(near)!r}?"
    other = tmp_path / "zzz.parquet"
    assert error_of(other) == f"there is no file {str(other)!r}; check the path"
    lost = tmp_path / "no" / "a.jsonl"
    assert error_of(lost) == f"there is no file {str(lost)!r}, nor a folder {str(lost.parent)!r}; check the path"


def test_a_file_of_another_kind_is_refused(tmp_path):
    for name in ("a.txt", "a.parquet.gz", "a.jsonl.xz", "a"):
        path = write(tmp_path / name, "prompt,answer")
        assert error_of(path).startswith(f"{path}: {Path(name).suffix or 'no suffix'} is not a kind of data; there are")


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", line(1))

    def refuse(file):
        raise PermissionError(13, "Permission denied", file)
        yield

    monkeypatch.setitem(formats.READERS, ".jsonl", refuse)
    assert error_of(path) == f"{path}: cannot be read (Permission denied); check the file"


def test_an_empty_file_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n\n")
    assert error_of(path) == f"{path}: no rows"


def test_a_folder_reads_its_files_in_order_and_by_split(tmp_path):
    for name, number in (("b_train", 1), ("a-train-00001", 2), ("a_test", 3), ("validation", 4), ("constraints", 5)):
        write(tmp_path / f"{name}.jsonl", line(number))
    write(tmp_path / "README.md", "hello")
    write(tmp_path / ".hidden.json", "hello")
    assert [p.id for p in read(tmp_path)] == ["a-train-00001-1", "b_train-1"]
    assert [p.id for p in read(tmp_path, "test")] == [p.id for p in read(tmp_path, "heldout")] == ["a_test-1"]
    with pytest.raises(ConfigError, match="split 'ood'.*train, test"):
        read(tmp_path, "ood")


def test_a_folder_whose_files_name_no_split_is_for_training(tmp_path):
    write(tmp_path / "b.jsonl", line(1))
    write(tmp_path / "a.jsonl", line(2) + "\n" + line(3))
    assert [p.id for p in read(tmp_path)] == ["a-1", "a-2", "b-1"]
    assert [p.id for p in read(tmp_path, num_problems=2)] == ["a-1", "a-2"]
    assert "no file has 'test' in its name (a.jsonl, b.jsonl)" in error_of(tmp_path, "test")


def test_bad_rows_of_a_folder_are_reported_together(tmp_path):
    write(tmp_path / "a.jsonl", line(1, id="x") + "\n{}")
    write(tmp_path / "b.jsonl", line(2, id="x"))
    assert error_of(tmp_path).splitlines() == [
        f"{tmp_path / 'a.jsonl'}:2: row: no keys",
        f"{tmp_path / 'b.jsonl'}:1: id: 'x' is taken by {tmp_path / 'a.jsonl'}:1",
    ]


def test_a_folder_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "data").mkdir()
    assert error_of(tmp_path) == f"{tmp_path}: no {formats.listed()} file in this folder; there are folders in it: data"
    write(tmp_path / "a.jsonl", line(1))
    write(tmp_path / "b.json", "[]")
    assert "files of several kinds (.json, .jsonl)" in error_of(tmp_path)


def test_the_hub_out_of_reach_is_one_sentence():
    with pytest.raises(DataError) as error:
        read_hub("obverse-tests/no-such-data:main", "train")
    text = str(error.value)
    assert text.startswith("hub data set 'obverse-tests/no-such-data:main', split 'train': ")
    assert "\n" not in text
    assert text.endswith("check the name (owner/name or owner/name:config) and the network, or give a file")


def test_rows_of_the_hub_are_read_like_any_other(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(
            [{"question": "1+1", "answer": "#### 2"}, {"question": "", "answer": "#### 2"}]
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_hub("openai/gsm8k:main", "heldout", num_problems=1)[0].id == "gsm8k-1"
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
    with pytest.raises(DataError, match=r"^gsm8k:2: question: empty$"):
        read_hub("openai/gsm8k", "train")


# Real rows


@pytest.mark.parametrize(
    ("file", "num", "name"),
    [
        ("gsm8k.jsonl", 4, "math"),
        ("uft_countdown.parquet", 3, "countdown"),
        ("uft_kk_logic.parquet", 3, "knights"),
        ("uft_math.parquet", 5, "math"),
    ],
)
def test_demonstrations_of_real_rows_are_judged_right(file, num, name):
    problems = read(ROWS / file)
    assert (len(problems), {problem.verifier for problem in problems}) == (num, {name})
    for index, problem in enumerate(problems):
        assert get_verifier(name)(problem, problem.demonstration_text).correct
        assert not get_verifier(name)(problem, problems[index - 1].demonstration_text).correct


def test_what_real_rows_become():
    gsm8k, countdown, knights, math = (read(ROWS / f"{name}") for name in sorted(p.name for p in ROWS.iterdir()))
    assert gsm8k[0].demonstration[-1] == "#### 72"
    assert gsm8k[3].answer == "1,080"
    assert countdown[0].demonstration == (
        "76 - 47 = 29\n",
        "29 + 55 = 84\n",
        "84 - 60 = 24\n",
        "Therefore, the final equation is ((76 - 47) + 55) - 60",
        " </think>\n<answer> ((76 - 47) + 55) - 60 </answer>",
    )
    assert countdown[0].answer == {"numbers": [47, 76, 55, 60], "target": 24}
    assert countdown[0].prompt[0]["role"] == "user"
    assert countdown[0].prompt[0]["content"].endswith("<think> ")
    assert knights[0].answer["names"] == ["Amelia", "Penelope", "Evelyn"]
    assert (math[2].answer, math[0].meta["level"]) == ("1,\\!000,\\!000,\\!000", "Level 5")


@pytest.mark.parametrize(
    ("file", "num_rows", "num_demonstrations"),
    [
        ("gsm8k_train.jsonl", 7473, 7473),
        ("gsm8k_test.jsonl", 1319, 1319),
        pytest.param("uft_countdown_train.parquet", 10240, 10240, marks=pytest.mark.slow),
        pytest.param("uft_kk_logic_train.parquet", 4500, 4500, marks=pytest.mark.slow),
        pytest.param("uft_math_test.parquet", 1024, 1024, marks=pytest.mark.slow),
        ("bench_math500.json", 500, 0),
        ("bench_olympiadbench.json", 674, 0),
    ],
)
def test_whole_data_sets_read_without_a_flaw_and_their_answers_are_right(file, num_rows, num_demonstrations):
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not beside this checkout")
    problems = read(SHARED / file)
    counts = count(problems)
    assert (counts.num_rows, counts.num_with_answer, counts.num_with_demonstration) == (
        num_rows,
        num_rows,
        num_demonstrations,
    )
    for problem in problems:
        text = problem.demonstration_text or f"<answer>{problem.answer}</answer>"
        assert get_verifier(problem.verifier or "")(problem, text).correct, problem


@pytest.mark.slow
def test_a_hundred_thousand_lines_take_seconds(tmp_path):
    rows = (ROWS / "gsm8k.jsonl").read_text()
    path = write(tmp_path / "a.jsonl", rows * 25_000)
    start = time.process_time()
    assert len(read(path)) == 100_000
    assert time.process_time() - start < 6  # 1.5 s on an idle core
