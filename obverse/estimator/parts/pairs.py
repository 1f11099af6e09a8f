"""Preferences: pairs of samples of a problem, and single samples with a target score.

A pair's weight needs the policy outputs of both samples. Every chosen sample of a problem is paired with every rejected
one; a problem that lacks either has no pair and no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.interfaces import Normalizer, PairedAdvantage, Part
from obverse.estimator.parts.preference_losses import AVERAGED, SMOOTHED, PairLoss, pulls
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs, Samples

# The square of a gap times its slope must be finite in float32 too.
LOG_SCORE_LIMIT = LOG_RATIO_LIMIT / 2

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


def sides(samples: Samples, with_rollouts: bool) -> tuple[Tensor, Tensor]:
    """Which samples are chosen and which rejected; bool [S] each. `with_rollouts` includes rollouts by their grade."""
    chosen, rejected = (samples.counts[:, int(source)] > 0 for source in (Source.CHOSEN, Source.REJECTED))
    if not with_rollouts:
        return chosen, rejected
    is_rollout = samples.counts[:, int(Source.ROLLOUT)] > 0
    return chosen | (is_rollout & samples.correct), rejected | (is_rollout & ~samples.correct)


def all_pairs(samples: Samples, with_rollouts: bool) -> tuple[Tensor, Tensor]:
    """The rows in Samples of each pair's chosen and rejected sample, over the whole update; [P] each."""
    chosen, rejected = sides(samples, with_rollouts)
    same = samples.group[:, None] == samples.group[None, :]
    better, worse = (same & chosen[:, None] & rejected[None, :]).nonzero(as_tuple=True)
    return better, worse


def local_pairs(inputs: PartInputs, with_rollouts: bool) -> tuple[Tensor, Tensor]:
    """The pairs whose samples are in this micro batch; [P] each."""
    better, worse = all_pairs(inputs.samples, with_rollouts)
    is_local = inputs.samples.correct.new_zeros(len(inputs.samples)).index_fill(0, inputs.tokens.sample, True)
    both = is_local[better] & is_local[worse]
    return better[both], worse[both]


def summed(pairs: tuple[Tensor, Tensor], up: Tensor, down: Tensor, num_samples: int) -> Tensor:
    """[P], [P] -> [S]: sum over each sample's pairs, of `up` where it is the better one and `down` where the worse."""
    better, worse = pairs
    return up.new_zeros(num_samples).index_add(0, better, up).index_add(0, worse, down)


def log_ratios(inputs: PartInputs) -> Tensor:
    """L, the sum over a sample's trained tokens of log pi_theta - log pi_anchor; [S]."""
    return inputs.sample_sum(inputs.policy.logp - inputs.tokens.anchor)


