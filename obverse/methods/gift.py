"""Fine-tuning towards a tilted initial model: the demonstrated token is raised by a finite amount of energy."""

from obverse.estimator import Divergence, Method, Term
from obverse.estimator.parts import PerToken, Request
from obverse.types import Source


def gift(beta: float = 20.0, smooth: float = 0.0) -> Method:
    """GIFT: cross entropy to the initial model's distribution, in which the demonstrated token is beta nats likelier.

    Paper     GIFT: Reconciling Post-Training Objectives via Finite-Temperature Gibbs Initialization,
              https://arxiv.org/abs/2601.09233 [abs].
    Equation  L = mean_t -sum_k Q_k log pi(k | s_t), Q_k proportional to pi_anchor(k | s_t) exp(beta 1[k = y_t]).
    Estimator d_t = 1 / N weighs minus KL(Q || pi), a stream over the vocabulary whose gradient by the logits is
              pi - Q, as the cross entropy's. No term multiplies log pi(y_t). Q_y = a e^beta / (1 + a (e^beta - 1)), a
              the initial model's probability of y_t.
    Paper writes  SFT is the limit of zero temperature, beta to infinity.
    Code does     The printed loss as a token mean; smooth_lambda mixes the uniform distribution into the anchor's
                  first, and 1e-10 is added inside the logarithm.
    We do         The code's target, without the 1e-10; one token mean over the update.
    Defaults  beta 20, smooth 0, learning_rate 1e-5 constant, 10 epochs: the authors' code [code], which has batches of
              128 and 8192 tokens.
    Pitfalls  Equal rewards do not give zero: rewards are not read. At beta 20 the target is one-hot unless a is below
              2e-9: in practice SFT, with an exit for tokens that the initial model finds impossible [derived]; try 2
              for a target that keeps other tokens. beta is in nats here, not the weight of a KL.
    Authors' names  beta; smooth_lambda -> smooth.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        beta: nats that the demonstrated token's log-probability is raised by in the target
        smooth: share of the uniform distribution in the initial model's, 0 to 1
    """
    if beta <= 0:
        raise ValueError(f"beta must be above 0, not {beta:g}: the demonstrated token is raised by it")
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, normalizer=PerToken(), on="divergence"),),
        divergence=Divergence("anchor", beta=0.0, tilt=beta, smooth=smooth),
        run={"learning_rate": 1e-5, "num_train_epochs": 10.0},
    )
