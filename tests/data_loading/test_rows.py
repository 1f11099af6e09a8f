"""Row layouts: what each becomes, which one a row is, and the exact words for every kind of row that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obverse.data.layouts import LAYOUTS, Flaw, RowLocation, read_row
from obverse.types import Problem

PLACE = RowLocation("data/train.jsonl", 7)
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="}]
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
VERL = {"prompt": ASK, "data_source": "sums", "reward_model": {"ground_truth": "4", "style": "rule"}}


def read(row, **kwargs):
    found = read_row(row, PLACE, **kwargs)
    assert isinstance(found, Problem), found
    return found


def flaws(row, **kwargs):
    found = read_row(row, PLACE, **kwargs)
    assert isinstance(found, list), found
    return [str(flaw) for flaw in found]


# What becomes of good rows


def test_own_rows():
    row = {"id": "a", "prompt": "2+2=", "answer": 4, "demonstration": ["2+2", "=4"], "verifier": "exact", "level": 1}
    assert read(row) == Problem("a", "2+2=", 4, ("2+2", "=4"), "exact", meta={"level": 1})
    assert read({"prompt": "2+2=", "answer": "4"}) == Problem("train-7", "2+2=", "4", (), "math")
    assert read({"prompt": ASK, "demonstration": [FOUR]}) == Problem("train-7", ASK, None, ("4",), None)
    assert read({"prompt": "2+2=", "demonstration": "4", "answer": None}).answer is None


@pytest.mark.parametrize("answer", ["answer", "solution", "ground_truth"])
@pytest.mark.parametrize("demonstration", ["demonstration", "completion", "target", "hint"])
def test_aliases(answer, demonstration):
    problem = read({"prompt": "2+2=", answer: "4", demonstration: "2+2=4"})
    assert (problem.answer, problem.demonstration, problem.meta) == ("4", ("2+2=4",), {})


def test_two_names_for_one_field_are_fine_if_they_agree():
    assert read({"prompt": "2+2=", "answer": "4", "solution": "4"}).meta == {}


def test_gsm8k_rows_keep_the_solution_line_by_line():
    solution = "2+2 = <<2+2=4>>4\n\nso 1,004\n#### 1,004"
    problem = read({"question": "How many?", "answer": solution, "type": "sum"})
    assert problem.prompt == "How many?"
    assert problem.answer == "1,004"
    assert problem.demonstration == ("2+2 = <<2+2=4>>4\n", "\n", "so 1,004\n", "#### 1,004")
    assert problem.demonstration_text == solution
    assert (problem.verifier, problem.meta) == ("math", {"type": "sum"})


def test_verl_rows_keep_the_rest_for_reward_functions():
    row = {**VERL, "extra_info": {"index": 3}, "ability": "math", "answer": "a text beside it"}
    problem = read(row)
    assert (problem.prompt, problem.answer, problem.verifier) == (ASK, "4", "math")
    assert problem.meta == {key: row[key] for key in ("data_source", "reward_model", "extra_info", "ability", "answer")}


@pytest.mark.parametrize(
    ("source", "truth", "answer", "verifier"),
    [
        ("countdown", {"numbers": [2, 2], "target": 4}, {"numbers": [2, 2], "target": 4}, "countdown"),
        ("kk_logic", {"names": ["A"], "solution": [True]}, {"names": ["A"], "solution": [True]}, "knights"),
        ("DigitalLearningGmbH/MATH-lighteval", {"target": "4", "question": "2+2="}, "4", "math"),
        ("openr1", "4", "4", "math"),
        (None, "4", "4", "math"),
    ],
)
def test_the_data_source_of_verl_rows_names_the_verifier(source, truth, answer, verifier):
    problem = read({**VERL, "data_source": source, "reward_model": {"ground_truth": truth}})
    assert (problem.answer, problem.verifier) == (answer, verifier)


@pytest.mark.parametrize("target", ["4", ["4"], [FOUR]])
def test_the_target_of_luffy_rows_is_the_demonstration(target):
    assert read({**VERL, "target": target}).demonstration == ("4",)


def test_uft_rows_go_on_after_the_hints():
    row = {**VERL, "hint": ["2+2", " = 4"], "answer": "2+2 = 4 </think>\n<answer> 4 </answer>"}
    row |= {"question": "2+2=", "target": 4, "nums": [2, 2]}
    problem = read(row)
    assert problem.demonstration == ("2+2", " = 4", " </think>\n<answer> 4 </answer>")
    assert (problem.answer, problem.meta["target"], problem.meta["nums"]) == ("4", 4, [2, 2])
    assert read({**row, "answer": "2+2 = 4"}).demonstration == ("2+2", " = 4")
    assert read({**row, "answer": "it is 4"}).demonstration == ("it is 4",)


def test_prompt_completion_rows():
    assert read({"prompt": "2+2=", "completion": "4"}) == Problem("train-7", "2+2=", None, ("4",), None)
    assert read({"prompt": ASK, "completion": [FOUR]}) == Problem("train-7", ASK, None, ("4",), None)


def test_conversational_rows():
    turns = [*ASK, FIVE, {"role": "user", "content": "Sure?"}]
    assert read({"messages": [*turns, FOUR]}) == Problem("train-7", turns, None, ("4",), None)
    problem = read({"messages": [*ASK, FOUR], "answer": "4", "prompt": "2+2="})
    assert (problem.answer, problem.verifier, problem.meta) == ("4", "math", {"prompt": "2+2="})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK, "chosen": "4", "rejected": "5"},
        {"prompt": ASK, "chosen": [FOUR], "rejected": [FIVE]},
        {"chosen": [*ASK, FOUR], "rejected": [*ASK, FIVE]},
        {"prompt": ASK, "chosen": [*ASK, FOUR], "rejected": [*ASK, FIVE]},
        {"prompt": "2+2=", "chosen": [*ASK, FOUR], "rejected": [*ASK, FIVE]},
    ],
)
def test_preference_rows(row):
    assert read(row) == Problem("train-7", ASK, chosen="4", rejected="5")


def test_messages_keep_their_texts_and_lose_their_nulls():
    message = {"content": "2+2=", "role": "user", "name": "Ann", "tool_calls": None}
    assert read({"prompt": [message], "answer": "4"}).prompt == [{"role": "user", "content": "2+2=", "name": "Ann"}]


def test_a_verifier_from_outside_replaces_the_row_s_own():
    assert read({"prompt": "2+2=", "answer": "4", "verifier": "nonsense"}, verifier="exact").verifier == "exact"
    assert read({"prompt": "2+2="}, verifier="my.py:fn") == Problem("train-7", "2+2=", verifier="my.py:fn")
    assert read({"prompt": "2+2=", "answer": {"any": "shape"}}, verifier="my.py").answer == {"any": "shape"}


def test_layouts_are_chosen_by_their_keys_in_the_stated_order():
    assert list(LAYOUTS) == ["uft", "verl", "preference", "conversational", "own", "gsm8k", "problem", "solution"]
    assert read({"prompt": "p", "question": "q", "answer": "4"}).prompt == "p"  # own, not gsm8k
    assert read({**VERL, "messages": [*ASK, FIVE]}).answer == "4"  # verl, not conversational
    assert read({**VERL, "answer": "4"}).demonstration == ()  # verl, not uft: no hint


# What is said of bad rows


def nested(depth):
    return [nested(depth - 1)] if depth else 1


BAD_ROWS = [
    # the row as a whole
    ([1, 2], ["row: not an object but a list"]),
    ("text", ["row: not an object but text"]),
    (None, ["row: not an object but null"]),
    ({}, ["row: no keys"]),
    (
        {"problem": "2+2=", "text": "4"},
        ["row: the keys problem, text fit no layout; the nearest, problem, lacks answer"],
    ),
    (
        {"question": "2+2=", "target": 4, "nums": [2, 2]},
        ["row: the keys nums, question, target fit no layout; the nearest, gsm8k, lacks answer"],
    ),
    ({"chosen": "4"}, ["row: the keys chosen fit no layout; the nearest, preference, lacks rejected"]),
    ({"prompt": None, "answer": "4"}, ["row: the keys answer fit no layout; the nearest, gsm8k, lacks question"]),
    (
        {"prompt": "2+2=", "anwser": "4"},
        ["row: nothing to check or to learn from beside the prompt; its keys are anwser, prompt"],
    ),
    ({"prompt": "2+2=", "extra": nested(40)}, ["extra: nested more than 32 deep"]),
    ({"prompt": "2+\0=", "answer": "4"}, ["prompt: holds a NUL character"]),
    ({"prompt": [{"role": "user", "content": "\ud800"}], "answer": "4"}, ["prompt: holds a lone surrogate"]),
    ({"prompt": "2+2=", "answer": "4", "note": {"a": ["\udfff"]}}, ["note: holds a lone surrogate"]),
    # prompts and messages
    ({"prompt": "", "answer": "4"}, ["prompt: empty"]),
    ({"prompt": " \n", "answer": "4"}, ["prompt: empty"]),
    ({"prompt": [], "answer": "4"}, ["prompt: empty"]),
    ({"prompt": [{"role": "user", "content": " "}], "answer": "4"}, ["prompt: empty"]),
    ({"prompt": 5, "answer": "4"}, ["prompt: neither text nor a list of messages but a number"]),
    ({"prompt": {"a": 1}, "answer": "4"}, ["prompt: neither text nor a list of messages but an object"]),
    ({"prompt": ["2+2="], "answer": "4"}, ["prompt: message 1 is not an object but text"]),
    ({"prompt": [{"content": "2+2="}], "answer": "4"}, ["prompt: message 1 has no role"]),
    ({"prompt": [*ASK, {"role": "user"}], "answer": "4"}, ["prompt: message 3 has no content"]),
    (
        {"prompt": [{"role": "user", "content": ["x"]}], "answer": "4"},
        ["prompt: message 1: content is not text but a list"],
    ),
    (
        {"prompt": [{"role": "human", "content": "x"}], "answer": "4"},
        ["prompt: message 1: unknown role 'human'; there are system, developer, user, assistant, tool"],
    ),
    (
        {"prompt": [*ASK, FOUR], "answer": "4"},
        ["prompt: ends with an assistant message; a prompt ends where the assistant's turn begins"],
    ),
    (
        {"prompt": [{"role": "user", "content": "x", "tools": [1]}], "answer": "4"},
        ["prompt: message 1: tools is not text but a list"],
    ),
    ({"messages": ASK}, ["messages: the last message is from user, not from the assistant"]),
    ({"messages": [FOUR]}, ["messages: no message before the assistant's"]),
    ({"messages": "hello"}, ["messages: not a list of messages but text"]),
    ({"messages": [*ASK, {"role": "assistant", "content": ""}]}, ["messages: empty"]),
    (
        {"messages": [*ASK, FOUR], "completion": "4"},
        ["completion: the last message is the demonstration already; keep one of them"],
    ),
    # answers and verifiers
    ({"prompt": "2+2=", "answer": ""}, ["answer: empty"]),
    ({"prompt": "2+2=", "solution": " "}, ["solution: empty"]),
    ({"prompt": "2+2=", "answer": True}, ["answer: the math verifier needs text or a number, not bool"]),
    ({"prompt": "2+2=", "answer": [4]}, ["verifier: missing, and 'answer' is a list; name one"]),
    ({"prompt": "2+2=", "answer": "4", "verifier": "maths"}, ["verifier: unknown name 'maths': did you mean 'math'?"]),
    (
        {"prompt": "2+2=", "answer": "4", "verifier": "zzz"},
        ["verifier: unknown name 'zzz': there are math, countdown, knights, choice, exact, numeric, similarity"],
    ),
    ({"prompt": "2+2=", "answer": "4", "verifier": 3}, ["verifier: not a name but a number"]),
    (
        {"prompt": "2+2=", "answer": "4", "verifier": "evil.py:fn"},
        ["verifier: a data file may not name code to run; give file.py:function as an option instead"],
    ),
    (
        {"prompt": "2+2=", "demonstration": "4", "verifier": "math"},
        ["answer: missing, although the verifier 'math' is named"],
    ),
    (
        {"prompt": "2+2=", "answer": "4", "solution": "two and two is 4"},
        ["solution: means the same as 'answer', but they differ; keep one of them"],
    ),
    (
        {"prompt": "2+2=", "answer": "4", "verifier": "countdown"},
        ["answer: the countdown verifier needs an object with numbers and target"],
    ),
    (
        {"prompt": "q", "answer": "E", "verifier": "choice", "choices": ["x"]},
        ["answer: neither a letter nor one of choices"],
    ),
    (
        {"question": "2+2=", "answer": "4"},
        ["answer: no '####' before a final answer; question and answer are read as GSM8K rows"],
    ),
    ({"question": "2+2=", "answer": "2+2=4\n#### "}, ["answer: empty"]),
    ({"question": "2+2=", "answer": 4}, ["answer: neither text nor messages but a number"]),
    ({**VERL, "reward_model": {"style": "rule"}}, ["reward_model.ground_truth: missing"]),
    ({**VERL, "reward_model": "rule"}, ["reward_model.ground_truth: missing"]),
    (
        {**VERL, "data_source": "kk_logic"},
        ["reward_model.ground_truth: the knights verifier needs an object with names and solution"],
    ),
    (
        {**VERL, "reward_model": {"ground_truth": {"x": 1}}},
        ["verifier: missing, and 'reward_model.ground_truth' is an object; name one"],
    ),
    # demonstrations and preferences
    ({"prompt": "2+2=", "demonstration": ""}, ["demonstration: empty"]),
    ({"prompt": "2+2=", "demonstration": ["", " "]}, ["demonstration: empty"]),
    ({"prompt": "2+2=", "completion": []}, ["completion: empty"]),
    ({"prompt": "2+2=", "hint": ["2+2", 4]}, ["hint: step 2 is not text but a number"]),
    (
        {"prompt": "2+2=", "target": 4, "nums": [2, 2]},
        ["target: neither text, a list of steps nor messages but a number (it is read as the demonstration)"],
    ),
    (
        {"prompt": "2+2=", "completion": [*ASK, FOUR]},
        ["completion: expected one assistant message, found 3 (system, user, assistant)"],
    ),
    ({"chosen": "4", "rejected": "5"}, ["prompt: missing, and chosen and rejected share no messages"]),
    ({"chosen": [*ASK, FOUR], "rejected": [ASK[1], FIVE]}, ["rejected: differs from chosen before the last message"]),
    ({"prompt": "2+2=", "chosen": "4", "rejected": 5}, ["rejected: neither text nor messages but a number"]),
    (
        {"prompt": "3+3=", "chosen": [*ASK, FOUR], "rejected": [*ASK, FIVE]},
        ["prompt: differs from the messages that chosen and rejected share"],
    ),
    # ids, and several flaws at once
    ({"id": "", "prompt": "2+2=", "answer": "4"}, ["id: empty"]),
    ({"id": 1.5, "prompt": "2+2=", "answer": "4"}, ["id: neither text nor a whole number"]),
    (
        {"id": [], "prompt": "", "demonstration": 4},
        [
            "prompt: empty",
            "demonstration: neither text, a list of steps nor messages but a number (it is read as the demonstration)",
            "id: neither text nor a whole number",
        ],
    ),
]


def test_several_verifiers_may_be_given_and_the_built_in_ones_need_an_answer():
    row, place = {"prompt": "2+2=", "answer": "4"}, RowLocation("a.jsonl", 1)
    assert read_row(row, place, "math*1,my.py:fn*0.2").verifier == "math*1,my.py:fn*0.2"
    assert read_row({"prompt": "2+2="}, place, "my.py:fn,my.py:other").verifier == "my.py:fn,my.py:other"
    (flaw,) = read_row({"prompt": "2+2="}, place, "my.py:fn,exact")
    assert flaw.field == "answer" and "missing" in flaw.reason
    (flaw,) = read_row(row | {"verifier": "math,exact"}, place)
    assert str(flaw).startswith("a.jsonl:1: verifier: unknown name 'math,exact'")
    (flaw,) = read_row(row, place, "math,zzz")
    assert str(flaw).startswith("a.jsonl:1: verifier: unknown name 'zzz'")


@pytest.mark.parametrize(("row", "reasons"), BAD_ROWS)
def test_bad_rows_are_named_with_place_field_and_reason(row, reasons):
    assert flaws(row) == [f"data/train.jsonl:7: {reason}" for reason in reasons]


def test_an_override_that_is_built_in_needs_answers_of_its_kind():
    assert flaws({"prompt": "2+2=", "demonstration": "4"}, verifier="math") == [
        "data/train.jsonl:7: answer: missing, although the verifier 'math' is named"
    ]
    assert len(flaws({"prompt": "2+2=", "answer": "4"}, verifier="knights")) == 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    sorted({key for keys, _ in LAYOUTS.values() for key in keys} | {"id", "verifier", "target", "x"})
)


@given(st.dictionaries(KEYS, VALUES, max_size=6) | VALUES)
def test_any_json_value_is_a_problem_or_has_flaws(row):
    found = read_row(row, PLACE)
    assert isinstance(found, Problem) or (found and all(isinstance(flaw, Flaw) and flaw.reason for flaw in found))
