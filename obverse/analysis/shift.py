"""`obverse analyze shift`: the probabilities of the same tokens before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text
from torch import Tensor

from obverse.analysis.context import Scene, filled, points, scene
from obverse.config.analyze import ShiftConfig
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.parts import Request
from obverse.models.batch import pack
from obverse.models.policy import Policy, logprobs
from obverse.models.shared_prefix import Reader
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher
from obverse.types import Sample, Source

NUM_BINS = 20
SURE = 0.9  # a token is polarized where its probability lies above this, or below 1 - this
MICRO_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Moved:
    """A token of the vocabulary: the mean change of its log-prob over the places where it stands, and how many."""

    token: str
    change: float
    num: int


@dataclass(frozen=True)
class Kind:
    """Texts of one kind, read before and after; shares of tokens by probability lie between neighbors of `edges`."""

    kind: str
    num_tokens: int
    edges: list[float]
    before: list[float]
    after: list[float]
    polarized_before: float
    polarized_after: float
    mean_logp_before: float
    mean_logp_after: float
    entropy: list[dict[str, float]]
    raised: list[Moved]
    lowered: list[Moved]


@dataclass(frozen=True)
class Shift:
    """What training did to the probabilities of demonstrations, and of what the model wrote before."""

    before: str
    after: str
    kinds: list[Kind]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        return {"question": "shift", "before": self.before, "after": self.after, "kinds": list(map(asdict, self.kinds))}

    def table(self) -> Stack:
        """The figures for a console."""
        return Stack(*(part for kind in self.kinds for part in (_histogram(kind), _entropy(kind), _moved(kind))))


def _histogram(kind: Kind) -> Table:
    table = Table(title=f"{kind.kind}: {kind.num_tokens} tokens by probability", title_justify="left")
    for column in ("probability", "before", "after", "", "change"):
        table.add_column(column, justify="left" if column == "" else "right")
    most = max(*kind.before, *kind.after)
    for low, high, before, after in zip(kind.edges, kind.edges[1:], kind.before, kind.after, strict=False):
        bar = Text("#" * round(30 * after / most), style="green" if after > before else "red")
        table.add_row(f"{low:.2f}-{high:.2f}", f"{before:.1%}", f"{after:.1%}", bar, f"{after - before:+.1%}")
    table.caption = (
        f"polarized (below {1 - SURE:.1f} or above {SURE}): {kind.polarized_before:.1%} -> {kind.polarized_after:.1%}; "
        f"mean log-prob {kind.mean_logp_before:.3f} -> {kind.mean_logp_after:.3f}"
    )
    table.caption_justify = "left"
    return table


def _entropy(kind: Kind) -> Table:
    table = Table(title=f"{kind.kind}: entropy by position", title_justify="left")
    for column in ("position", "tokens", "before", "after"):
        table.add_column(column, justify="right")
    for row in kind.entropy[:: max(1, len(kind.entropy) // 12)]:
        cells = [f"{row['position']:.0f}", f"{row['num_tokens']:.0f}", f"{row['before']:.3f}", f"{row['after']:.3f}"]
        table.add_row(*cells)
    return table


def _moved(kind: Kind) -> Table:
    table = Table(title=f"{kind.kind}: tokens that moved most, mean change of log-prob", title_justify="left")
    for column in ("raised", "", "times", "lowered", "", "times"):
        table.add_column(column, justify="left" if column in ("raised", "lowered") else "right")
    for number in range(max(len(kind.raised), len(kind.lowered))):
        cells: list[Text | str] = []
        for side in (kind.raised, kind.lowered):
            moved = side[number] if number < len(side) else None
            cells += [Text(_visible(moved.token)), f"{moved.change:+.2f}", str(moved.num)] if moved else ["", "", ""]
        table.add_row(*cells)
    return table


def _visible(token: str) -> str:
    return flat(repr(token)[1:-1])


def shift(config: ShiftConfig, watcher: Watcher | None = None) -> Shift:
    """Demonstrations, and completions of the model before, as both models read them.

    Raises ConfigError where there is nothing to compare with, or nothing to read.
    """
    watch, config = watcher or Silent(), filled(config)
    on_the_way = points(config.model)
    first, last = on_the_way[0], on_the_way[-1]
    before = config.before or first.place
    if before == last.place:
        raise ConfigError("--before: which model did it come from? only a run knows by itself")
    here = scene(config, last.place, before)
    samples = texts(here, config, watch)
    if not samples:
        raise ConfigError(
            "--dataset: there is no demonstration, and --num_generations 0 writes nothing: nothing to read"
        )
    kinds = []
    for kind, found in samples.items():
        said, says = (read_through(policy, found, here.params.temperature) for policy in (here.initial, here.policy))
        kinds.append(summed(kind, found, said, says, here.tokenizer, config.num_tokens))
    return Shift(before, f"{last.name} of {config.model}" if last.step else last.place, kinds)


def texts(here: Scene, config: ShiftConfig, watch: Watcher) -> dict[str, list[Sample]]:
    """The samples to read by their kind."""
    own = config.num_generations
    method = Method(ask=Request(rollouts=own, demonstrations=1), terms=())
    watch.phase("sample", 0, 1)
    collector = here.collector(here.initial)
    problems = here.batch(0, min(config.num_problems, len(here.problems)))
    found = [sample for group in collector.collect(problems, method, 0, 0.0) for sample in group.samples]
    watch.phase("sample", 1, 1)
    kinds: dict[str, list[Sample]] = {}
    for sample in found:
        kinds.setdefault(sample.kind, []).append(sample)
    return kinds


@dataclass(frozen=True)
class Through:
    """What a model says of some samples' tokens, one sample after the other; [T] each."""

    logp: Tensor
    entropy: Tensor


