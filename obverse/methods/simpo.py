"""Preferences without an initial model: mean log-probs, and a margin between them."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerPair, Preferred, Request
from obverse.types import Source


def simpo(beta: float = 2.0, gamma: float = 1.0) -> Method:
    """SimPO: raise the chosen response's mean log-prob above the rejected one's by a margin; no initial model.

    Paper     SimPO: Simple Preference Optimization with a Reference-Free Reward, https://arxiv.org/abs/2405.14734.
    Equation  L = -log s(beta (a - b) - gamma), s = sigmoid; a and b are the mean log-probs of the chosen and the
              rejected response.
    Estimator chosen: c_t = beta s(gamma - beta (a - b)) / (n_w P), rejected: c_t = -beta s(gamma - beta (a - b)) /
              (n_l P), n tokens, P = pairs of the update: no mask, pi_ref = pi_theta.
    Paper writes  The mean log-prob is what guides generation; the margin gamma keeps the difference growing.
    Code does     TRL's CPOTrainer with loss_type simpo and cpo_alpha 0; its default cpo_alpha 1 adds SFT. Its
                  simpo_gamma is gamma itself [code]; the authors state gamma / beta [mem].
    We do         The equation, a mean over the pairs of the whole update.
    Defaults  beta 2.0 and gamma 1.0 are the low end of what the authors advise (beta 2 to 10, gamma / beta 0.5) [mem];
              TRL's beta of 0.1 is that of DPO. learning_rate 1e-6 (TRL [code]).
    Pitfalls  Nothing holds the policy near the initial model but the learning rate: watch the evaluation. Equal rewards
              do not give zero: rewards are not read. Below a difference of gamma / beta a pair pulls with more than
              half of beta.
    Authors' names  beta; gamma_beta_ratio -> gamma / beta; TRL: simpo_gamma -> gamma.
    Proven    peer: TRL 1.16, CPOTrainer with loss_type simpo (make test-parity)
    Options
        beta: scale of the difference of mean log-probs
        gamma: margin that the scaled difference should have; TRL's simpo_gamma
    """
    part = Preferred(beta, loss="sigmoid_norm", reference_free=True, margin=gamma)
    return Method(
        ask=Request(pairs=1),
        terms=tuple(Term(source, part, normalizer=PerPair()) for source in (Source.CHOSEN, Source.REJECTED)),
        run={"learning_rate": 1e-6},
    )
