"""GRPO without its two biases."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Centered, Clip, Constant, Request
from obverse.types import Source


def dr_grpo(
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    max_completion_length: int = 3000,
) -> Method:
    """Dr. GRPO ("GRPO done right"): no division by the std, none by a sequence's own length.

    Paper     Understanding R1-Zero-Like Training, https://arxiv.org/abs/2503.20783, sec. 3.
    Equation  J = (1/B) sum_i (1/L) sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), A_i = R_i - mean R.
    Estimator c_t = 1_clip r_t A_i / (L B): pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  A sum over tokens, without any division.
    Code does     oat divides each sequence's sum by generate_max_length and takes the mean over the sequences of the
                  micro batch; TRL's `dr_grpo` divides by B * max_completion_length.
    We do         TRL's, with B counted over the whole update; groups with equal rewards stay in B.
    Defaults  epsilon 0.2, 8 samples, L = 3000, learning_rate 1e-6 constant: the authors' Qwen2.5-Math-1.5B script. In a
              run L is the run's own --max_completion_length.
    Pitfalls  L only rescales the step for plain SGD; with Adam it matters against other terms and Adam's epsilon.
              A problem that the model never solves has no gradient.
    Authors' names  num_samples -> num_generations, cliprange -> epsilon, generate_max_length -> max_completion_length.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type dr_grpo (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    high = epsilon if epsilon_high is None else epsilon_high
    normalizer = Constant(max_completion_length)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Centered(), Behavior(), Clip(epsilon, high), normalizer=normalizer),),
        run={"learning_rate": 1e-6},
    )
