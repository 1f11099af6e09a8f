"""The worked example of docs/idea.md: the targets Q = p - g of its table are those of the library's losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from obverse import methods
from obverse.estimator.formula import Term, entropy_bonus, loss
from obverse.estimator.method import Method
from obverse.estimator.parts import PerToken
from obverse.estimator.tables import Samples, Tokens
from obverse.types import Source

PAGE = (Path(__file__).parents[2] / "docs" / "idea.md").read_text(encoding="utf-8")
POLICY, ANCHOR, TEACHER = torch.tensor(((0.5, 0.3, 0.2), (0.25, 0.25, 0.5), (0.2, 0.3, 0.5)), dtype=torch.float64)
OBSERVED = 1


def forward_kl(target: Tensor, logits: Tensor) -> Tensor:
    return (target * (target.log() - logits.log_softmax(-1))).sum()


def reverse_kl(target: Tensor, logits: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return (logp.exp() * (logp - target.log())).sum()


def target_of(terms: tuple[Term, ...], divergence: Callable[[Tensor], Tensor] | None = None) -> list[float]:
    """Q = p - g of an update of one demonstrated token."""
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum()[None]
    counts = torch.tensor([[int(source is Source.DEMONSTRATION) for source in Source]])
    index, nothing, one = torch.tensor([0]), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    tokens = Tokens(index, index + int(Source.DEMONSTRATION), index, nothing)
    samples = Samples(one, one > 0, index, one < 0, counts)
    compared = None if divergence is None else divergence(logits)[None]
    loss(tokens, samples, logp[OBSERVED][None], entropy, terms, divergence=compared).backward()
    return (POLICY - logits.grad).tolist()


def terms_of(name: str, **options: object) -> tuple[Term, ...]:
    method = methods.build(name, options)
    assert isinstance(method, Method)
    return tuple(term for term in method.terms if term.source is Source.DEMONSTRATION)


def tilted(beta: float) -> Tensor:
    raised = ANCHOR * torch.tensor([1.0, beta, 1.0], dtype=torch.float64)
    return raised / raised.sum()


def test_the_targets_are_those_of_the_losses() -> None:
    wrong = (Term(Source.DEMONSTRATION, normalizer=PerToken(), weight=-0.5),)
    gkd = terms_of("gkd")
    expected = {
        "`sft`": target_of(terms_of("sft")),
        "`dft`": target_of(terms_of("dft")),
        "a wrong rollout": target_of(wrong),
        "an entropy bonus": target_of(entropy_bonus(0.1, Source.DEMONSTRATION)),
        "`asft`": target_of(terms_of("asft"), lambda logits: forward_kl(ANCHOR, logits)),
        "`gkd`, beta 0": target_of(gkd, lambda logits: forward_kl(TEACHER, logits)),
        "`gkd`, beta 1": target_of(gkd, lambda logits: reverse_kl(TEACHER, logits)),
        "`gift`": target_of(terms_of("gift"), lambda logits: forward_kl(tilted(torch.e**2), logits)),
    }
    lines = PAGE.partition("<!-- targets -->")[2].partition("<!-- /targets -->")[0].strip().splitlines()[2:]
    assert len(lines) == len(expected)
    for line, (name, target) in zip(lines, expected.items(), strict=True):
        label, cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert label.startswith(name)
        assert [float(cell) for cell in cells.split(",")] == pytest.approx(target, abs=5e-5), (label, target)
        assert sum(target) == pytest.approx(1.0)
