"""Random updates for the exam: records first, so that `keep` and `pack` are examined too; numbers in float64."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse.batch import Micro, Update, pack
from obverse.estimator import loss
from obverse.method import Method
from obverse.records import Group, Problem, Sample, Source, Verdict
from obverse.view import Samples, Tokens

STEPS = ("first;", "second;", "last")


def sample(rng: random.Random, kind: str, reward: float, num_tokens: int, num_hint: int = 0) -> Sample:
    """A sample with made-up ids and behavior; the numbers that matter are put on the token table later."""
    source = {"rollout": Source.ROLLOUT, "hinted": Source.ROLLOUT, "demonstration": Source.DEMONSTRATION}[kind]
    verdict = Verdict.right() if reward >= 1 else Verdict(False, reward)
    return Sample(
        kind=kind,
        prompt_ids=[rng.randrange(3, 30) for _ in range(rng.randint(1, 5))],
        ids=[rng.randrange(3, 30) for _ in range(num_hint + num_tokens)],
        sources=[Source.HINT] * num_hint + [source] * num_tokens,
        behavior=[0.0] * num_hint + [-rng.random() * 3 - 0.01 if kind != "demonstration" else 0.0] * num_tokens,
        text="",
        verdict=verdict,
    )


def groups(
    seed: int,
    rewards: tuple[tuple[float, ...], ...] = ((1, 0, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 0)),
    demonstrations: bool = True,
    rollouts: bool = True,
) -> list[Group]:
    """One group per tuple of rollout rewards: solved now and then, never, always; each with a demonstration."""
    rng = random.Random(seed)
    made = []
    for index, row in enumerate(rewards):
        problem = Problem(f"p{index}", "a prompt", answer="1", demonstration=STEPS, verifier="exact")
        shown = [sample(rng, "demonstration", 1.0, rng.randint(1, 6))] if demonstrations else []
        own = [sample(rng, "rollout", reward, rng.randint(1, 7)) for reward in row] if rollouts else []
        made.append(Group(problem, shown + own))
    return made


def with_hints(made: list[Group], seed: int, num_hinted: int = 2) -> list[Group]:
    """The groups with samples that continue their demonstration, for methods that train hints; rewards mixed over all.

    A failed group may thus be solved with a hint. Groups without a demonstration get none.
    """
    rng = random.Random(f"hints {seed}")
    rewards = sorted({each.reward for group in made for each in group.of("rollout")}) or [0.0, 1.0]
    found = []
    for group in made:
        num = num_hinted if group.of("demonstration") else 0
        extra = [sample(rng, "hinted", rng.choice(rewards), rng.randint(1, 5), rng.randint(1, 12)) for _ in range(num)]
        found.append(Group(group.problem, group.samples + extra))
    return found


@dataclass
class Numbers:
    """An update with the current policy's numbers: leaves [T] that a loss may differentiate."""

    tokens: Tokens
    samples: Samples
    update: Update
    logp: Tensor
    entropy: Tensor

    def rows(self, source: Source) -> list[tuple[int, Tensor]]:
        """(row in Samples, token mask) of every sample that has tokens of `source`, for literal losses."""
        masks = [(self.tokens.sample == i) & (self.tokens.source == int(source)) for i in range(len(self.samples))]
        return [(i, mask) for i, mask in enumerate(masks) if mask.any()]

    def mask(self, source: Source) -> Tensor:
        return self.tokens.source == int(source)

    def members(self, row: int) -> list[int]:
        """The rows of `row`'s group, itself included."""
        return [i for i in range(len(self.samples)) if self.samples.group[i] == self.samples.group[row]]


def double(samples: Samples) -> Samples:
    return replace(samples, reward=samples.reward.double())


def whole(update: Update) -> Micro:
    """The update as one micro batch."""
    (micro,) = update.micros(10**9)
    return micro


def numbers(made: list[Group], method: Method, seed: int = 0, spread: float = 0.4) -> Numbers | None:
    """What `method` keeps of the groups, with random log-probs; log-ratios have standard deviation `spread`.

    A method that trains hint tokens also gets hinted samples; others never see one.
    """
    if Source.HINT in method.sources:
        made = with_hints(made, seed)
    update = pack([method.select(group) for group in made], method.sources)
    if update is None:
        return None
    rng = torch.Generator().manual_seed(seed)
    tokens, num = whole(update).tokens, len(whole(update).tokens)
    draw = lambda: torch.randn(num, generator=rng, dtype=torch.float64)  # noqa: E731
    logp = -torch.rand(num, generator=rng, dtype=torch.float64) * 2 - 0.05
    behavior = (logp + spread * draw()).clamp(max=-1e-3)
    columns = {"behavior": behavior, "anchor": (logp + 0.7 * spread * draw()).clamp(max=-1e-3), "advantage": draw()}
    entropy = torch.rand(num, generator=rng, dtype=torch.float64) * 2
    tokens = replace(tokens, **columns)
    return Numbers(tokens, double(update.samples), update, logp.requires_grad_(), entropy.requires_grad_())


def gradients(value: Tensor, data: Numbers) -> tuple[Tensor, Tensor]:
    """Gradient of a scalar by the log-probs and by the entropies; zeros where it does not depend on them."""
    found = torch.autograd.grad(value, [data.logp, data.entropy], allow_unused=True)
    first, second = (torch.zeros_like(data.logp) if grad is None else grad for grad in found)
    return first, second


def ours(data: Numbers, method: Method, progress: float = 0.0) -> tuple[Tensor, Tensor]:
    """The gradients that our one loss line gives."""
    return gradients(loss(data.tokens, data.samples, data.logp, data.entropy, method.terms, progress), data)
