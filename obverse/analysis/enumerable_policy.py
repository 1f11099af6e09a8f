"""A tabular policy with so few completions that all of them can be enumerated, with their probabilities.

Completions are letters, 1 or 2, up to a stop token, or cut off after three tokens: fifteen in all. Correct are those
that stop and have letters that sum to 2; the longer of the two correct ones, "1 1 stop", is the demonstration. The
policy has separate logits for every position and preceding letter, so that completions share some of their contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from obverse.data.renderer import RenderedResponse, hint_tokens
from obverse.types import GenerationRequest, GradeResult, ModelInput, Sample, Source

STOP, LETTERS, LENGTH, GOAL = 0, (1, 2), 3, 2
DEMONSTRATION = RenderedResponse([1, 1, STOP], [1, 2], "11")
NUM_TOKENS, NUM_CONTEXTS = 1 + len(LETTERS), 1 + (LENGTH - 1) * len(LETTERS)
STRIDE = 0.02  # along the gradient, from one success rate to the next
MAX_STRIDES = 20_000

Ids = tuple[int, ...]


def completions(start: Ids = (), most: int = LENGTH) -> list[Ids]:
    """All completions that begin with `start`, of at most `most` tokens, `start` included."""
    if len(start) >= most or STOP in start:
        return [start]
    return [completion for token in (STOP, *LETTERS) for completion in completions((*start, token), most)]


def is_correct(ids: Sequence[int]) -> bool:
    return ids[-1] == STOP and sum(ids) == GOAL


def contexts(ids: Sequence[int]) -> list[int]:
    """The row of the table that each token is drawn from."""
    letters = enumerate(ids[:-1])
    return [0, *(1 + position * len(LETTERS) + letter - 1 for position, letter in letters)]


@dataclass(frozen=True)
class Table:
    """A policy: the logits of the next token in each context; float64 [C, V]."""

    logits: Tensor

    @cached_property
    def logp(self) -> Tensor:
        return self.logits.log_softmax(-1)

    @cached_property
    def entropy(self) -> Tensor:
        return -(self.logp.exp() * self.logp).sum(-1)

    @cached_property
    def value(self) -> Tensor:
        """The probability of a correct completion from each context, the exact value function; [C]."""
        chances = torch.zeros(NUM_CONTEXTS, dtype=torch.float64)
        for start in [start for length in range(LENGTH) for start in _unfinished(length)]:
            chances[contexts((*start, STOP))[-1]] = sum(
                self.likelihood(ids, len(start)).exp() for ids in completions(start) if is_correct(ids)
            )
        return chances

    def likelihood(self, ids: Sequence[int], start: int = 0) -> Tensor:
        """Log-prob of a completion's tokens from `start` on."""
        return self.logp[contexts(ids)[start:], list(ids)[start:]].sum()

    @cached_property
    def visits(self) -> Tensor:
        """The expected number of tokens that a completion has in each context; [C]."""
        counts = self.logits.new_zeros(NUM_CONTEXTS)
        for ids in completions():
            for context in contexts(ids):
                counts[context] += self.likelihood(ids).exp()
        return counts

    def success(self) -> Tensor:
        """The expected reward."""
        return torch.stack([self.likelihood(ids) for ids in completions() if is_correct(ids)]).exp().sum()

    def true_gradient(self) -> Tensor:
        """The gradient of the expected reward by the logits, by enumeration; [C * V]."""
        leaf = self.logits.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(Table(leaf).success(), leaf)
        return gradient.flatten()


def _unfinished(length: int) -> list[Ids]:
    return [ids for ids in completions(most=length) if STOP not in ids and len(ids) == length] if length else [()]


def policies_at(rates: Sequence[float], seed: int) -> list[Table]:
    """Policies at rising success rates, along the exact gradient; the first one is the initial model.

    The first is a random policy after gradient descent to the first rate; the others follow by gradient ascent.
    """
    rng = torch.Generator().manual_seed(seed)
    table = Table(torch.randn(NUM_CONTEXTS, NUM_TOKENS, generator=rng, dtype=torch.float64) * 0.5)
    tables = []
    for rate in rates:
        table = move_to(table, rate)
        tables.append(table)
    return tables


def move_to(table: Table, rate: float) -> Table:
    """Move a policy along the gradient to the success rate `rate`."""
    sign = 1.0 if rate > float(table.success()) else -1.0
    for _ in range(MAX_STRIDES):
        slope = table.true_gradient().reshape(NUM_CONTEXTS, NUM_TOKENS)
        stride = sign * STRIDE * slope / slope.norm()
        if sign * float(Table(table.logits + stride).success() - rate) >= 0:
            return _bisect(table, stride, rate, sign)
        table = Table(table.logits + stride)
    raise ValueError(f"the success rate {rate:g} was not reached in {MAX_STRIDES} steps")


def _bisect(table: Table, stride: Tensor, rate: float, sign: float) -> Table:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        past = sign * float(Table(table.logits + middle * stride).success() - rate) >= 0
        low, high = (low, middle) if past else (middle, high)
    return Table(table.logits + high * stride)


@dataclass(frozen=True)
class Draft:
    """Identically distributed samples: the possible samples, the probability of each, and how many are drawn."""

    samples: list[Sample]
    chances: list[float]
    num: int


def drafts(request: GenerationRequest, policy: Table, initial: Table) -> list[Draft]:
    """The samples of a request: a draft of all completions for rollouts, drafts of a single sample for other kinds."""
    drafted = []
    if request.demonstrations:
        drafted.append(Draft([_sample("demonstration", DEMONSTRATION.ids, Source.DEMONSTRATION)], [1.0], 1))
    if request.rollouts:
        author = initial if request.author == "initial" else policy
        start = tuple(hint_tokens(DEMONSTRATION, request))
        most = LENGTH if request.max_tokens is None else min(LENGTH, len(start) + request.max_tokens)
        ids = completions(start, most)
        chances = [float(author.likelihood(completion, len(start)).exp()) for completion in ids]
        kind = "hinted" if start else "rollout"
        drafted.append(
            Draft(
                [_sample(kind, completion, Source.ROLLOUT, len(start)) for completion in ids], chances, request.rollouts
            )
        )
    if request.greedy:
        drafted.append(Draft([_sample("greedy", greedy(policy), Source.ROLLOUT)], [1.0], 1))
    return drafted


def greedy(policy: Table) -> Ids:
    """The completion of the most probable tokens."""
    ids: Ids = ()
    while len(ids) < LENGTH and STOP not in ids:
        ids = (*ids, int(policy.logp[contexts((*ids, STOP))[-1]].argmax()))
    return ids


def _sample(kind: str, ids: Sequence[int], source: Source, num_hint: int = 0) -> Sample:
    ended = ids[-1] == STOP
    return Sample(
        kind=kind,  # type: ignore[arg-type]
        prompt=ModelInput((STOP,)),
        ids=list(ids),
        sources=[Source.HINT] * num_hint + [source] * (len(ids) - num_hint),
        behavior=[0.0] * len(ids),
        text="".join(map(str, ids[: len(ids) - ended])),
        finish="stop" if ended else "length",
        grade=GradeResult.passed() if is_correct(ids) else GradeResult.failed("the letters do not sum to 2"),
    )
