"""Anchored preference optimization for a model that is better than its data: both responses down, one of them less."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerPair, Preferred, Request
from obverse.types import Source


def apo_down(beta: float = 0.1) -> Method:
    """APO-down: lower both responses, the rejected one more, for a model that is better than its data.

    Paper     Anchored Preference Optimization and Contrastive Revisions, https://arxiv.org/abs/2408.06266 [abs].
    Equation  L = s(beta L_w) + 1 - s(beta (L_w - L_l)), s = sigmoid, L = sum_t (log pi_theta - log pi_anchor).
    Estimator chosen: c_t = beta [s'(beta (L_w - L_l)) - s'(beta L_w)] / P, rejected: c_t = -beta s'(beta (L_w - L_l))
              / P, s' = s(1 - s), P = pairs of the update: no mask, pi_ref = pi_theta, the same A on every token of a
              sample.
    Paper writes  For a model that is better than the chosen responses too.
    Code does     TRL: loss_type apo_down of DPOTrainer, the same [code].
    We do         The same, a mean over the pairs of the whole update; it is dpo's loss=apo_down as a method.
    Defaults  beta 0.1, learning_rate 1e-6 (TRL [code]).
    Pitfalls  It lowers the chosen response: at the initial model its coefficient is 0, and negative as soon as the
              difference is larger than L_w in size. Do not choose it for demonstrations that the model should
              learn. Equal rewards do not give zero: rewards are not read.
    Authors' names  beta.
    Proven    peer: TRL 1.16, DPOTrainer with loss_type apo_down (make test-parity)
    Options
        beta: scale of the log-ratios to the initial model
    """
    part = Preferred(beta, loss="apo_down")
    return Method(
        ask=Request(pairs=1),
        terms=tuple(Term(source, part, normalizer=PerPair()) for source in (Source.CHOSEN, Source.REJECTED)),
        run={"learning_rate": 1e-6},
    )
