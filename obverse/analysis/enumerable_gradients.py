"""Bias and variance of a method's gradient, exactly: over every group of completions that a small policy can give.

Nothing of a method is written again here: each group goes through its ask, keep and terms and the one loss line, and
what is averaged is the gradient that training would get from an update of this one problem.
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
from obverse.estimator.formula import has_zero_gradient, loss, shaped
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.models.batch import Micro, pack
from obverse.training.value_model import Critic, fill_advantages
from obverse.types import GenerationRequest, Group, Problem, Sample, Source

MAX_EXACT = 12_000  # groups to enumerate; beyond, so many are drawn
NUM_ASKED = 512  # problems that are asked for, where what is asked for is drawn: hints


@dataclass(frozen=True)
class Moments:
    """A gradient estimator beside the true gradient g, lengths in units of |g|.

    bias |E - g|, cosine of E and g, scale <E, g> / <g, g>, variance E|G - E|^2, signal-to-noise |E|^2 / variance (None
    where the variance is zero); `error` is the least mean squared distance of a G, a >= 0, from g: 0 knows g, 1 knows
    nothing, or points away. `uncertainty` is E's standard error where groups were drawn, 0 where all were enumerated.
    """

    bias: float
    cosine: float
    scale: float
    variance: float
    snr: float | None
    error: float
    num_groups: int
    uncertainty: float = 0.0


def moments(method: Method, policy: Table, initial: Table, progress: float = 0.0, seed: int = 0) -> Moments:
    """What the method's gradient is on average, and how it scatters, for updates of one problem."""
    mean, square, num, is_drawn = torch.zeros_like(policy.logits).flatten(), 0.0, 0, False
    for weight, problem, requests in asked(method, progress):
        found = [draft for request in requests for draft in drafts(request, policy, initial)]
        size = math.prod(math.comb(len(each.samples) + each.num - 1, each.num) for each in found)
        is_drawn = is_drawn or size > MAX_EXACT
        groups = enumerated(found) if size <= MAX_EXACT else drawn(found, MAX_EXACT, seed)
        authors = {request.author for request in requests if request.rollouts}
        for chance, samples in groups:
            slope = gradient(method, Group(problem, samples), policy, initial, progress, "initial" in authors)
            mean = mean + weight * chance * slope
            square += weight * chance * float(slope @ slope)
            num += 1
    return compare(mean, square, policy.true_gradient(), num, is_drawn)


def compare(mean: Tensor, square: float, true: Tensor, num: int, is_drawn: bool) -> Moments:
    """The figures of an estimator with this expectation [P] and this expected squared norm."""
    unit, along = float(true @ true), float(mean @ true)
    length = float(mean @ mean)
    spread = max(square - length, 0.0)
    if spread < 1e-12 * square:  # what rounding leaves of nothing
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


def asked(method: Method, progress: float) -> Iterator[tuple[float, Problem, list[GenerationRequest]]]:
    """What the method may ask for with its chance, and a problem for which it does; hints by a count over problems."""
    problems = [Problem(f"problem-{i}", "", answer=2, demonstration=("1", "1")) for i in range(NUM_ASKED)]
    requests = {problem.id: method.ask(problem, progress) for problem in problems}
    keys = {problem.id: tuple(_resolved(request) for request in requests[problem.id]) for problem in problems}
    counts = Counter(keys.values())
    first = {keys[problem.id]: problem for problem in reversed(problems)}
    for key, count in counts.items():
        yield count / NUM_ASKED, first[key], requests[first[key].id]


def _resolved(request: GenerationRequest) -> GenerationRequest:
    """Wishes for the same samples are the same: what counts is how many tokens a hint has."""
    num_steps = round(request.hint * len(DEMONSTRATION.step_ends))
    num_tokens = min(int(request.hint * len(DEMONSTRATION.ids)), LENGTH - 1)
    return replace(request, hint=num_tokens if request.hint_in == "tokens" else num_steps)


def enumerated(found: Sequence[Draft]) -> Iterator[tuple[float, list[Sample]]]:
    """Every group that the drafts can give, orders aside, with its chance."""
    parts = [
        [
            (_chance(members, draft), [draft.samples[i] for i in members])
            for members in combinations_with_replacement(range(len(draft.samples)), draft.num)
        ]
        for draft in found
    ]
    for picked in product(*parts):
        yield math.prod(chance for chance, _ in picked), [sample for _, samples in picked for sample in samples]


def _chance(members: tuple[int, ...], draft: Draft) -> float:
    orders = math.factorial(draft.num) / math.prod(math.factorial(count) for count in Counter(members).values())
    return orders * math.prod(draft.chances[i] for i in members)


def drawn(found: Sequence[Draft], num: int, seed: int) -> Iterator[tuple[float, list[Sample]]]:
    """`num` groups drawn at random, each with the same weight."""
    rng = torch.Generator().manual_seed(seed)
    picks = [
        torch.multinomial(torch.tensor(draft.chances), num * draft.num, True, generator=rng).reshape(num, -1).tolist()
        for draft in found
    ]
    for row in range(num):
        yield 1 / num, [draft.samples[i] for draft, pick in zip(found, picks, strict=True) for i in pick[row]]


class Oracle(Critic):
    """A critic that knows the chance to end right from every context."""

    def values(self, micro: Micro) -> Tensor:
        found: Tensor = self.model.value[micro.position]
        return found


def gradient(
    method: Method, group: Group, policy: Table, initial: Table, progress: float, is_initial: bool = False
) -> Tensor:
    """The gradient ascent direction of one update of this group by the table's logits; [C * V].

    The policy has not moved since it sampled; with `is_initial` the initial model wrote the rollouts. A critic that the
    method reads knows the true values.
    """
    known = memory_values(method, {}, [group])
    # the same completion twice is two samples
    group = Group(group.problem, [replace(sample, uniform=group.problem.uniform) for sample in group.samples])
    update = pack([method.select(group)], method.sources, memories=known)
    settles = method.memory is None and not method.shaping  # as in training: then a still sample has no gradient
    if update is None or (settles and bool(has_zero_gradient(update.samples, method.terms).all())):
        return torch.zeros(policy.logits.numel(), dtype=torch.float64)
    (micro,) = update.micros(10**9)
    rows = [contexts(sample.ids) for sample in update.rows]
    at = zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True)
    place = torch.tensor([rows[sample][position] for sample, position in at])
    leaf = policy.logits.detach().clone().requires_grad_()
    outputs = Table(leaf)
    logp, entropy = outputs.logp[place, micro.target], outputs.entropy[place]
    now, anchor = logp.detach(), initial.logp[place, micro.target]
    behavior = torch.where(micro.tokens.source == int(Source.ROLLOUT), anchor, now) if is_initial else now
    columns = {"behavior": behavior, "anchor": anchor, "sampler": behavior, "reward": torch.zeros_like(now)}
    tokens = replace(micro.tokens, **columns)
    samples = replace(update.samples, reward=update.samples.reward.double(), memory=update.samples.memory.double())
    if method.shaping:
        tokens, added = shaped(tokens, samples, method.shaping)
        samples = replace(samples, reward=samples.reward + added)
    if method.critic is not None:
        known_micro = replace(micro, tokens=tokens, position=place)
        ((written,),) = fill_advantages(Oracle(policy, None), method.critic, [(samples, [known_micro])])  # type: ignore[arg-type]
        tokens = written.tokens
    terms = [term for term in method.terms if term.on != "value"]  # a critic's loss moves no logits
    total = loss(tokens, samples, logp, entropy, terms, progress)
    (slope,) = torch.autograd.grad(total, leaf)
    return -slope.flatten()
