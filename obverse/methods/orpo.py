"""SFT on chosen responses with a penalty on the odds of rejected ones, in one stage."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import OddsRatio, One, PerPair, PerToken, Request
from obverse.types import Source


def orpo(beta: float = 0.1) -> Method:
    """ORPO: SFT on the chosen responses plus a log odds ratio to the rejected ones; no initial model.

    Paper     ORPO: Monolithic Preference Optimization without Reference Model, https://arxiv.org/abs/2403.07691, eq.
              6, 7.
    Equation  L = NLL(y_w) - beta mean log s(o(a) - o(b)), o(v) = v - log(1 - e^v), s = sigmoid; a and b are the mean
              log-probs of the chosen and the rejected response, NLL a mean over the update's chosen tokens.
    Estimator chosen: c_t = 1 / N_w + delta / ((1 - e^a) n_w P), rejected: c_t = -delta / ((1 - e^b) n_l P),
              delta = beta s(o(b) - o(a)), P pairs of the update: no mask, pi_ref = pi_theta.
    Paper writes  One stage in place of SFT and then DPO; beta is its lambda.
    Code does     TRL: the NLL covers the prompt too and is a mean over each micro batch [code].
    We do         Responses only, over the whole update. 1 - e^a is at least 1e-6, so that a response of which the
                  policy is certain has a finite coefficient.
    Defaults  beta 0.1 (TRL [code]), learning_rate 1e-6 (TRL [code]).
    Pitfalls  delta / (1 - e^a) explodes where a response is nearly certain: short, memorized answers. Equal rewards do
              not give zero: rewards are not read.
    Authors' names  lambda -> beta (TRL: beta).
    Proven    peer: TRL 1.16, ORPOTrainer, the odds ratio (make test-parity)
    Options
        beta: weight of the log odds ratio beside SFT on the chosen responses
    """
    terms = tuple(Term(source, OddsRatio(beta), normalizer=PerPair()) for source in (Source.CHOSEN, Source.REJECTED))
    sft = Term(Source.CHOSEN, One(), normalizer=PerToken())
    return Method(ask=Request(pairs=1), terms=(sft, *terms), run={"learning_rate": 1e-6})
