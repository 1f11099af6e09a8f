"""The extraction rule: what counts as the final answer, that nothing makes it fail, and that it stays linear."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obverse.rewards.answer_extraction import MAX_CHARS, final_answer, last_box, unboxed

CASES = [
    # the answer tag, and what it outranks
    ("<answer> 3+5 </answer>", "3+5"),
    ("<answer>1</answer> or rather <answer>2</answer>", "2"),
    ("<answer>1</answer> \\boxed{2} #### 3", "1"),
    ("<answer><answer>3+5</answer></answer>", "3+5"),
    ("<answer>1</answer> </answer>", "1"),
    ("<answer>1</answer> <answer>2", "1"),
    ("<answer>3+5", None),
    ("<answer></answer> \\boxed{1}", ""),
    # boxes
    ("\\boxed{17} no, wait. So the answer is \\boxed{42}", "42"),
    ("\\boxed{42} #### 7", "42"),
    ("\\boxed {42}", "42"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{\\left\\{1,2\\right.}", "\\left\\{1,2\\right."),
    ("{ \\boxed{5}", "5"),
    ("\\boxed{5} and then \\boxed{6", "5"),
    ("\\boxed{\\boxed{42}}", "42"),
    ("\\boxed{}", ""),
    ("\\boxed{41} or \\boxed{42}", None),
    ("$\\boxed{1}$, $\\boxed{2}$", None),
    ("\\boxed{1}, \\boxed{2} and \\boxed{2}", None),
    ("\\boxed{42} and \\boxed{42}", "42"),
    # a run of hashes
    ("She sold 72.\n#### 72", "72"),
    ("7+5=12;12*3=36;36-4=32#32", "32"),
    ("# Solution\nfirst\n#### 1,080\nthank you", "1,080"),
    ("a#b#c", "c"),
    ("5#", ""),
    # reasoning does not count
    ("<think>\\boxed{1} #### 2 <answer>3</answer></think> I give up", None),
    ("<think>1</think>\n<answer>2</answer>", "2"),
    ("</think></think>#4", "4"),
    ("so #3 <think> maybe #4", "3"),
    ("<think>\\boxed{1}", None),
    # nothing to find
    ("", None),
    ("The answer is 5.", None),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_rule_finds_the_final_answer(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 72 clips. Bye.", "72 clips"),
        ("the answer is 3.14.", "3.14"),
        ("**Answer:** $18$", "$18$"),
        ("The answer is 1\nno, the ANSWER is: 2\n", "2"),
        ("The answer is 1, \\boxed{2}", "2"),
        ("The answer isn't known", None),
        ("answer is\n\n$5$", "$5$"),
        ("Horse #12 wins.\nThe answer is 16.", "16"),
        ("The answer is 1.\n#### 2", "2"),
        ("# Solution\nThe answer is **7**.\n\n## Check\nfine", "7"),
        ("The answer is 42, because 6*7 is.", "42"),
        ("The answer is therefore 42", "42"),
        ("it is not \\boxed{42}", None),
        ("it isn't $\\boxed{42}$", None),
        ("3 \\neq \\boxed{42}", None),
    ],
)
def test_phrases_count_only_where_they_are_asked_for(text, expected):
    assert final_answer(text, phrases=True) == expected
    assert "\\boxed" in text or "#" in text or final_answer(text) is None


def test_a_final_answer_is_not_longer_than_the_cap():
    assert final_answer(f"\\boxed{{{'1' * MAX_CHARS}}}") == "1" * MAX_CHARS
    assert final_answer(f"\\boxed{{5}} then \\boxed{{{'1' * (MAX_CHARS + 1)}}}") is None
    assert final_answer(f"<answer>{'1' * (MAX_CHARS + 1)}</answer>") is None


def test_boxes_around_a_whole_text_are_taken_off():
    assert unboxed("\\boxed{\\boxed{42}}") == "42"
    assert unboxed("\\boxed{41}+\\boxed{42}") == "\\boxed{41}+\\boxed{42}"
    assert unboxed("x") == "x"
    assert last_box("so \\boxed{1} then \\boxed{2}.") == "2"
    assert last_box("none") is None


PIECES = [
    "<answer>",
    "</answer>",
    "</think>",
    "\\boxed{",
    "\\boxed",
    "{",
    "}",
    "\\",
    "#",
    "\n",
    " ",
    "answer is",
    "1",
    "or",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join), st.booleans())
def test_it_never_raises_and_returns_a_piece_of_the_outcome(text, phrases):
    found = final_answer(text, phrases=phrases)
    if found is not None:
        assert found in text.rpartition("</think>")[2]
        assert found == found.strip()


@given(st.text(max_size=20).filter(lambda text: "answer>" not in text and "think>" not in text), st.text(max_size=50))
def test_a_tagged_answer_is_found_after_any_reasoning(answer, before):
    assert final_answer(f"{before}</think><answer>{answer}</answer>") == answer.strip()


@pytest.mark.parametrize(
    "piece", [*PIECES, "<answer>1", "\\boxed{1}", "{}", "# ", "the answer is ", "\\boxed{1} or ", "}{"]
)
def test_time_grows_with_the_length_and_not_faster(piece):
    def seconds(length):
        text = piece * (length // len(piece))
        start = time.process_time()
        final_answer(text, phrases=True)
        return time.process_time() - start

    short, long = (min(seconds(length) for _ in range(3)) for length in (20_000, 160_000))
    assert long < 40 * short + 0.02  # 8 times the text; anything quadratic would take 64 times as long
