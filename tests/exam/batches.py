"""Random updates for the exam: records first, so that `keep` and `pack` are examined too; numbers in float64."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse import methods
from obverse.estimator.formula import loss, shaped
from obverse.estimator.method import Method
from obverse.estimator.schedule import as_schedule
from obverse.estimator.tables import Samples, Tokens
from obverse.models.batch import Micro, Update, pack
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source

STEPS = ("first;", "second;", "last")


def sample(rng: random.Random, kind: str, reward: float, num_tokens: int, num_hint: int = 0) -> Sample:
    """A sample with made-up ids and behavior; the numbers that matter are put on the token table later."""
    source = {"hinted": Source.ROLLOUT, "greedy": Source.ROLLOUT}.get(kind) or Source[kind.upper()]
    grade = GradeResult.passed() if reward >= 1 else GradeResult(False, reward)
    return Sample(
        kind=kind,
        prompt=ModelInput(tuple(rng.randrange(3, 30) for _ in range(rng.randint(1, 5)))),
        ids=[rng.randrange(3, 30) for _ in range(num_hint + num_tokens)],
        sources=[Source.HINT] * num_hint + [source] * num_tokens,
        behavior=[0.0] * num_hint + [-rng.random() * 3 - 0.01 if source is Source.ROLLOUT else 0.0] * num_tokens,
        text="",
        grade=grade,
        uniform=rng.random(),
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


def with_pairs(made: list[Group], seed: int) -> list[Group]:
    """The groups with a chosen and a rejected response each, for methods that train them."""
    rng = random.Random(f"pairs {seed}")
    kinds = (("chosen", 1.0), ("rejected", 0.0))
    pairs = [[sample(rng, kind, reward, rng.randint(1, 6)) for kind, reward in kinds] for _ in made]
    return [Group(group.problem, group.samples + pair) for group, pair in zip(made, pairs, strict=True)]


def with_replayed(made: list[Group], seed: int) -> list[Group]:
    """The groups with a right sample of an earlier step each, for methods that train them."""
    rng = random.Random(f"replayed {seed}")
    return [Group(group.problem, [*group.samples, sample(rng, "replayed", 1.0, rng.randint(1, 6))]) for group in made]


def with_greedy(made: list[Group], seed: int) -> list[Group]:
    """The groups with a greedy answer each, right or wrong, for methods that ask for one."""
    rng = random.Random(f"greedy {seed}")
    return [Group(group.problem, [*group.samples, sample(rng, "greedy", rng.choice((0.0, 1.0)), 3)]) for group in made]


def with_rewards(groups_of_update: list[Group], seed: int) -> list[Group]:
    """The groups with two reward functions for each sample: the one that they have, and one that may not apply."""
    rng = random.Random(f"rewards {seed}")
    for group in groups_of_update:
        for graded in group.samples:
            style = rng.choice((0.0, 0.25, 1.0, None))
            rewards = {"answer": graded.reward} | ({} if style is None else {"style": style})
            weights = {name: {"answer": 1.0, "style": 0.5}[name] for name in rewards}
            graded.grade = replace(graded.grade, components=rewards, weights=weights)
    return groups_of_update


def for_method(made: list[Group], method: Method, seed: int) -> list[Group]:
    """The groups with every kind of sample that `method` asks for; others never see one."""
    made = with_hints(made, seed) if Source.HINT in method.sources else made
    made = with_pairs(made, seed) if Source.CHOSEN in method.sources else made
    made = with_replayed(made, seed) if Source.REPLAYED in method.sources else made
    made = with_rewards(made, seed) if method.needs("rewards") else made
    requests = [request for group in made for request in method.ask(group.problem, 0.0)]
    return with_greedy(made, seed) if any(request.greedy for request in requests) else made


def learned(made: list[Group], method: Method) -> Update | None:
    """The update that `method` makes of the groups; what it remembers of each problem is another number for each."""
    memories = [0.0] * len(made)
    if method.memory is not None:
        memories = [method.memory.value_for(group, 0.2 + 0.1 * index) for index, group in enumerate(made)]
    return pack([method.select(group) for group in made], method.sources, memories=memories)


@dataclass
class Numbers:
    """An update with the current policy's numbers: leaves [T] that a loss may differentiate."""

    tokens: Tokens
    samples: Samples
    update: Update
    logp: Tensor
    entropy: Tensor
    value: Tensor
    divergence: Tensor

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
    columns = ("reward", "memory", "uniform", "rewards", "reward_weights")
    return replace(samples, **{name: getattr(samples, name).double() for name in columns})


def whole(update: Update) -> Micro:
    """The update as one micro batch."""
    (micro,) = update.micros(10**9, together=False)
    return micro


def numbers(made: list[Group], method: Method, seed: int = 0, spread: float = 0.4) -> Numbers | None:
    """What `method` keeps of the groups, with random log-probs; log-ratios have standard deviation `spread`.

    A method that trains hint tokens also gets hinted samples, one that trains pairs gets pairs; others never see one.
    """
    update = learned(for_method(made, method, seed), method)
    if update is None:
        return None
    rng = torch.Generator().manual_seed(seed)
    tokens, num = whole(update).tokens, len(whole(update).tokens)
    draw = lambda: torch.randn(num, generator=rng, dtype=torch.float64)  # noqa: E731
    logp = -torch.rand(num, generator=rng, dtype=torch.float64) * 2 - 0.05
    behavior = (logp + spread * draw()).clamp(max=-1e-3)
    columns = {"behavior": behavior, "anchor": (logp + 0.7 * spread * draw()).clamp(max=-1e-3), "advantage": draw()}
    entropy = torch.rand(num, generator=rng, dtype=torch.float64) * 2
    columns |= {"sampler": (behavior + spread * draw()).clamp(max=-1e-3), "value": draw(), "returns": draw()}
    value, samples = draw(), double(update.samples)
    columns["teacher"] = (logp + spread * draw()).clamp(max=-1e-3)
    divergence = torch.rand(num, generator=rng, dtype=torch.float64)
    tokens, added = shaped(replace(tokens, **columns, reward=torch.zeros_like(logp)), samples, method.shaping)
    samples = replace(samples, reward=samples.reward + added)
    leaves = [leaf.requires_grad_() for leaf in (logp, entropy, value, divergence)]
    return Numbers(tokens, samples, update, *leaves)


Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def gradients(total: Tensor, data: Numbers) -> Gradients:
    """Gradient of a scalar by log-probs, entropies, a scalar head's values and divergences; zeros where unused."""
    leaves = [data.logp, data.entropy, data.value, data.divergence]
    partial = torch.autograd.grad(total, leaves, allow_unused=True)
    first, second, third, fourth = (torch.zeros_like(data.logp) if grad is None else grad for grad in partial)
    return first, second, third, fourth


def ours(data: Numbers, method: Method, progress: float = 0.0) -> Gradients:
    """The gradients of obverse's loss."""
    streams = (data.logp, data.entropy, method.terms, progress, data.value, data.divergence)
    return gradients(loss(data.tokens, data.samples, *streams), data)


def method_stages() -> list[str]:
    """Every method of the folder by name; a training schedule as `name:0`, `name:1`, one for each stage."""
    stage_names = []
    for name in methods.names():
        num = len(as_schedule(methods.build(name)).stages)
        stage_names += [name] if num == 1 else [f"{name}:{i}" for i in range(num)]
    return stage_names


def stage(name: str, options: dict[str, object] | None = None) -> Method:
    """The method of a name of `method_stages`."""
    base, _, number = name.partition(":")
    return as_schedule(methods.build(base, options)).methods[int(number or 0)]
