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

from obverse.analysis.context import Context, load_context, points, with_run_options
from obverse.config.analyze import ShiftConfig
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.parts import Request
from obverse.models.batch import pack
from obverse.models.policy import Policy, logprobs
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher
from obverse.types import Sample, Source

NUM_BINS = 20
CERTAIN = 0.9  # a token is polarized if its probability is above this, or below 1 - this
MICRO_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Moved:
    """A token of the vocabulary: the mean change of its log-prob over its occurrences, and their number."""

    token: str
    change: float
    num: int


@dataclass(frozen=True)
class Kind:
    """Texts of one kind, before and after; `before` and `after` are shares of tokens between consecutive `edges`."""

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
    """Changes of token probabilities, on demonstrations and on completions of the model before training."""

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
        f"polarized (below {1 - CERTAIN:.1f} or above {CERTAIN}): "
        f"{kind.polarized_before:.1%} -> {kind.polarized_after:.1%}; "
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
    """The shift on demonstrations and on completions of the model before training.

    Raises ConfigError if there is no second model, or no text.
    """
    watch, config = watcher or Silent(), with_run_options(config)
    saved_points = points(config.model)
    oldest, newest = saved_points[0], saved_points[-1]
    before = config.before or oldest.path
    if before == newest.path:
        raise ConfigError("--before: is required for a model that is not a run: the model that it was trained from")
    context = load_context(config, newest.path, before)
    samples = texts(context, config, watch)
    if not samples:
        raise ConfigError(
            "--dataset: it has no demonstration, and --num_generations 0 samples nothing: there is no text"
        )
    kinds = []
    for kind, members in samples.items():
        values_before, values_after = (
            token_values(policy, members, context.params.temperature) for policy in (context.initial, context.policy)
        )
        kinds.append(kind_of_text(kind, members, values_before, values_after, context.tokenizer, config.num_tokens))
    return Shift(before, f"{newest.name} of {config.model}" if newest.step else newest.path, kinds)


def texts(context: Context, config: ShiftConfig, watch: Watcher) -> dict[str, list[Sample]]:
    """The samples by kind."""
    num_rollouts = config.num_generations
    method = Method(ask=Request(rollouts=num_rollouts, demonstrations=1), terms=())
    collector = context.collector(method, context.initial, watch)
    problems = context.batch(0, min(config.num_problems, len(context.problems)))
    collected = [sample for group in collector.collect(problems, method, 0, 0.0) for sample in group.samples]
    kinds: dict[str, list[Sample]] = {}
    for sample in collected:
        kinds.setdefault(sample.kind, []).append(sample)
    return kinds


@dataclass(frozen=True)
class TokenValues:
    """Log-probs and entropies at the tokens of some samples, one sample after the other; [T] each."""

    logp: Tensor
    entropy: Tensor


@torch.no_grad()
def token_values(policy: Policy, samples: Sequence[Sample], temperature: float) -> TokenValues:
    """The log-prob and the entropy at every token; rollouts are evaluated at their sampling temperature."""
    update = pack([samples], frozenset(Source), temperature)
    if update is None:
        return TokenValues(torch.zeros(0), torch.zeros(0))
    starts = torch.tensor([0, *(len(sample.ids) for sample in samples)]).cumsum(0)
    logp, entropy = torch.zeros(int(starts[-1])), torch.zeros(int(starts[-1]))
    reader = policy.prompt_reader()
    for packed in update.micros(MICRO_BATCH_TOKENS, shared=policy.shares, pads_prompts=policy.pads_prompts):
        micro = packed.to(policy.device)
        values = logprobs(policy, micro, reader=reader)
        index = starts[packed.tokens.sample] + packed.tokens.position
        logp[index], entropy[index] = values[0].cpu(), values[1].cpu()
    return TokenValues(logp, entropy)


def kind_of_text(
    kind: str, samples: Sequence[Sample], before: TokenValues, after: TokenValues, tokenizer: Any, num_tokens: int
) -> Kind:
    """The figures of one kind of text."""
    ids = torch.tensor([token for sample in samples for token in sample.ids])
    positions = torch.tensor([position for sample in samples for position in range(len(sample.ids))])
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
        by_position(positions, before.entropy, after.entropy),
        raised,
        lowered,
    )


def histogram(logp: Tensor) -> list[float]:
    """The share of tokens in each of NUM_BINS classes of probability of equal width."""
    number = (logp.exp() * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    shares: list[float] = (number.bincount(minlength=NUM_BINS) / len(logp)).tolist()
    return shares


def polarized(logp: Tensor) -> float:
    """The share of tokens with a probability above CERTAIN or below 1 - CERTAIN."""
    chance = logp.exp()
    return float(((chance < 1 - CERTAIN) | (chance > CERTAIN)).double().mean())


def by_position(positions: Tensor, before: Tensor, after: Tensor) -> list[dict[str, float]]:
    """The mean entropy at each position of the response, up to the longest text."""
    num = positions.bincount()
    means = [positions.bincount(entropy.double()) / num for entropy in (before, after)]
    columns = zip(num.tolist(), means[0].tolist(), means[1].tolist(), strict=True)
    return [
        {"position": position, "num_tokens": count, "before": first, "after": second}
        for position, (count, first, second) in enumerate(columns)
    ]


def moved(ids: Tensor, change: Tensor, tokenizer: Any, num: int) -> tuple[list[Moved], list[Moved]]:
    """The `num` tokens of the vocabulary with the largest mean rise of log-prob, and those with the largest fall."""
    distinct, index, counts = ids.unique(return_inverse=True, return_counts=True)
    means = index.bincount(change.double()) / counts
    order = means.argsort(descending=True).tolist()
    tokens = [Moved(tokenizer.decode([int(distinct[i])]), float(means[i]), int(counts[i])) for i in order]
    return [token for token in tokens[:num] if token.change > 0], [
        token for token in tokens[::-1][:num] if token.change < 0
    ]
