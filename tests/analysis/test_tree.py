"""The experiment on a tree: a tabular policy, the coefficients of obverse, and the limits of each method."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from obverse.types import GenerationRequest
from recipes import tree as module
from recipes.tree import Tree, TreePath, explore, requested_paths


def test_a_policy_that_saw_nothing_is_uniform() -> None:
    tree = Tree(3, 4, seed=0)
    assert tree.success() == pytest.approx(3**-4)
    assert [len(tree.walk(num_hint).turns) for num_hint in range(5)] == [4] * 5
    assert tree.walk(4).turns == tree.target and tree.walk(2).turns[:2] == tree.target[:2]


def test_a_step_follows_the_gradient() -> None:
    """d log pi / d logit is 1 - p for the turn taken and -p for the others, at every node of the way."""
    tree, small = Tree(3, 2, seed=1), 1e-6
    tree.logits[()], tree.logits[tree.target[:1]] = [1.0, 0.0, -2.0], [0.5, 3.0, 0.0]
    before = math.log(tree.success())
    squares = []
    for depth, turn in enumerate(tree.target):
        chances = tree.probabilities(tree.target[:depth])
        squares.append(sum(((candidate == turn) - chance) ** 2 for candidate, chance in enumerate(chances)))
    tree.climb([(TreePath(tree.target), [1.0, 2.0])], small)
    assert (math.log(tree.success()) - before) / small == pytest.approx(squares[0] + 2 * squares[1], rel=1e-4)


def test_hints_count_steps_or_tokens() -> None:
    tree = Tree(2, 5, seed=0)
    assert [
        path.num_hint
        for path, _ in requested_paths(tree, [GenerationRequest(rollouts=2, hint=0.5), GenerationRequest(rollouts=1)])
    ] == [2, 2, 0]
    assert [
        path.num_hint for path, _ in requested_paths(tree, [GenerationRequest(rollouts=1, hint=0.99, hint_in="tokens")])
    ] == [4]
    kinds = [kind for _, kind in requested_paths(tree, [GenerationRequest(rollouts=1, demonstrations=1)])]
    assert kinds == ["demonstration", "rollout"]


def test_rewards_alone_need_luck_and_a_demonstration_does_not() -> None:
    assert explore("grpo", 3, 7, 30.0, seed=0, length=64) is None
    for name in ("hpt", "sft"):
        explorations = explore(name, 3, 7, 30.0, seed=0, length=64)
        assert explorations is not None and explorations <= 64
    assert explore("grpo", 3, 2, 30.0, seed=0, length=1_000) is not None


def test_the_picture_and_the_table_show_what_was_found(tmp_path: Path) -> None:
    cells = {"1": {"explorations": 8, "rate": 3.0}, "2": None}
    results = {"branching": 3, "success": 0.5, "explorations": dict.fromkeys(module.METHODS, cells)}
    module.draw(results, tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 5_000
    assert "| grpo | 8 (3) | not reached |" in module.as_table(results)
