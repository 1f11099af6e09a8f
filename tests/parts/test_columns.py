"""A part reads the columns that it declares; one without numbers raises when it is read, in every table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from obverse.errors import ConfigError
from obverse.estimator.columns import COLUMNS_BY_NEED, MissingColumn
from obverse.estimator.formula import Term, coefficient, has_zero_gradient, loss, shaped
from obverse.estimator.method import Method
from obverse.estimator.parts import Centered, Decoupled, Everything, Overlong, PerToken, Request
from obverse.estimator.parts.interfaces import Mask, Memory, Normalizer, Part, Shaping
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.training.validate import check_method
from obverse.types import Group, ModelInput, Problem, Sample, Source

NUM = 3
COLUMNS = {
    "tokens": ("behavior", "anchor", "advantage", "sampler", "value", "returns", "teacher"),
    "policy": ("entropy",),
    "samples": ("reward", "correct", "rewards", "reward_weights"),
}
READ = [(table, column) for table, columns in COLUMNS.items() for column in columns]


def inputs(source: Source = Source.ROLLOUT, **outputs: Any) -> PartInputs:
    """Three samples of a token each; every column is filled, with numbers that are no zeros."""
    at, full = torch.arange(NUM), torch.full((NUM,), -0.5)
    tokens = Tokens(at, at * 0 + int(source), at * 0, full, full, full, full, full, full, full * 0, full)
    counts = torch.zeros(NUM, len(Source), dtype=torch.long).index_fill(1, torch.tensor([int(source)]), 1)
    samples = Samples(full, full < 0, at * 0, full > 0, counts, full, full, rewards=full, reward_weights=full)
    return PartInputs(tokens, samples, PolicyOutputs(full, **{"entropy": full, "value": full, **outputs}))


def reader(table: str, column: str, kind: type = Part, **attributes: Any) -> Any:
    """A part of a user's that reads one column, with what its class declares."""

    def call(self: object, inputs: PartInputs, *others: object) -> torch.Tensor:
        return getattr(getattr(inputs, table), column) * 2.0

    return type("Mine", (kind,), {"__call__": call, **attributes})()


@pytest.mark.parametrize(("table", "column"), READ)
@pytest.mark.parametrize("role", ["advantage", "reference", "mask", "normalizer"])
def test_an_undeclared_column_is_refused_by_name(table: str, column: str, role: str) -> None:
    kind = {"mask": Mask, "normalizer": Normalizer}.get(role, Part)
    part = reader(table, column, kind)
    term = Term(Source.ROLLOUT, **{"normalizer": PerToken(), role: part})
    with pytest.raises(ConfigError, match=rf"the part Mine reads inputs\.{table}\.{column}.*needs = frozenset"):
        coefficient(inputs(), [term])


@pytest.mark.parametrize("need", COLUMNS_BY_NEED)
def test_a_declared_column_is_read(need: str) -> None:
    for name in COLUMNS_BY_NEED[need]:
        if name == "update":  # tables of their own: training/test_whole_update.py
            continue
        table, column = name.split(".")
        term = Term(Source.ROLLOUT, reader(table, column, needs=frozenset({need})), normalizer=PerToken())
        assert coefficient(inputs(), [term]).abs().sum() > 0


USES: list[Callable[[Any], Any]] = [
    lambda it: it + 1,
    lambda it: 1 - it,
    lambda it: torch.ones(NUM) * it,
    lambda it: torch.ones(NUM) - it,
    lambda it: torch.exp(it),
    lambda it: torch.where(torch.ones(NUM) > 0, torch.ones(NUM), it),
    lambda it: torch.stack([it, it]),
    lambda it: it.exp(),
    lambda it: it.sum(),
    lambda it: -it,
    lambda it: it > 0,
    lambda it: it == 0,
    lambda it: it[0],
    lambda it: float(it),
    lambda it: bool(it),
    lambda it: list(it),
    lambda it: it.tolist(),
    lambda it: it.to("cpu") * 2,
    lambda it: it.double() * 2,
    lambda it: it.detach().mean(),
    lambda it: it.T,
]


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_missing_column_raises(use: Callable[[Any], Any]) -> None:
    at = torch.arange(NUM)
    tokens = Tokens(at, at, at, torch.zeros(NUM))
    for table in (tokens, tokens.rows(at > 0), tokens.map_columns(lambda column: column.to("cpu"))):
        with pytest.raises(ConfigError, match=r"tokens\.anchor"):
            use(table.anchor)


def test_shape_type_and_device_may_be_asked_for() -> None:
    column: Any = MissingColumn("tokens.anchor", torch.zeros(NUM, dtype=torch.float64))
    assert len(column) == NUM and column.dtype is torch.float64 and column.new_ones(column.shape).sum() == NUM
    assert torch.zeros_like(column).dtype is torch.float64 and column.float().dtype is torch.float32


