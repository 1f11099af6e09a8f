"""PPO's clip on demonstrations: no token moves far from the policy that began the mini batches."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, One, PerToken, Request
from obverse.types import Source


def psft(epsilon: float = 0.2, epsilon_high: float | None = 0.28) -> Method:
    """PSFT: demonstrations as PPO with advantage 1, so that a token stops rising where its ratio passes the clip.

    Paper     Proximal Supervised Fine-Tuning, https://arxiv.org/abs/2508.17784.
    Equation  J = (1/N) sum_t min(r_t, clip(r_t, 1 - epsilon, 1 + epsilon)), r_t = pi_theta / pi_old on demonstrated
              tokens, pi_old the policy when the step's demonstrations were taken.
    Estimator c_t = r_t 1[r_t <= 1 + epsilon_high] / N: A = 1, pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  One epsilon for both sides.
    Code does     Bounds 0.2 and 0.28, a token mean; pi_old is computed anew for each batch of 64 demonstrations, and 8
                  mini batches of 8 follow [code].
    We do         The code's. A is 1 everywhere, so only the upper bound acts: epsilon changes nothing and is there for
                  the paper's notation. The mean is over the tokens of each update.
    Defaults  epsilon 0.2, epsilon_high 0.28, 8 mini batches per step, learning_rate 1e-6 after 10 warm-up steps,
              weight_decay 0.1: run_psft.sh [code]; 25 epochs there.
    Pitfalls  With --num_mini_batches 1 and --num_iterations 1 every ratio is 1 and psft is sft: the clip needs several
              updates per step. The small learning rate (1e-6, where sft has 1e-5 and more) is part of the effect.
              Equal rewards do not give zero: rewards are not read.
    Authors' names  clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high, ppo_mini_batch_size -> the problems of a
              step over num_mini_batches.
    Proven    authors' code: zwhong714/PSFT@569b1ba11, its policy loss with advantage 1, in float64.
    Options
        epsilon: lower clip bound of the ratio, 1 - epsilon; the advantage is 1, so it never acts
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    high = epsilon if epsilon_high is None else epsilon_high
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, One(), Behavior(), Clip(epsilon, high), normalizer=PerToken()),),
        run={"learning_rate": 1e-6, "num_mini_batches": 8, "warmup_steps": 10, "weight_decay": 0.1},
    )
