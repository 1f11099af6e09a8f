from __future__ import annotations

from random import Random

import pytest

from obverse.data.splits import Draft, deal, resolve, split_of
from obverse.data.synthetic import arithmetic, countdown, knights
from obverse.errors import ConfigError

TASKS = [arithmetic, countdown, knights]
ALLOWED = {"train": (1, 3), "heldout": (1, 3), "ood": (4, 5)}


def draw_letters(rng: Random, level: int) -> Draft:
    """A task with 26 problems of difficulty 1, 676 of difficulty 2, and so on."""
    text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(level))
    return Draft(text, f"Q:{text}", text, (text,))


def letters(split, num_problems, seed=0, difficulty=None):
    return deal("letters", split, num_problems, seed, difficulty, allowed=ALLOWED, draw=draw_letters, verifier="exact")


def form(problem):
    """What makes two problems the same, worked out here and not by the task: names and orders do not count."""
    if problem.meta["task"] == "countdown":
        return tuple(sorted(problem.answer["numbers"])), problem.answer["target"]
    return problem.prompt


def test_a_side_is_for_ever():
    assert [letter for letter in "abcdefghijklmnopqrstuvwxyz" if split_of("letters", letter) == "heldout"] == list(
        "bdgqsw"
    )


def test_about_a_quarter_is_held_out():
    share = sum(split_of("letters", str(i)) == "heldout" for i in range(10_000)) / 10_000
    assert 0.23 < share < 0.27


def test_difficulties_take_turns():
    assert [problem.meta["difficulty"] for problem in letters("train", 7)] == [1, 2, 3, 1, 2, 3, 1]
    assert [problem.meta["difficulty"] for problem in letters("heldout", 4, difficulty=(2, 3))] == [2, 3, 2, 3]


def test_ids_name_the_split_and_count():
    assert [problem.id for problem in letters("heldout", 3)] == [f"letters-heldout-{i}" for i in range(3)]


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    assert letters("train", 60)[:31] == letters("train", 31)


def test_too_few_problems_says_how_many_there_are():
    num_train = sum(split_of("letters", letter) == "train" for letter in "abcdefghijklmnopqrstuvwxyz")
    assert len(letters("train", num_train, difficulty=(1, 1))) == num_train
    says = f"only {num_train} distinct problems of difficulty 1 turn up in the train split, not {num_train + 1}"
    with pytest.raises(ConfigError, match=says):
        letters("train", num_train + 1, difficulty=(1, 1))


@pytest.mark.parametrize(
    ("split", "difficulty"), [("train", (1, 4)), ("train", (0, 2)), ("ood", (3, 4)), ("train", (3, 2))]
)
def test_a_difficulty_that_a_split_does_not_have_is_refused(split, difficulty):
    low, high = ALLOWED[split]
    with pytest.raises(ConfigError, match=f"{split} .*{low} to {high}"):
        resolve("letters", split, difficulty, ALLOWED)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="'test'.*train, heldout, ood"):
        letters("test", 3)


def test_a_negative_number_is_refused():
    with pytest.raises(ConfigError, match="num_problems is -1"):
        letters("train", -1)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_refuses_what_it_does_not_have(task):
    low, high = task.ALLOWED["heldout"]
    with pytest.raises(ConfigError, match=f"difficulties {low} to {high}"):
        task.generate("heldout", 10, 0, (low, high + 1))
    with pytest.raises(ConfigError, match="ood split"):
        task.generate("ood", 10, 0, (low, high))


@pytest.mark.parametrize("num_train", [700, pytest.param(1_500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", TASKS)
def test_splits_never_overlap(task, num_train):
    train = [p for seed in (1, 2) for p in task.generate("train", num_train, seed)]
    heldout = [p for seed in (1, 2) for p in task.generate("heldout", 240, seed)]
    ood = task.generate("ood", 100, 1)
    assert not {form(p) for p in train} & {form(p) for p in heldout}
    assert max(p.meta["difficulty"] for p in train + heldout) < min(p.meta["difficulty"] for p in ood)


@pytest.mark.parametrize("task", TASKS)
def test_no_problem_twice_in_a_call(task):
    problems = task.generate("train", 1_500, 5)
    assert len({form(p) for p in problems}) == len({p.id for p in problems}) == len(problems) == 1_500


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides(task):
    first, again, other = (task.generate("train", 60, seed) for seed in (3, 3, 4))
    assert first == again
    assert [p.prompt for p in first] != [p.prompt for p in other]


@pytest.mark.parametrize("task", TASKS)
def test_problems_are_whole_and_short(task):
    for problem in task.generate("train", 300, 6) + task.generate("ood", 50, 6):
        assert problem.prompt.startswith("Q:") and problem.prompt.endswith("\nA:")
        assert problem.prompt.isascii() and problem.demonstration_text.isascii()
        assert len(problem.demonstration) >= 2 and "\n" not in problem.demonstration_text
        assert problem.demonstration[-1].startswith("#") and problem.demonstration_text.count("#") == 1
