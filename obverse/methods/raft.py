"""Sample, keep correct samples, imitate them."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, BestOf, Clip, CorrectOnly, One, PerToken, Request
from obverse.types import Source


def raft(
    num_generations: int = 4, select: Literal["correct", "best"] = "correct", epsilon: float | None = None
) -> Method:
    """RAFT: supervised fine-tuning on the model's own correct samples, drawn anew for every update.

    Paper     RAFT: Reward rAnked FineTuning, https://arxiv.org/abs/2304.06767; with a ratio and a clip, RAFT++ in
              A Minimalist Approach to LLM Reasoning, https://arxiv.org/abs/2504.11343.
    Equation  L = -(1/N) sum over the tokens of the chosen rollouts of log pi_theta(y_t); RAFT++:
              L = -(1/N) sum min(r_t, clip(r_t, 1 - epsilon, 1 + epsilon)).
    Estimator c_t = 1[chosen] / N: pi_ref = pi_theta, A = 1. With all correct ones chosen it is REINFORCE with rewards
              0 and 1 and no baseline, divided by the tokens of right answers. RAFT++: c_t = 1_clip r_t / N, pi_ref =
              pi_old.
    Paper writes  The best of K samples by a reward model, then supervised fine-tuning on them.
    Code does     With a verifier, every correct sample trains [mem]; averages are taken over micro batches there.
    We do         Every correct rollout of the current policy (select="correct"), or each problem's rollout of highest
                  reward, the first of several (select="best", the printed form); one token mean over the whole
                  update. epsilon gives RAFT++'s ratio and clip.
    Defaults  4 samples, learning_rate 1e-6, select="correct", which is how 2504.11343 reads RAFT with a verifier [mem].
              epsilon None: RAFT, not RAFT++.
    Pitfalls  Equal rewards do not give zero: an all-right group trains like any other, and easy problems dominate, for
              a problem's weight grows with its correct samples; select="best" even trains the best of an all-wrong
              group. Nothing pushes wrong answers down and entropy falls quickly. An update without a right answer
              trains nothing.
    Authors' names  K -> num_generations. "RFT" (2308.01825) is the same from the *initial* model, sampled once.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        select: train on every correct rollout, or on each problem's one of highest reward (best)
        epsilon: clip range of RAFT++'s importance ratio; none: RAFT, without a ratio
    """
    term = Term(Source.ROLLOUT, normalizer=PerToken())
    if epsilon is not None:
        term = Term(Source.ROLLOUT, One(), Behavior(), Clip(epsilon, epsilon), normalizer=PerToken())
    return Method(
        ask=Request(rollouts=num_generations),
        keep=CorrectOnly() if select == "correct" else BestOf(),
        terms=(term,),
        run={"learning_rate": 1e-6},
    )
