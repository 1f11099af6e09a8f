"""Demonstrations weighted by a power of their probability."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import Always, Beyond, One, PerToken, PerTokenBeyond, Request, Tempered
from obverse.types import Source


def p_alpha(alpha: float = 1.0, threshold: float | None = None, keep: Literal["top", "bottom"] = "top") -> Method:
    """Probability-based SFT: each token's loss times its own probability to the power alpha.

    Paper     Beyond Log Likelihood, https://arxiv.org/abs/2510.00526.
    Equation  L = (1/N) sum_t (1 - p_t^alpha) / alpha; alpha -> 0 is -log p. With a threshold q the sum and N are over
              the tokens with p >= q (keep top) or p <= q (keep bottom).
    Estimator c_t = p_t^alpha / N: A = 1, no mask, pi_ref = p^(1 - alpha). With a threshold 1[p >= q] or 1[p <= q] is
              the mask, and N counts the tokens that it keeps.
    Paper writes  A model that knows the domain wants alpha >= 1, which leaves out what it finds unlikely; a model that
                  does not wants alpha -> 0, which is SFT.
    Code does     The sum over the tokens of a micro batch / (their number + 1e-8), then a mean over micro batches; with
                  sequence parallelism plain cross entropy instead [code].
    We do         One mean over the tokens of the update. The paper's OnlyTopP-q is alpha 1 with threshold q,
                  OnlyTopLogP-q alpha 0; the code divides by the kept tokens of a micro batch, here of the whole
                  update, which takes a first forward pass per step. Any alpha, below 0 too, where the weight p^alpha
                  is above 1.
    Defaults  alpha 1, the gradient of dft, is ours [derived]; the shipped script has 10, its README 8. learning_rate
              5e-5 for mathematics, batch 256, 1 epoch [code].
    Pitfalls  At alpha 8 a token of p = 0.3 weighs 7e-5: hardly any unlikely token is learned. Below 0 the weight has no
              bound where p -> 0. The weights shrink the step: compare at learning rates chosen for each alpha.
              Equal rewards do not give zero: rewards are not read.
    Authors' names  alpha; the prob objective is alpha 1.
    Proven    authors' code: GaotangLi/Beyond-Log-Likelihood@220589d00, fsdp_sft_trainer.py, in float64.
    Options
        alpha: exponent of a token's probability in its weight; 0 is sft, 1 is dft
        threshold: probability q that divides the tokens into those that train and the others; none: all train
        keep: tokens that train with a threshold: those of at least that probability (top), or of at most (bottom)
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is a probability above 0 and below 1, not {threshold:g}")
    mask = Always() if threshold is None else Beyond(threshold, keep)
    normalizer = PerToken() if threshold is None else PerTokenBeyond(threshold, keep)
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, One(), Tempered(alpha), mask, normalizer=normalizer),),
        run={"learning_rate": 5e-5},
    )
