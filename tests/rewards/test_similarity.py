"""The reward of a step by its likeness to the expert's, in bounded time whatever the texts."""

from __future__ import annotations

import time
from difflib import SequenceMatcher

import pytest

from obverse.errors import GraderError
from obverse.rewards import get_verifier
from obverse.rewards.similarity import MAX_PAIRS, num_equal_pairs, similarity
from obverse.types import GradeResult, Problem


def grade(answer: object, text: str) -> GradeResult:
    return get_verifier("similarity")(Problem("p", "?", answer=answer), text)


def test_the_reward_is_difflibs_ratio_of_the_text_behind_the_reasoning() -> None:
    result = grade("6*3=18;", "<think>six times three</think> 6*3=19;")
    assert result.reward == pytest.approx(SequenceMatcher(None, "6*3=18;", "6*3=19;", autojunk=False).ratio())
    assert result.correct is False and result.formatted
    assert grade("6*3=18;", " 6*3=18; ") == GradeResult.passed()


def test_without_a_step_the_reward_is_negative() -> None:
    for text in ("", "  ", "<think>and so on", "<think>done</think>"):
        result = grade("6*3=18;", text)
        assert (result.reward, result.correct, result.formatted) == (-1.0, False, False)


@pytest.mark.parametrize("answer", [4, "", "  ", None])
def test_a_reference_that_is_no_text_is_refused(answer: object) -> None:
    with pytest.raises(GraderError):
        grade(answer, "4")


def test_hostile_texts_take_bounded_time() -> None:
    start = time.process_time()
    for first, second in (("a" * 20_000, "a" * 19_999), ("ab " * 9_000, "ba " * 9_000), ("aaab" * 90, "a" * 350)):
        value = similarity(first, second)
        assert value is None or 0 <= value <= 1
    assert time.process_time() - start < 5
    assert num_equal_pairs("a" * 1000, "a" * 1000) > MAX_PAIRS and similarity("a" * 1000, "a" * 999) == 0.0
    assert grade("ab " * 9_000, "ab " * 8_999).reason.startswith("prefilter")
