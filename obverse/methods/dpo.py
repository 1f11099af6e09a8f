"""Direct preference optimization: chosen against rejected responses, without a reward model."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import Everything, MixedOutcomes, PerPair, Preferred, Request, Transported
from obverse.estimator.parts.pairs import Divergence
from obverse.estimator.parts.preference_losses import PairLoss
from obverse.types import Source


def dpo(
    beta: float = 0.1,
    pairs: Literal["data", "own"] = "data",
    num_generations: int = 8,
    divergence: Divergence = "reverse_kl",
    alpha: float = 0.5,
    loss: PairLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> Method:
    """DPO: raise the chosen response's probability over the rejected one's, relative to the initial model.

    Paper     Direct Preference Optimization, https://arxiv.org/abs/2305.18290, eq. 7; f-divergences:
              https://arxiv.org/abs/2309.16240; IPO: https://arxiv.org/abs/2310.12036.
    Equation  L = -log sigmoid(beta m), m = L_w - L_l, L = sum_t (log pi_theta - log pi_anchor). With an f-divergence
              m = g(L_w) - g(L_l), g = L (reverse_kl), 1 - e^-L (forward_kl), log 2 + log sigmoid(L) (js),
              (e^((alpha - 1) L) - 1) / (alpha - 1) (alpha). ipo: (m - 1 / (2 beta))^2 with g(L) / n. Label smoothing e:
              (1 - e) of the loss and e of the loss with the pair turned round.
              The other losses are functions of m, or of w = g(L_w) and l = g(L_l) apart: see Losses.
    Estimator chosen: c_t = beta sigmoid(-beta m) g'(L_w) / P, rejected: c_t = -beta sigmoid(-beta m) g'(L_l) / P,
              P = pairs of the update: no mask, pi_ref = pi_theta, the same A on every token of a sample.
    Losses    sigmoid_norm: m of mean log-ratios; hinge: max(0, 1 - beta m); exo_pair: KL of (q, 1 - q), q =
              sigmoid(beta m), to (1 - e, e), which needs e > 0; nca_pair: -log s(beta w) - log s(-beta w) / 2 - log
              s(-beta l) / 2; robust: sigmoid's loss without the bias of wrong labels; bco_pair: -log s(beta w) - log
              s(-beta l), in TRL without its running shift; sppo_hard: (w - 1 / (2 beta))^2 + (l + 1 / (2 beta))^2;
              apo_zero and apo_down: methods of the same names; discopop: the loss blended with e^(-beta m); aot and
              aot_unpaired: sigmoid's loss of scores that are sorted over the whole update. TRL's loss sft is the
              method sft on the chosen responses; its sums of several losses, use_weighting (WPO) and ld_alpha are not
              offered.
    Paper writes  Sums over the sequence, a mean over pairs; ipo's paper sums too.
    Code does     TRL: the same, but ipo averages each log-ratio over its tokens, or the margin that it asks for would
                  depend on the length.
    We do         A sum over tokens, a mean over the pairs of the whole update; ipo averages over tokens as TRL.
                  pairs="own" needs no pairs in the data: each problem's right answers are compared with each of its
                  wrong ones, fresh in every step; a problem without both has no gradient [derived].
    Defaults  beta 0.1 (paper [mem], TRL [code]), learning_rate 1e-6 (TRL [code], paper [mem]), sigmoid, no label
              smoothing, alpha 0.5 (TRL [code]); num_generations 8 as for grpo [derived].
    Pitfalls  Equal rewards: pairs from data train whatever the rewards are, for the data say which response is better;
              with pairs="own" equal rewards make no pair and give zero. Only the difference is trained: the chosen
              response's likelihood may fall. Sums depend on length, long pairs saturate first. The forward KL explodes
              where a sample became unlikely, its exponent is kept finite. A problem with many right and many wrong
              answers makes many pairs, and each counts as much as any other problem's. apo_down lowers the chosen
              response too. discopop has the opposite sign at small margins: where beta m is 0.05, a step lowers the
              chosen response and raises the rejected one. hinge ends where beta m is 1.
    Authors' names  TRL: beta; f_divergence_type -> divergence (js_divergence is js, alpha_divergence is alpha);
              f_alpha_divergence_coef -> alpha; loss_type -> loss; label_smoothing.
    Proven    peer: TRL 1.16, DPOTrainer with every one of these losses (make test-parity)
    Options
        beta: inverse temperature of the margin, or the strength of the KL constraint
        pairs: preference pairs of the data set (data), or a problem's correct and incorrect rollouts (own)
        num_generations: rollouts per problem with pairs=own
        divergence: f-divergence to the initial model
        alpha: order of the alpha divergence
        loss: loss of a pair, by TRL's names; apo_down lowers both responses, discopop may lower the chosen one
        label_smoothing: probability that a pair's label is wrong, for sigmoid, exo_pair, robust and aot; below 0.5
    """
    uses_rollouts = pairs == "own"
    if loss.startswith("aot") and divergence != "reverse_kl":
        raise ValueError(f"{loss} compares log-ratios: divergence={divergence} has no meaning for it")
    kind = Transported if loss.startswith("aot") else Preferred
    part = kind(beta, divergence, alpha, loss, label_smoothing, uses_rollouts)
    sources = (Source.ROLLOUT,) if uses_rollouts else (Source.CHOSEN, Source.REJECTED)
    return Method(
        ask=Request(rollouts=num_generations) if uses_rollouts else Request(pairs=1),
        keep=MixedOutcomes() if uses_rollouts else Everything(),
        terms=tuple(Term(source, part, normalizer=PerPair(uses_rollouts)) for source in sources),
        run={"learning_rate": 1e-6},
    )
