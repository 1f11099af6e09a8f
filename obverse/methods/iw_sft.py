"""Importance-weighted SFT: a tighter bound on the return than plain imitation of filtered data."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import AnchorRatio, PerToken, Request, SequenceAnchorRatio
from obverse.types import Source


def iw_sft(
    level: Literal["sequence", "token"] = "sequence",
    tau: float = 1.0,
    clip_low: float | None = None,
    clip_high: float | None = None,
) -> Method:
    """iw-SFT: demonstrations weigh by how much the policy has come to prefer them over the frozen initial model.

    Paper     Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be improved),
              https://arxiv.org/abs/2507.12856.
    Equation  L = -E sg(w) sum_t log p_t, w = q(y) / pi_anchor(y), q an auxiliary policy: the current one, detached.
    Estimator c_t = w / N: no mask but the clip, pi_ref = p / w, A = 1; written here as pi_ref = pi_theta, A = w.
    Paper writes  SFT on filtered data is a lower bound of the return; the weight is the whole sequence's ratio.
    Code does     level="sequence": w = clip(exp(tau mean_t d_t), 0, 16), d_t = log p_t - log pi_anchor: a geometric
                  mean, not the product, one number for all tokens. level="token": w_t = clip(exp(d_t), 0.2, 1.8).
                  Both sums are divided by the tokens of the step. The sequence weight, of shape [B, 1], meets losses
                  of shape [B, T, 1], which only broadcasts rightly for B = 1.
    We do         The code's weights, each sample its own, and one token mean over the update. tau acts on the
                  sequence form only. The paper's product is not offered: it overflows its clip after a few tokens.
    Defaults  sequence, tau 1.0 (script; the class has 2), clip [0, 16] or [0.2, 1.8] when the bounds are None, anchor =
              the initial weights, learning_rate 1e-5, cosine, weight_decay 1e-4, adam_beta2 0.95, 5 epochs, 5 %
              warm-up: the authors' script for Qwen2.5-32B-Instruct [code].
    Pitfalls  Equal rewards do not give zero: rewards are not read. All weights are 1 at the first step, so a single
              step is SFT. The weight feeds itself: what has risen rises faster, up to clip_high.
    Authors' names  none read: the reference model is hard-coded to the initial one.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        level: one importance weight per sequence, or one per token
        tau: exponent of the sequence's importance weight
        clip_low: lower clip of the weight; none: 0 (sequence), 0.2 (token)
        clip_high: upper clip of the weight; none: 16 (sequence), 1.8 (token)
    """
    low, high = (0.0, 16.0) if level == "sequence" else (0.2, 1.8)
    low, high = low if clip_low is None else clip_low, high if clip_high is None else clip_high
    weight = SequenceAnchorRatio(low, high, tau) if level == "sequence" else AnchorRatio(low, high)
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, weight, normalizer=PerToken()),),
        run={"learning_rate": 1e-5, "lr_scheduler_type": "cosine", "weight_decay": 1e-4, "adam_beta2": 0.95},
    )
