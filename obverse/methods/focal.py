"""The focal loss on demonstrations: more weight on badly fitted tokens."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Doubt, PerToken, Request
from obverse.types import Source


def focal(gamma: float = 2.0, detached: bool = False) -> Method:
    """Focal SFT: every token's loss times (1 - p)^gamma, the opposite direction to dft's p.

    Paper     Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002, eq. 4. For language models it is
              a contrast only: DFT's authors (2508.05629) call it diametrically opposite to theirs.
    Equation  L = -(1/N) sum_t (1 - p_t)^gamma log p_t.
    Estimator c_t = [ (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p ] / N: no mask, pi_ref = pi_theta; the second
              part is the gradient of the factor. With detached=True it is absent.
    Paper writes  The factor as above, not detached, for binary detection; normalized by the number of assigned anchors.
    Code does     No official code for language models [mem].
    We do         The printed loss, its factor not detached, as one token mean over the update. 1 - p is at least 1e-6:
                  with gamma below 1 the factor's gradient has a pole at p = 1.
    Defaults  gamma 2 (paper's best [mem]), not detached [paper]. learning_rate 2e-5, linear: as sft's [derived]; none
              is published.
    Pitfalls  Equal rewards do not give zero: rewards are not read. Noise in the demonstrations is what it works on
              hardest. gamma 0 is sft.
    Authors' names  gamma -> gamma; the balance factor alpha is not here: it would only scale the step.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        gamma: exponent of the focal factor (1 - p)^gamma; 0 is SFT
        detached: keep the gradient of the focal factor out
    """
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, Doubt(gamma, detached), normalizer=PerToken()),),
        run={"learning_rate": 2e-5, "lr_scheduler_type": "linear"},
    )
