"""Preferences without an initial model, held by SFT on the chosen responses."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import One, PerPair, PerToken, Preferred, Request
from obverse.types import Source


def cpo(beta: float = 0.1, cpo_alpha: float = 1.0, loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid") -> Method:
    """CPO: DPO without the initial model, plus SFT on the chosen responses.

    Paper     Contrastive Preference Optimization, https://arxiv.org/abs/2401.08417.
    Equation  L = -log s(beta (log pi(y_w) - log pi(y_l))) + cpo_alpha NLL(y_w), s = sigmoid, log pi(y) a sum over
              tokens, NLL a mean over the update's chosen tokens.
    Estimator chosen: c_t = beta s(-beta h) / P + cpo_alpha / N_w, rejected: c_t = -beta s(-beta h) / P, h the
              difference of log-probs, P pairs and N_w chosen tokens of the update: no mask, pi_ref = pi_theta.
    Paper writes  A uniform initial model makes the reference drop out; the SFT term holds the policy to the data.
    Code does     TRL: sums for sigmoid and hinge, means for ipo; the NLL is a mean over the chosen tokens of each micro
                  batch [code]. Its AlphaPO is not offered; its simpo is the method simpo.
    We do         The equation with responses only, over the whole update; losses as in dpo.
    Defaults  beta 0.1, cpo_alpha 1, learning_rate 1e-6 (TRL [code]).
    Pitfalls  Sums depend on length: long pairs saturate first, and a longer response has the lower log-prob whatever
              its quality. Equal rewards do not give zero: rewards are not read.
    Authors' names  TRL: beta, cpo_alpha; loss_type -> loss.
    Proven    peer: TRL 1.16, CPOTrainer with these losses (make test-parity)
    Options
        beta: inverse temperature of the margin
        cpo_alpha: weight of SFT on the chosen responses; 0 is off
        loss: loss of a pair's margin; ipo averages log-probs over tokens
    """
    part = Preferred(beta, loss=loss, reference_free=True)
    terms = tuple(Term(source, part, normalizer=PerPair()) for source in (Source.CHOSEN, Source.REJECTED))
    sft = Term(Source.CHOSEN, One(), normalizer=PerToken(), weight=cpo_alpha)
    return Method(ask=Request(pairs=1), terms=(*terms, sft) if cpo_alpha else terms, run={"learning_rate": 1e-6})
