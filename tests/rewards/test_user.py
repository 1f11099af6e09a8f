"""Reward functions of the user: the three signatures, what is passed to them, and what they may not return."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal

import numpy
import pytest

from obverse.errors import ConfigError, GraderError
from obverse.rewards import get_verifier
from obverse.rewards.python_file import adapt
from obverse.types import GradeResult, Problem

PROBLEM = Problem(
    "p1",
    "2+2=",
    answer="4",
    demonstration=("2+2", "=4"),
    meta={"level": 3, "data_source": "sums", "extra_info": {"i": 7}},
)

SOURCE = """
import dataclasses
from decimal import Decimal

@dataclasses.dataclass
class Settings:  # needs the module to be known by name
    bonus: "float" = 0.5

def verify(problem, text):
    return text == problem.answer

def brief(completions, **columns):
    return [Settings().bonus if len(text) < 5 else 1.0 for text in completions]

def lonely(text):
    return 1.0

number = 5
"""


@pytest.fixture
def rewards(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(SOURCE)
    return path


def test_a_file_is_loaded_by_path_and_function(rewards):
    assert get_verifier(f"{rewards}:brief")(PROBLEM, "4") == GradeResult(False, 0.5)
    assert get_verifier(f"{rewards}:brief")(PROBLEM, "2+2=4") == GradeResult(True, 1.0)
    assert get_verifier(f"{rewards}:verify")(PROBLEM, "4") == GradeResult(True, 1.0)
    assert get_verifier(str(rewards))(PROBLEM, "5") == GradeResult(False, 0.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("breif", "has no function 'breif': did you mean 'brief'?"),
        ("zzzzzz", "has no function 'zzzzzz': it has verify, brief, lonely"),
        ("number", "has no function 'number'"),
        ("lonely", "takes (text): write it as fn(prompts, completions, completion_ids, **columns), "),
    ],
)
def test_a_function_that_does_not_fit_is_a_clear_error(rewards, function, message):
    with pytest.raises(ConfigError) as error:
        get_verifier(f"{rewards}:{function}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_python_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.py"):
        get_verifier("nowhere.py:fn")
    (tmp_path / "broken.py").write_text("def fn(:")
    with pytest.raises(ConfigError, match="broken.py.*invalid syntax"):
        get_verifier(f"{tmp_path / 'broken.py'}:fn")
    (tmp_path / "needy.py").write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match="needy.py.*No module named"):
        get_verifier(f"{tmp_path / 'needy.py'}:fn")


def test_adapting_a_function_catches_nothing():
    def fails(problem, text):
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        adapt(fails, "fails")(PROBLEM, "4")


def test_trl_functions_get_lists_of_one_and_every_column():
    seen = {}

    def fn(prompts, completions, completion_ids, level, solution, **columns):
        seen.update(
            columns, prompts=prompts, completions=completions, ids=completion_ids, level=level, solution=solution
        )
        columns["log_metric"]("accuracy", 1.0)
        return [0.25]

    assert adapt(fn, "fn")(PROBLEM, "four") == GradeResult(False, 0.25)
    assert (seen["prompts"], seen["completions"], seen["ids"]) == (["2+2="], ["four"], [[]])
    assert (seen["level"], seen["solution"], seen["answer"], seen["ground_truth"]) == ([3], ["4"], ["4"], ["4"])
    assert (seen["demonstration"], seen["id"], seen["trainer_state"]) == (["2+2=4"], ["p1"], None)


def test_trl_functions_get_messages_where_the_prompt_is_messages():
    messages = [{"role": "user", "content": "2+2="}]

    def fn(prompts, completions, **columns):
        assert prompts == [messages]
        return [float(completions[0][0]["content"] == "4")]

    assert adapt(fn, "fn")(dataclasses.replace(PROBLEM, prompt=messages), "4").correct


def test_trl_functions_may_take_completions_only_and_have_defaults():
    assert adapt(lambda completions, scale=2.0: [scale], "fn")(PROBLEM, "4") == GradeResult(True, 2.0)


def test_none_of_a_trl_function_means_not_applicable():
    assert adapt(lambda completions: [None], "fn")(PROBLEM, "4") == GradeResult(None, 0.0, "not applicable")


def test_a_column_that_the_row_does_not_have_is_named():
    with pytest.raises(
        GraderError, match="'fn' asks for 'difficulty', which problem p1 does not have: it has answer, "
    ):
        adapt(lambda completions, difficulty: [1.0], "fn")(PROBLEM, "4")


def test_verl_functions_get_the_row_as_verl_would_pass_it():
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        assert (data_source, extra_info) == ("sums", {"i": 7})
        return {"score": float(solution_str == ground_truth), "acc": True}

    assert adapt(compute_score, "fn")(PROBLEM, "4") == GradeResult(True, 1.0)
    assert adapt(compute_score, "fn")(PROBLEM, "5") == GradeResult(False, 0.0)
    truth = {"target": "4", "question": "2+2="}
    row = dataclasses.replace(PROBLEM, meta={**PROBLEM.meta, "reward_model": {"ground_truth": truth}})
    assert adapt(lambda solution_str, ground_truth: float(ground_truth == truth), "fn")(row, "4").correct


@pytest.mark.parametrize(
    ("value", "grade"),
    [(1, GradeResult(True, 1.0)), (True, GradeResult(True, 1.0)), (0.99, GradeResult(False, 0.99))],
)
def test_plain_functions_return_a_number_or_a_bool(value, grade):
    assert adapt(lambda problem, text: value, "fn")(PROBLEM, "4") == grade


def test_plain_functions_may_return_a_verdict():
    assert adapt(lambda problem, text: GradeResult.failed("no", formatted=False), "fn")(PROBLEM, "4").formatted is False
    with pytest.raises(GraderError, match="p1: nan"):
        adapt(lambda problem, text: GradeResult(True, float("nan")), "fn")(PROBLEM, "4")


ARRAYS = [numpy.bool_(True), numpy.float32(1), numpy.int64(1), numpy.array(1.0), numpy.array(True), Decimal("1.0")]


@pytest.mark.parametrize("value", ARRAYS, ids=[type(value).__name__ for value in ARRAYS])
def test_scalars_of_other_libraries_are_rewards(value):
    for function in (
        lambda problem, text: value,
        lambda problem, text: GradeResult(True, value),
        lambda data_source, solution_str, ground_truth: {"score": value},
        lambda completions: [value],
    ):
        grade = adapt(function, "fn")(PROBLEM, "4")
        assert grade == GradeResult(True, 1.0) and type(grade.reward) is float


def test_an_array_of_rewards_is_a_list_and_one_for_a_number_is_not():
    assert adapt(lambda completions: numpy.array([0.5], "float32"), "fn")(PROBLEM, "4") == GradeResult(False, 0.5)
    for value in (numpy.array([1.0]), numpy.array([[1.0]]), numpy.array("1.0"), numpy.float64("nan")):
        with pytest.raises(GraderError, match="problem p1"):
            adapt(lambda problem, text, value=value: value, "fn")(PROBLEM, "4")


@pytest.mark.parametrize("fields", [{"correct": "no"}, {"correct": 1}, {"correct": True, "formatted": "yes"}])
def test_a_verdict_of_the_user_has_fields_of_their_types(fields):
    with pytest.raises(GraderError, match="problem p1"):
        adapt(lambda problem, text: GradeResult(reward=1.0, **fields), "fn")(PROBLEM, "4")
    kept = adapt(lambda problem, text: GradeResult(numpy.bool_(False), 0.0, "no"), "fn")(PROBLEM, "4")
    assert kept.correct is False and kept.reason == "no"


BAD = [float("nan"), float("inf"), -float("inf"), "1.0", None, [1.0], 10**400, 1j, {}]


@pytest.mark.parametrize("value", BAD, ids=[repr(value)[:10] for value in BAD])
def test_what_is_no_reward_is_an_error_that_names_the_problem_and_the_value(value):
    shown = ascii(None if value == {} else value)[:80]
    for function in (
        lambda problem, text: value,
        lambda data_source, solution_str, ground_truth: value,
        lambda completions: [value] if value is not None else ["None"],
    ):
        with pytest.raises(GraderError) as error:
            adapt(function, "fn")(PROBLEM, "4")
        assert "problem p1" in str(error.value)
        assert shown in str(error.value) or "{}" in str(error.value) or "'None'" in str(error.value)


@pytest.mark.parametrize("value", [[], [1.0, 1.0], 1.0, None])
def test_a_trl_function_returns_one_reward_for_one_completion(value):
    with pytest.raises(GraderError, match="p1: .*list of one"):
        adapt(lambda completions: value, "fn")(PROBLEM, "4")


@pytest.mark.parametrize(
    "function", [lambda: 1.0, lambda text: 1.0, lambda a, b, c: 1.0, lambda problem, *, text: 1.0, lambda *parts: 1.0]
)
def test_other_signatures_are_refused(function):
    with pytest.raises(ConfigError, match="write it as fn"):
        adapt(function, "fn")


def test_async_functions_are_awaited():
    async def fn(completions, **columns):
        await asyncio.sleep(0)
        return [float(completions == ["4"])]

    async def score(problem, text):
        return text == problem.answer

    assert adapt(fn, "fn")(PROBLEM, "4").correct
    assert adapt(score, "score")(PROBLEM, "5").correct is False
