"""Exact bias and variance of a method's gradient, over all groups of completions of an enumerable policy.

Each group goes through the method's own request, selection and terms and through the loss of training; the averaged
gradient is the one that training would compute from an update of this one problem.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from obverse.analysis.enumerable_policy import DEMONSTRATION, LENGTH, Draft, Table, contexts, drafts
from obverse.analysis.enumerable_teachers import Models, divergence, tables_of_teacher
from obverse.estimator.formula import has_zero_gradient, loss, shaped
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.models.batch import Micro, pack
from obverse.training.value_model import Critic, fill_advantages
from obverse.types import GenerationRequest, Group, Problem, Sample, Source

MAX_EXACT = 12_000  # groups to enumerate; if there are more, this number is drawn
NUM_PROBLEMS = 512  # problems to request samples for, because hint lengths are random


@dataclass(frozen=True)
class Moments:
    """A gradient estimator beside the true gradient g, lengths in units of |g|.

    bias |E - g|, cosine of E and g, scale <E, g> / <g, g>, variance E|G - E|^2, signal-to-noise |E|^2 / variance (None
    if the variance is zero); `error` is the least mean squared distance of a G, a >= 0, from g: 0 is the direction of
    g, 1 is no information, or the opposite direction. `uncertainty` is E's standard error if groups were drawn, else 0.
    """

    bias: float
    cosine: float
    scale: float
    variance: float
    snr: float | None
    error: float
    num_groups: int
    uncertainty: float = 0.0


@dataclass(frozen=True)
class Expectation:
    """E[G] [P] and E|G|^2 of an estimator G, from this number of groups, enumerated or drawn at random."""

    mean: Tensor
    square: float
    num_groups: int
    is_drawn: bool

    def beside(self, true: Tensor) -> Moments:
        """The moments of the estimator beside the true gradient [P]."""
        return moments_of(self.mean, self.square, true, self.num_groups, self.is_drawn)


def moments(method: Method, policy: Table, initial: Table, progress: float = 0.0, seed: int = 0) -> Moments:
    """Mean and variance of the method's gradient beside that of the expected reward, for updates of one problem."""
    return expectation(method, Models(policy, initial), progress, seed).beside(policy.true_gradient())


def expectation(method: Method, models: Models, progress: float = 0.0, seed: int = 0) -> Expectation:
    """The expectations of the method's gradient, for updates of one problem."""
    policy, initial = models.policy, models.initial
    mean, square, num, is_drawn = torch.zeros_like(policy.logits).flatten(), 0.0, 0, False
    for weight, problem, requests in distinct_requests(method, progress):
        drafted = [draft for request in requests for draft in drafts(request, policy, initial)]
        num_groups = math.prod(math.comb(len(draft.samples) + draft.num - 1, draft.num) for draft in drafted)
        is_drawn = is_drawn or num_groups > MAX_EXACT
        groups = enumerated(drafted) if num_groups <= MAX_EXACT else drawn(drafted, MAX_EXACT, seed)
        authors = {request.author for request in requests if request.rollouts}
        for chance, samples in groups:
            group_gradient = gradient(method, Group(problem, samples), models, progress, "initial" in authors)
            mean = mean + weight * chance * group_gradient
            square += weight * chance * float(group_gradient @ group_gradient)
            num += 1
    return Expectation(mean, square, num, is_drawn)


def moments_of(mean: Tensor, square: float, true: Tensor, num: int, is_drawn: bool) -> Moments:
    """The figures of an estimator with this expectation [P] and this expected squared norm."""
    unit, along = float(true @ true), float(mean @ true)
    length = float(mean @ mean)
    spread = max(square - length, 0.0)
    if spread < 1e-12 * square:  # rounding error
        spread = 0.0
    return Moments(
        bias=float((mean - true).norm()) / math.sqrt(unit),
        cosine=along / math.sqrt(unit * length) if length else 0.0,
        scale=along / unit,
        variance=spread / unit,
        snr=length / spread if spread else None,
        error=1.0 - max(along, 0.0) ** 2 / (unit * square) if square else 1.0,
        num_groups=num,
        uncertainty=math.sqrt(spread / num / unit) if is_drawn else 0.0,
    )


def distinct_requests(method: Method, progress: float) -> Iterator[tuple[float, Problem, list[GenerationRequest]]]:
    """The distinct requests of the method: the share of problems with it, one such problem, and the request."""
    problems = [Problem(f"problem-{i}", "", answer=2, demonstration=("1", "1")) for i in range(NUM_PROBLEMS)]
    requests = {problem.id: method.ask(problem, progress) for problem in problems}
    keys = {problem.id: tuple(_resolved(request) for request in requests[problem.id]) for problem in problems}
    counts = Counter(keys.values())
    first = {keys[problem.id]: problem for problem in reversed(problems)}
    for key, count in counts.items():
        yield count / NUM_PROBLEMS, first[key], requests[first[key].id]