@torch.no_grad()
def read_through(policy: Policy, samples: Sequence[Sample], temperature: float) -> Through:
    """The log-prob and the entropy at every token; what a model wrote is read at the temperature it was sampled at."""
    update = pack([samples], frozenset(Source), temperature)
    if update is None:
        return Through(torch.zeros(0), torch.zeros(0))
    starts = torch.tensor([0, *(len(sample.ids) for sample in samples)]).cumsum(0)
    logp, entropy = torch.zeros(int(starts[-1])), torch.zeros(int(starts[-1]))
    reader = Reader(policy.model)
    for made in update.micros(MICRO_BATCH_TOKENS, shared=policy.shares):
        micro = made.to(policy.device)
        said = logprobs(policy, micro, reader=reader)
        at = starts[made.tokens.sample] + made.tokens.position
        logp[at], entropy[at] = said[0].cpu(), said[1].cpu()
    return Through(logp, entropy)


def summed(
    kind: str, samples: Sequence[Sample], before: Through, after: Through, tokenizer: Any, num_tokens: int
) -> Kind:
    """The figures of one kind of texts."""
    ids = torch.tensor([token for sample in samples for token in sample.ids])
    places = torch.tensor([place for sample in samples for place in range(len(sample.ids))])
    edges = [number / NUM_BINS for number in range(NUM_BINS + 1)]
    raised, lowered = moved(ids, after.logp - before.logp, tokenizer, num_tokens)
    return Kind(
        kind,
        len(ids),
        edges,
        histogram(before.logp),
        histogram(after.logp),
        polarized(before.logp),
        polarized(after.logp),
        float(before.logp.mean()),
        float(after.logp.mean()),
        by_position(places, before.entropy, after.entropy),
        raised,
        lowered,
    )


def histogram(logp: Tensor) -> list[float]:
    """The share of tokens in each of NUM_BINS classes of probability of equal width."""
    number = (logp.exp() * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    shares: list[float] = (number.bincount(minlength=NUM_BINS) / len(logp)).tolist()
    return shares


def polarized(logp: Tensor) -> float:
    """The share of tokens that are nearly certain or nearly impossible."""
    chance = logp.exp()
    return float(((chance < 1 - SURE) | (chance > SURE)).double().mean())


def by_position(places: Tensor, before: Tensor, after: Tensor) -> list[dict[str, float]]:
    """The mean entropy at each position of the response that any text reaches."""
    num = places.bincount()
    means = [places.bincount(entropy.double()) / num for entropy in (before, after)]
    columns = zip(num.tolist(), means[0].tolist(), means[1].tolist(), strict=True)
    return [
        {"position": place, "num_tokens": count, "before": first, "after": then}
        for place, (count, first, then) in enumerate(columns)
    ]


def moved(ids: Tensor, change: Tensor, tokenizer: Any, num: int) -> tuple[list[Moved], list[Moved]]:
    """The `num` tokens of the vocabulary whose log-prob rose most, and those whose fell most, on average."""
    kinds, which, counts = ids.unique(return_inverse=True, return_counts=True)
    means = which.bincount(change.double()) / counts
    order = means.argsort(descending=True).tolist()
    found = [Moved(tokenizer.decode([int(kinds[i])]), float(means[i]), int(counts[i])) for i in order]
    return [each for each in found[:num] if each.change > 0], [each for each in found[::-1][:num] if each.change < 0]
