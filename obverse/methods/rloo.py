"""Each sample's baseline is the mean of the others."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import (
    Always,
    AnchorPenalty,
    Behavior,
    Clip,
    Itself,
    LeaveOneOut,
    PerSample,
    Request,
    SequenceProduct,
)
from obverse.types import Source


def rloo(
    num_generations: int = 2,
    epsilon: float | None = 0.2,
    epsilon_high: float | None = None,
    ratio: Literal["sequence", "token", "none"] = "sequence",
    beta: float = 0.0,
) -> Method:
    """RLOO: REINFORCE on whole sequences with the other samples' mean reward as baseline.

    Paper     Back to Basics: Revisiting REINFORCE Style Optimization, https://arxiv.org/abs/2402.14740.
    Equation  J = mean_i min(S_i A_i, clip(S_i, 1 - epsilon, 1 + epsilon) A_i), S_i = pi_theta(y_i) / pi_old(y_i),
              A_i = R_i - mean of the others = n / (n - 1) (R_i - mean R): TRL's RLOOTrainer. The paper's has no ratio.
              R_i = the verifier's reward - beta log(pi_old(y_i) / pi_anchor(y_i)).
    Estimator c_t = 1_clip S_i A_i / B for all tokens of a sequence: pi_ref = pi_theta / S_i; with ratio="token"
              1_clip r_t A_i / B, pi_ref = pi_old; with ratio="none" A_i / B, pi_ref = pi_theta.
    Paper writes  REINFORCE on the sequence, with the KL to the initial model in the reward.
    Code does     TRL: the equation above; the KL is k1 summed over the sequence, taken off before the baseline.
                  verl: this advantage in any token-level PPO loss, by default a token mean, without a KL.
    We do         TRL's form; ratio="none" is the paper's, ratio="token" PPO's ratio and clip per token, here with
                  RLOO's sums over sequences. B is counted over the whole update. epsilon None does not clip. beta 0
                  leaves the reward alone and loads no initial model.
    Defaults  2 samples, epsilon 0.2, learning_rate 1e-6 with linear decay: TRL 1.16 [code]. beta 0 as in verl [code]:
              the KL guards against a learned reward, and most rewards here are verified; TRL has 0.05 [code], the
              paper 0.03 with 2 or 4 samples and learning_rate 1e-6 [mem].
    Pitfalls  With beta equal rewards do not give zero: the KL differs between samples, and with it the reward. S_i is
              a product over all tokens and leaves the clip range after one step: ratio="sequence" is good for one
              update per collection. With 2 samples and beta 0 a problem has a gradient only if just one is right.
              kl_coef with kl_in_reward comes on top of beta.
    Authors' names  TRL: the same.
    Proven    peer: TRL 1.16, RLOOTrainer (make test-parity)
    Options
        num_generations: rollouts per problem, at least 2 for a baseline
        epsilon: clip range of the importance ratio; none: no clip
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        ratio: importance ratio of the whole sequence, of each token, or none
        beta: weight of the KL to the initial model, in the reward; 0 is off
    """
    clip = Always() if epsilon is None else Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    references = {"sequence": SequenceProduct(), "token": Behavior(), "none": Itself()}
    mask = Always() if ratio == "none" else clip
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, LeaveOneOut(), references[ratio], mask, normalizer=PerSample()),),
        shaping=(AnchorPenalty(beta),) if beta else (),
        run={"learning_rate": 1e-6, "lr_scheduler_type": "linear"},
    )
