"""Anchored preference optimization: the chosen response up, the rejected one down, each by itself."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerPair, Preferred, Request
from obverse.types import Source


def apo_zero(beta: float = 0.1) -> Method:
    """APO-zero: raise the chosen response and lower the rejected one, for data that are better than the model.

    Paper     Anchored Preference Optimization and Contrastive Revisions, https://arxiv.org/abs/2408.06266 [abs].
    Equation  L = 1 - s(beta L_w) + s(beta L_l), s = sigmoid, L = sum_t (log pi_theta - log pi_anchor).
    Estimator chosen: c_t = beta s(1 - s)(beta L_w) / P, rejected: c_t = -beta s(1 - s)(beta L_l) / P, P = pairs of the
              update: no mask, pi_ref = pi_theta, the same A on every token of a sample.
    Paper writes  Both members are anchored at the initial model, so that the chosen response's probability rises, where
                  dpo only widens the difference. For a model that is worse than the chosen responses.
    Code does     TRL: loss_type apo_zero of DPOTrainer, the same [code].
    We do         The same, a mean over the pairs of the whole update; it is dpo's loss=apo_zero as a method.
    Defaults  beta 0.1, learning_rate 1e-6 (TRL [code]).
    Pitfalls  Equal rewards do not give zero: rewards are not read. The pull of a sample fades in both directions: one
              that has moved far the wrong way is hardly pulled back.
    Authors' names  beta.
    Proven    peer: TRL 1.16, DPOTrainer with loss_type apo_zero (make test-parity)
    Options
        beta: scale of the log-ratios to the initial model
    """
    part = Preferred(beta, loss="apo_zero")
    return Method(
        ask=Request(pairs=1),
        terms=tuple(Term(source, part, normalizer=PerPair()) for source in (Source.CHOSEN, Source.REJECTED)),
        run={"learning_rate": 1e-6},
    )
