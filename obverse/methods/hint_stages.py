"""Own samples that continue a piece of the demonstration, one chunk less at every stage."""

from dataclasses import replace

from obverse.estimator import Method
from obverse.estimator.parts import StagedHint
from obverse.methods.uft import uft


def hint_stages(
    num_generations: int = 4,
    beta: float = 0.001,
    hint_coef: float | None = None,
    epsilon: float = 0.2,
    entropy_coef: float = 0.001,
    num_chunks: int = 5,
    hint_until: float = 0.6,
) -> Method:
    """Hint stages: UFT with a fixed curriculum, from the whole demonstration as hint to none.

    Paper     The stage baseline of UFT, https://arxiv.org/abs/2505.16984.
    Equation  UFT's objective with l = clip(num - t // (T_hint // (num + 1)), 0, num) chunks of hint at step t.
    Estimator As uft: continuation c_t = [1_clip r_t A - beta (1 - e^-d)] / N_own, hint c_t = beta / N_hint.
    Paper writes  A baseline with hints that get shorter in stages.
    Code does     The equation above, T_hint = 300 of 500 steps; the hint keeps its coefficient .001, unlike R3.
    We do         The same with t as a share of the run: num + 1 stages of equal length until hint_until, the last of
                  them without a hint. Where the code's integer division leaves a rest, ours does not.
    Defaults  As uft (its code ran this baseline): 4 samples, beta 0.001, epsilon 0.2, entropy_coef 0.001, 5 chunks,
              hint_until 0.6, learning_rate 1e-6, format_reward 0.1 [code].
    Pitfalls  Equal rewards do not give zero: hints and KL still count. In the first stage the hint is the whole
              demonstration: the answer is given, the reward is not informative. A demonstration with fewer steps than
              chunks has fewer, longer stages.
    Authors' names  sft_loss_coef -> hint_coef, kl_loss_coef -> beta, T_hint -> hint_until, rollout.n ->
              num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off; also the default of
            hint_coef
        hint_coef: weight of the SFT loss on hint tokens; none: beta
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        entropy_coef: weight of the entropy bonus, a mean over rollout tokens; 0 is off
        num_chunks: chunks that a demonstration is cut into, at most one per step of it
        hint_until: share of the run after which no hints are given
    """
    method = uft(num_generations, beta, hint_coef, epsilon=epsilon, entropy_coef=entropy_coef)
    return replace(method, ask=StagedHint(num_generations, num_chunks, hint_until))
