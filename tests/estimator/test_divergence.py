"""The divergence as a value and as a stream: what it refuses, its sign in the loss, and gradients known in advance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from obverse.errors import ConfigError
from obverse.estimator import Divergence, Method, Teacher, Term
from obverse.estimator.formula import known_gradients, loss
from obverse.estimator.parts import Behavior, GreedyMix, PerToken, Request, Standardized, Unit
from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import PartInputs, Samples, Tokens
from obverse.types import Source

LOGP = Term(Source.ROLLOUT, normalizer=PerToken())
DIVERGING = Term(Source.ROLLOUT, normalizer=PerToken(), weight=0.5, on="divergence")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"beta": 1.5}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1, "tail": False}, "top_k"),
        ({"smooth": 1.0}, "smooth"),
        ({"top_k": 5, "tilt": 1.0}, "top_k"),
        ({"top_k": 5, "smooth": 0.1}, "top_k"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Divergence(**options)


def test_it_is_printed_with_what_was_chosen() -> None:
    assert str(Divergence(target="anchor", beta=0.0)) == "forward_kl[target=anchor]"
    top = Divergence(beta=0.5, top_k=100, tail=False)
    assert str(top) == "jensen_shannon(beta=0.5)[target=teacher, top_k=100 of policy, no tail]"
    assert str(Divergence(beta=0.0, tilt=20.0)) == "forward_kl[target=teacher, tilt=20]"


@dataclass(frozen=True)
class ReadsDivergence(Part):
    needs: ClassVar[frozenset[str]] = frozenset({"divergence"})

    def __call__(self, inputs: PartInputs) -> Any:
        return inputs.policy.logp


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"terms": (DIVERGING,)}, "need each other"),
        ({"terms": (LOGP,), "divergence": Divergence("anchor")}, "need each other"),
        ({"terms": (DIVERGING,), "divergence": Divergence("teacher")}, "teacher="),
        ({"terms": (DIVERGING,), "divergence": Divergence("anchor"), "teacher": Teacher()}, "leave teacher out"),
        ({"terms": (DIVERGING,), "divergence": Divergence("anchor"), "inputs": GreedyMix(0.5)}, "inputs="),
        ({"terms": (Term(Source.ROLLOUT, ReadsDivergence(), normalizer=PerToken()),)}, "expected gradient is zero"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Method(ask=Request(2), **change)


def tables() -> tuple[Tokens, Samples]:
    """Two rollouts of two tokens, one of them right, and a demonstration of one token."""
    source = [int(Source.ROLLOUT)] * 4 + [int(Source.DEMONSTRATION)]
    tokens = Tokens(
        torch.tensor([0, 0, 1, 1, 2]),
        torch.tensor(source),
        torch.tensor([0, 1, 0, 1, 0]),
        torch.tensor([-1.0, -2.0, -0.5, -0.7, 0.0]),
    )
    counts = torch.zeros(3, len(Source), dtype=torch.long)
    counts[:2, int(Source.ROLLOUT)], counts[2, int(Source.DEMONSTRATION)] = 2, 1
    right = torch.tensor([True, False, True])
    return tokens, Samples(right.float(), right, torch.tensor([0, 0, 0]), ~right, counts)


def test_a_positive_weight_lowers_the_divergence() -> None:
    tokens, samples = tables()
    logp, divergence = (torch.zeros(5, requires_grad=True) for _ in range(2))
    value = loss(tokens, samples, logp, torch.zeros(5), (LOGP, DIVERGING), divergence=divergence)
    by_logp, by_divergence = torch.autograd.grad(value, (logp, divergence))
    torch.testing.assert_close(by_divergence, torch.tensor([0.125] * 4 + [0.0]))
    torch.testing.assert_close(by_logp, torch.tensor([-0.25] * 4 + [0.0]))


def test_a_divergence_that_was_not_computed_is_not_left_out_silently() -> None:
    tokens, samples = tables()
    with pytest.raises(ConfigError, match="policy.divergence"):
        loss(tokens, samples, torch.zeros(5, requires_grad=True), torch.zeros(5), (LOGP, DIVERGING))


def test_gradients_that_do_not_depend_on_the_policy_are_known() -> None:
    tokens, samples = tables()
    for is_unmoved in (True, False):
        known = known_gradients(tokens, samples, (DIVERGING,), 0.0, is_unmoved)
        assert known is not None and not known.logp.any()
        torch.testing.assert_close(known.divergence, torch.tensor([0.125] * 4 + [0.0]))
    surrogate = Term(Source.ROLLOUT, Standardized(), Behavior(), normalizer=PerToken())
    assert known_gradients(tokens, samples, (surrogate, DIVERGING), 0.0) is not None
    assert known_gradients(tokens, samples, (surrogate, DIVERGING), 0.0, is_unmoved=False) is None
    by_probability = Term(Source.ROLLOUT, reference=Unit(), normalizer=PerToken())
    assert known_gradients(tokens, samples, (by_probability, DIVERGING), 0.0) is None