def test_samples_move_with_what_is_missing() -> None:
    full = torch.zeros(NUM)
    moved = Samples(full, full > 0, full.long(), full > 0, full.long()[:, None]).to("cpu")
    for column in (moved.memory, moved.uniform):
        with pytest.raises(ConfigError, match=r"samples\.(memory|uniform)"):
            column + 1


@pytest.mark.parametrize("table", ["tokens", "policy"])
def test_a_declared_column_that_nothing_computed_is_refused(table: str) -> None:
    at = inputs()
    bare = Tokens(at.tokens.sample, at.tokens.source, at.tokens.position, at.tokens.behavior)
    part = reader("tokens", "anchor", needs=frozenset({"anchor"})) if table == "tokens" else reader("policy", "value")
    outputs = PolicyOutputs(at.policy.logp, at.policy.entropy)
    with pytest.raises(ConfigError, match=r"Mine reads inputs\.(tokens\.anchor|policy\.value), which holds no numbers"):
        coefficient(at._replace(tokens=bare, policy=outputs), [Term(Source.ROLLOUT, part, normalizer=PerToken())])


def test_a_policy_independent_part_may_not_read_policy_outputs() -> None:
    part = reader("policy", "logp", is_policy_independent=True)
    with pytest.raises(ConfigError, match=r"policy\.logp"):
        has_zero_gradient(inputs().samples, [Term(Source.ROLLOUT, part, normalizer=PerToken())])


def test_a_scalar_heads_term_has_no_log_probs() -> None:
    term = Term(Source.CHOSEN, reader("policy", "logp"), normalizer=PerToken(), on="score")
    with pytest.raises(ConfigError, match=r"policy\.logp"):
        coefficient(inputs(Source.CHOSEN), [term], "score")


def test_a_shaping_and_a_memory_read_what_they_declare() -> None:
    at = inputs()
    with pytest.raises(ConfigError, match="Mine reads inputs.tokens.anchor"):
        shaped(at.tokens, at.samples, [reader("tokens", "anchor", Shaping)])

    class Keeps(Memory):
        def observe(self, inputs: PartInputs) -> torch.Tensor:
            return inputs.sample_sum(inputs.policy.entropy)

    method = replace(plain(), memory=Keeps())
    with pytest.raises(ConfigError, match="Keeps reads inputs.policy.entropy"):
        method.memory_observation(at)


def plain(*parts: Part, source: Source = Source.ROLLOUT, **others: Any) -> Method:
    terms = tuple(Term(source, part, normalizer=PerToken()) for part in parts)
    return Method(ask=Request(rollouts=2), terms=terms, **others)


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        (frozenset({"anchr"}), "did you mean 'anchor'"),
        (frozenset({"behaviour"}), "did you mean 'behavior'"),
        (frozenset({"reward_"}), "did you mean 'reward'"),
        (frozenset({"zzz"}), "the names are behavior, anchor"),
        (frozenset({7}), "the names are behavior, anchor"),
        ("anchor", "is a set of names"),
        (["anchor"], "is a set of names"),
        (frozenset({"memory"}), "memory=..."),
    ],
)
def test_needs_that_name_no_column_are_refused_when_the_method_is_made(needs: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        plain(reader("tokens", "anchor", needs=needs))


def test_a_source_without_a_sampler_cannot_need_its_column() -> None:
    with pytest.raises(ValueError, match="only rollouts"):
        plain(reader("tokens", "sampler", needs=frozenset({"sampler"})), source=Source.DEMONSTRATION)


@pytest.mark.parametrize("need", ["advantage", "value", "returns"])
def test_a_critics_columns_need_a_critic(need: str) -> None:
    with pytest.raises(ConfigError, match=f"the column `{need}`"):
        check_method("mine", plain(reader("tokens", need, needs=frozenset({need}))))


def test_a_selector_may_not_read_grades_of_a_method_that_grades_nothing() -> None:
    @dataclass(frozen=True)
    class Right(Everything):
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, group: Group) -> list[Sample]:
            return [sample for sample in group.samples if sample.correct]

    group = Group(Problem("p", ""), [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [-0.1], "")])
    with pytest.raises(ConfigError, match="Right reads a grade"):
        plain(keep=Right()).kept_samples(group)
    assert plain(Centered(), keep=Right()).kept_samples(group) == []
    (kept,) = plain(keep=Everything()).kept_samples(group)
    assert kept is group.samples[0]


def test_a_loss_without_a_heads_values_is_refused_where_they_are_read() -> None:
    at, zeros = inputs(), torch.zeros(NUM, requires_grad=True)
    term = Term(Source.ROLLOUT, reader("policy", "value"), normalizer=PerToken())
    with pytest.raises(ConfigError, match=r"policy\.value"):
        loss(at.tokens, at.samples, zeros, zeros, [term])


def test_a_shaping_and_rewards_kept_apart_are_refused_together() -> None:
    with pytest.raises(ValueError, match="'rewards'"):
        plain(Decoupled(), shaping=(Overlong(10, 2, 1.0),))
