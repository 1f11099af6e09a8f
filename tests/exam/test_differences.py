"""N4: the gradient of every method is the slope of its paper's loss, by finite differences in float64.

Law 1 differentiates the literal loss by autograd, which knows its own rules; here the loss is only ever evaluated. What
a paper stops the gradient of is held at its value while the rest moves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exam.batches import Numbers, groups, numbers, ours, sample, stage
from exam.test_formula import cases, literals
from torch import Tensor

from obverse.types import Group

RELATIVE = 1e-6
ROUNDING = 1e-15  # of a loss in float64, relative: a central difference has it divided by its step


def single(seed: int) -> list[Group]:
    """Samples of one token each."""
    rng, made = random.Random(seed), groups(seed)
    for group in made:
        group.samples = [
            sample(rng, each.kind, each.reward, 1)
            for each in group.samples
            if each.kind in ("demonstration", "rollout")
        ]
    return made


# Name: the groups of a seed, how far policy and sampler are apart, and the step. At 5 nearly every token is beyond its
# clip, and where a method does not clip its ratios are e^10: steep enough for a step of its own.
BATCHES: dict[str, tuple[Callable[[int], list[Group]], float, float]] = {
    "mixed": (groups, 0.4, 1e-5),
    "equal rewards": (lambda seed: groups(seed, rewards=((1.0,) * 4, (0.0,) * 4)), 0.4, 1e-5),
    "one token": (single, 0.4, 1e-5),
    "shut out": (groups, 5.0, 1e-8),
}


class Stopped:
    """`Tensor.detach` that returns what it returned at first, call by call."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.kept: list[Tensor] = []
        self.place, self.is_first = 0, True
        plain = Tensor.detach

        def detach(tensor: Tensor) -> Tensor:
            if self.is_first:
                self.kept.append(plain(tensor).clone())
                return self.kept[-1]
            self.place += 1
            return self.kept[self.place - 1]

        patch.setattr(Tensor, "detach", detach)

    def again(self) -> None:
        self.is_first, self.place = False, 0


@pytest.mark.parametrize(
    "batch", [pytest.param(name, marks=pytest.mark.slow) if name == "one token" else name for name in BATCHES]
)
@pytest.mark.parametrize(("name", "case"), cases())
def test_n4_the_gradient_is_the_slope_of_the_papers_loss(
    name: str, case: int, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not literals(name):
        return  # a stage whose case is that of another one
    options, literal = literals(name)[case]
    make, spread, step = BATCHES[batch]
    method = stage(name, options)
    data = numbers(make(3), method, 3, spread)
    if data is None:
        return  # the method keeps nothing of such a batch: there is no loss
    expected = ours(data, method)
    leaves = [leaf.detach().clone() for leaf in (data.logp, data.entropy, data.value, data.divergence)]
    stopped = Stopped(monkeypatch)

    def value(moved: list[Tensor]) -> float:
        stopped.again()
        logp, entropy, values, divergence = moved
        with torch.no_grad():
            return float(literal(replace(data, logp=logp, entropy=entropy, value=values, divergence=divergence)))

    at = Numbers(data.tokens, data.samples, data.update, *(leaf.clone().requires_grad_() for leaf in leaves))
    literal(at)  # what is stopped is written down here
    draw = torch.Generator().manual_seed(5)
    direction = [torch.randn(leaf.shape, generator=draw, dtype=torch.float64) for leaf in leaves]
    ahead, behind = ([leaf + sign * step * v for leaf, v in zip(leaves, direction, strict=True)] for sign in (1, -1))
    slope = (value(ahead) - value(behind)) / (2 * step)
    products = [gradient * v for gradient, v in zip(expected, direction, strict=True)]
    expected_slope, size = sum(float(p.sum()) for p in products), sum(float(p.abs().sum()) for p in products)
    blur = ROUNDING * max(1.0, abs(value(ahead))) / step
    assert abs(slope - expected_slope) <= RELATIVE * size + blur, (slope, expected_slope, size)
