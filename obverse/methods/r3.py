"""Own samples that continue a piece of the demonstration, of any length at any time."""

from dataclasses import replace

from obverse.estimator import Method
from obverse.estimator.parts import UniformHint
from obverse.methods.uft import uft


def r3(
    num_generations: int = 4,
    beta: float = 0.001,
    epsilon: float = 0.2,
    entropy_coef: float = 0.001,
    num_chunks: int = 5,
    seed: int = 42,
) -> Method:
    """R3: GRPO on continuations of hints of random length, which are given but never trained.

    Paper     Training Large Language Models for Reasoning through Reverse Curriculum Reinforcement Learning,
              https://arxiv.org/abs/2402.05808 [mem]; as the baseline of UFT, https://arxiv.org/abs/2505.16984.
    Equation  J = E[reward] - beta KL(pi_theta || pi_anchor) on the continuation of a hint of l chunks, l uniform.
    Estimator c_t = [1_clip r_t A - beta (1 - e^-d)] / N_own: pi_ref = pi_old, A = (R - mean R) / std R,
              d = log pi_theta - log pi_anchor; hint tokens have no term.
    Paper writes  PPO from starting points that are mixed over the demonstration's stages [mem].
    Code does     UFT's: the hint's boundary is uniform over the chunk boundaries at all steps, sft_loss_coef is 0, and
                  all else is UFT's GRPO. It never anneals.
    We do         UFT's baseline. Boundaries are 0 to all chunks, both ends included [derived]; lengths depend on seed,
                  problem and progress alone.
    Defaults  As uft (its code ran this baseline): 4 samples, beta 0.001, epsilon 0.2, entropy_coef 0.001, 5 chunks,
              learning_rate 1e-6, format_reward 0.1 [code]. In a run the seed is the run's own --seed.
    Pitfalls  Equal rewards do not give zero: the KL still pulls towards the anchor (beta = 0 ends that). The model is
              trained on hinted states to the end and is evaluated without hints.
    Authors' names  kl_loss_coef -> beta, rollout.n -> num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        entropy_coef: weight of the entropy bonus, a mean over rollout tokens; 0 is off
        num_chunks: chunks that a demonstration is cut into, at most one per step of it
    """
    method = uft(num_generations, beta, hint_coef=0.0, epsilon=epsilon, entropy_coef=entropy_coef)
    return replace(method, ask=UniformHint(num_generations, num_chunks, seed))