def _resolved(request: GenerationRequest) -> GenerationRequest:
    """A request with its hint as a number of tokens or steps: requests for the same samples become equal."""
    num_steps = round(request.hint * len(DEMONSTRATION.step_ends))
    num_tokens = min(int(request.hint * len(DEMONSTRATION.ids)), LENGTH - 1)
    return replace(request, hint=num_tokens if request.hint_in == "tokens" else num_steps)


def enumerated(drafted: Sequence[Draft]) -> Iterator[tuple[float, list[Sample]]]:
    """Every group that the drafts can produce, regardless of order, with its probability."""
    parts = [
        [
            (_chance(members, draft), [draft.samples[i] for i in members])
            for members in combinations_with_replacement(range(len(draft.samples)), draft.num)
        ]
        for draft in drafted
    ]
    for members_of_drafts in product(*parts):
        yield (
            math.prod(chance for chance, _ in members_of_drafts),
            [sample for _, samples in members_of_drafts for sample in samples],
        )


def _chance(members: tuple[int, ...], draft: Draft) -> float:
    orders = math.factorial(draft.num) / math.prod(math.factorial(count) for count in Counter(members).values())
    return orders * math.prod(draft.chances[i] for i in members)


def drawn(drafted: Sequence[Draft], num: int, seed: int) -> Iterator[tuple[float, list[Sample]]]:
    """`num` groups drawn at random, each with the same weight."""
    rng = torch.Generator().manual_seed(seed)
    picks = [
        torch.multinomial(torch.tensor(draft.chances), num * draft.num, True, generator=rng).reshape(num, -1).tolist()
        for draft in drafted
    ]
    for row in range(num):
        yield 1 / num, [draft.samples[i] for draft, pick in zip(drafted, picks, strict=True) for i in pick[row]]


class ExactCritic(Critic):
    """A critic with the exact value of every context."""

    def values(self, micro: Micro) -> Tensor:
        values: Tensor = self.model.value[micro.position]
        return values


def gradient(method: Method, group: Group, models: Models, progress: float, is_initial: bool = False) -> Tensor:
    """The gradient ascent direction of one update of this group by the table's logits; [C * V].

    The policy is the one that sampled; with `is_initial` the initial model sampled the rollouts. A critic of the method
    has the exact values.
    """
    policy, initial = models.policy, models.initial
    memories = memory_values(method, {}, [group])
    # two samples may be the same completion
    group = Group(group.problem, [replace(sample, uniform=group.problem.uniform) for sample in group.samples])
    update = pack([method.select(group)], method.sources, memories=memories)
    can_skip = method.memory is None and not method.shaping  # as in training, which skips samples without a gradient
    if update is None or (can_skip and bool(has_zero_gradient(update.samples, method.terms).all())):
        return torch.zeros(policy.logits.numel(), dtype=torch.float64)
    (micro,) = update.micros(10**9)
    rows = [contexts(sample.ids) for sample in update.rows]
    tokens_at = zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True)
    context = torch.tensor([rows[sample][position] for sample, position in tokens_at])
    leaf = policy.logits.detach().clone().requires_grad_()
    outputs = Table(leaf)
    logp, entropy = outputs.logp[context, micro.target], outputs.entropy[context]
    current, anchor = logp.detach(), initial.logp[context, micro.target]
    behavior = torch.where(micro.tokens.source == int(Source.ROLLOUT), anchor, current) if is_initial else current
    columns = {"behavior": behavior, "anchor": anchor, "sampler": behavior, "reward": torch.zeros_like(current)}
    targets = {"anchor": initial.logits[context]}
    if method.teacher is not None:
        tables = torch.stack([table.logits for table in tables_of_teacher(method, group, update.rows, models)])
        targets["teacher"] = tables[micro.tokens.sample, context]
        columns["teacher"] = targets["teacher"].log_softmax(-1).gather(-1, micro.target[:, None])[:, 0]
    tokens = replace(micro.tokens, **columns)
    samples = replace(update.samples, reward=update.samples.reward.double(), memory=update.samples.memory.double())
    if method.shaping:
        tokens, added = shaped(tokens, samples, method.shaping)
        samples = replace(samples, reward=samples.reward + added)
    if method.critic is not None:
        with_contexts = replace(micro, tokens=tokens, position=context)
        ((filled,),) = fill_advantages(ExactCritic(policy, None), method.critic, [(samples, [with_contexts])])  # type: ignore[arg-type]
        tokens = filled.tokens
    terms = [term for term in method.terms if term.on != "value"]  # a critic's loss does not depend on the logits
    form = method.divergence
    distance = None if form is None else divergence(form, leaf[context], targets[form.target], micro.target)
    total = loss(tokens, samples, logp, entropy, terms, progress, divergence=distance)
    (slope,) = torch.autograd.grad(total, leaf)
    return -slope.flatten()