@dataclass(frozen=True)
class Preferred(PairedAdvantage):
    """A = minus the slope of a pair's loss by the sample's score, times g'(L), on every token of both samples; [T].

    L is a sample's summed log-ratio to the anchor (with `reference_free` its log-prob), its score g(L): L for the
    reverse KL, 1 - e^-L for the forward KL, log 2 + log sigmoid(L) for Jensen-Shannon, (e^((alpha - 1) L) - 1) /
    (alpha - 1) for alpha; for `ipo` and `sigmoid_norm` divided by the sample's tokens. The losses are those of
    `preference_losses`. A sample's pairs are summed. If `with_rollouts`, correct rollouts are paired with incorrect
    ones too.
    Source: DPO, 2305.18290 eq. 7; divergences, 2309.16240; ipo, 2310.12036, length averaged as in TRL.
    """

    beta: float = 0.1
    divergence: Divergence = "reverse_kl"
    alpha: float = 0.5
    loss: PairLoss = "sigmoid"
    label_smoothing: float = 0.0
    with_rollouts: bool = False
    reference_free: bool = False
    margin: float = 0.0
    needs_whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta:g}")
        if self.divergence == "alpha" and self.alpha == 1:
            raise ValueError('the alpha divergence with alpha 1 is the reverse KL: give divergence="reverse_kl"')
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be at least 0 and below 0.5, not {self.label_smoothing:g}")
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f"label_smoothing requires one of the losses {', '.join(SMOOTHED)}, not {self.loss}")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("exo_pair requires a label_smoothing above 0: its target distribution has no zero")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        anchor = frozenset[str]() if self.reference_free else frozenset({"anchor"})
        return anchor | {"correct", "own_group"} if self.with_rollouts else anchor

    def __call__(self, inputs: PartInputs) -> Tensor:
        score, slope = self._scores(inputs)
        better, worse = pairs = local_pairs(inputs, self.with_rollouts)
        up, down = pulls(self.loss, score[better], score[worse], self.beta, self.label_smoothing, self.margin)
        return inputs.spread(summed(pairs, up, down, len(inputs.samples)) * slope)

    def margins(self, inputs: PartInputs) -> Tensor:
        """beta (score of the better - score of the worse) of every pair of this micro batch; [P]."""
        score, _ = self._scores(inputs)
        better, worse = local_pairs(inputs, self.with_rollouts)
        return self.beta * (score[better] - score[worse])

    def _scores(self, inputs: PartInputs) -> tuple[Tensor, Tensor]:
        """The compared scores and their derivatives by each token's log-prob; [S] each."""
        total = inputs.sample_sum(inputs.policy.logp) if self.reference_free else log_ratios(inputs)
        score, slope = self._divergence(total)
        if self.loss not in AVERAGED:
            return score, slope
        num_tokens = inputs.samples.counts.sum(1).clamp(min=1)
        return score / num_tokens, slope / num_tokens

    def _divergence(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """g(L) and g'(L), with exponents clamped to be finite; [S] each."""
        if self.divergence == "reverse_kl":
            return ratio, ratio.new_ones(ratio.shape)
        if self.divergence == "js":
            log_sigmoid = ratio.clamp(max=0) - (-ratio.abs()).exp().log1p()
            return math.log(2) + log_sigmoid, (-ratio).sigmoid()
        power = -1.0 if self.divergence == "forward_kl" else self.alpha - 1
        exponent = (power * ratio).clamp(-LOG_SCORE_LIMIT, LOG_SCORE_LIMIT)
        return exponent.expm1() / power, exponent.exp()


@dataclass(frozen=True)
class Transported(Preferred):
    """DPO's logistic loss on sorted scores of the whole update in place of pairs: `aot` and `aot_unpaired`; [T].

    `aot` sorts the pairs' differences of the policy and, apart from them, those of the anchor, and compares the k-th of
    both. `aot_unpaired` sorts the log-ratios of the chosen and of the rejected samples, and compares the k-th of both.
    Source: 2406.05882, as in TRL.
    """

    loss: PairLoss = "aot"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return super().needs | {"update"}

    def __call__(self, inputs: PartInputs) -> Tensor:
        update = inputs.update
        policy, anchor = update.sample_sum(update.policy.logp), update.sample_sum(update.tokens.anchor)
        better, worse = pairs = all_pairs(inputs.samples, self.with_rollouts)
        if self.loss == "aot":
            first, second = policy[better] - policy[worse], anchor[better] - anchor[worse]
            rank = first.argsort().argsort()
            up = self._pull(first - second.sort().values[rank])
            return inputs.spread(summed(pairs, up, -up, len(inputs.samples)))
        first, second = (policy - anchor)[better], (policy - anchor)[worse]
        pull = self._pull(first.sort().values - second.sort().values)
        up, down = pull[first.argsort().argsort()], -pull[second.argsort().argsort()]
        return inputs.spread(summed(pairs, up, down, len(inputs.samples)))

    def _pull(self, gap: Tensor) -> Tensor:
        return pulls("sigmoid", gap, gap * 0, self.beta, self.label_smoothing, 0.0)[0]


@dataclass(frozen=True)
class OddsRatio(PairedAdvantage):
    """A = +-beta sigmoid(-(o(a) - o(b))) / (1 - e^a), o(a) = a - log(1 - e^a), on the tokens of a pair; [T].

    a and b are the mean log-probs of the chosen and the rejected response, and the loss is -beta log sigmoid of the
    difference of their log-odds. 1 - e^a is at least `least`, because the slope has no bound where a response is nearly
    certain. Divided by the sample's tokens. Source: ORPO, 2403.07691 eq. 7.
    """

    beta: float = 0.1
    least: float = 1e-6
    needs_whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        odds, slope = self._log_odds(inputs)
        better, worse = pairs = local_pairs(inputs, with_rollouts=False)
        pull = self.beta * (odds[worse] - odds[better]).sigmoid()
        num_tokens = inputs.samples.counts.sum(1).clamp(min=1)
        return inputs.spread(summed(pairs, pull, -pull, len(inputs.samples)) * slope / num_tokens)

    def margins(self, inputs: PartInputs) -> Tensor:
        """beta (mean log-prob of the chosen - that of the rejected response) of every local pair, as TRL; [P]."""
        mean = inputs.sample_sum(inputs.policy.logp) / inputs.samples.counts.sum(1).clamp(min=1)
        better, worse = local_pairs(inputs, with_rollouts=False)
        return self.beta * (mean[better] - mean[worse])

    def _log_odds(self, inputs: PartInputs) -> tuple[Tensor, Tensor]:
        """o and its derivative by the mean log-prob; [S] each."""
        mean = inputs.sample_sum(inputs.policy.logp) / inputs.samples.counts.sum(1).clamp(min=1)
        complement = (-mean.expm1()).clamp(min=self.least)
        return mean - complement.log(), 1 / complement


@dataclass(frozen=True)
class Ranked(PairedAdvantage):
    """A reward model's comparison: A = +-sigmoid(-(r_better - r_worse - margin)) at a sample's last token; [T].

    r is the scalar head's output there. `center` adds center (r_better + r_worse)^2 to a pair's loss
    -log sigmoid(r_better - r_worse - margin), so -2 center (r_better + r_worse) to both of its samples.
    Source: Bradley-Terry as in 2203.02155 eq. 1; centering, 2312.09244.
    """

    margin: float = 0.0
    center: float = 0.0
    needs_whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.center < 0:
            raise ValueError("a centering coefficient must be at least 0")

    def __call__(self, inputs: PartInputs) -> Tensor:
        better, worse = pairs = local_pairs(inputs, with_rollouts=False)
        score = self._scores(inputs)
        pull = (self.margin - score[better] + score[worse]).sigmoid()
        center = -2 * self.center * (score[better] + score[worse])
        advantage = inputs.spread(summed(pairs, center + pull, center - pull, len(inputs.samples)))
        return advantage.where(inputs.is_last(), advantage.new_zeros(()))

    def margins(self, inputs: PartInputs) -> Tensor:
        """r_better - r_worse of every pair of this micro batch; [P]."""
        score = self._scores(inputs)
        better, worse = local_pairs(inputs, with_rollouts=False)
        return score[better] - score[worse]

    def _scores(self, inputs: PartInputs) -> Tensor:
        """r; [S]."""
        value = inputs.policy.value
        return inputs.sample_sum(value.where(inputs.is_last(), value.new_zeros(())))


@dataclass(frozen=True)
class ImplicitScore(Part):
    """A = minus the slope of the distance between s = sigmoid(beta L) and the sample's target score r; [T].

    L is the sample's summed log-ratio to the anchor. `mse`: (s - r)^2, A = 2 beta (r - s) s (1 - s); `bce`: the cross
    entropy, A = beta (r - s). r is `target`, or without one the sample's reward clipped to [0, 1].
    Source: generalized implicit reward, 2410.21438 eq. 7, after 2408.15339.
    """

    beta: float = 0.01
    loss: Literal["mse", "bce"] = "mse"
    target: float | None = None

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta:g}")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"anchor", "reward"} if self.target is None else {"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        exponent = self.beta * log_ratios(inputs)
        score, complement = exponent.sigmoid(), (-exponent).sigmoid()
        target = inputs.samples.reward.clamp(0, 1) if self.target is None else self.target
        error = self.beta * (target - score)
        return inputs.spread(error if self.loss == "bce" else 2 * error * score * complement)


@dataclass(frozen=True)
class PerPair(Normalizer):
    """1 / P: a sum over each sample's tokens, then a mean over all pairs of the update."""

    with_rollouts: bool = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"correct"} if self.with_rollouts else ())

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        num_pairs = max(len(all_pairs(inputs.samples, self.with_rollouts)[0]), 1)
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / num_pairs
