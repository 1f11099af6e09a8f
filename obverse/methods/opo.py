"""The baseline of least variance."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import LengthCentered, PerToken, Request
from obverse.types import Source


def opo(num_generations: int = 8) -> Method:
    """OPO: REINFORCE exactly on policy, with the group's mean reward weighted by length as baseline.

    Paper     On-Policy RL with Optimal Reward Baseline, https://arxiv.org/abs/2505.23585 [abs].
    Equation  grad J = (1/N) sum_i sum_t A_i grad log pi_theta(y_t), A_i = R_i - sum_j n_j R_j / sum_j n_j over the
              problem's group.
    Estimator c_t = A_i / N: no mask, pi_ref = pi_theta.
    Paper writes  The baseline of least variance weighs rewards by squared gradient norms, taken as proportional to
              lengths; one update per batch, no KL, no entropy bonus, no std.
    Code does     verl's estimator opo: this advantage in any of its losses, by default a mean over tokens [code].
    We do         The paper's, N counted over the whole update. A group of one has no baseline and keeps R, as in
                  verl.
    Defaults  No KL and no entropy bonus: the paper's. 8 samples and learning_rate 1e-6 as in TRL's GRPO [code].
    Pitfalls  Exactly on policy: there is no ratio, so that a second update on one collection (--num_iterations or
              --num_mini_batches above 1) is biased, and nothing stops it; leave both at 1. A problem that is never
              solved has no gradient.
    Authors' names  verl: adv_estimator=opo; rollout.n -> num_generations.
    Proven    authors' code: verl's advantage opo, verl-project/verl@1dda039b9, in float64.
    Options
        num_generations: rollouts per problem
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, LengthCentered(), normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
