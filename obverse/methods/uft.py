"""Own samples that continue a piece of the demonstration, a shorter one as the run goes on."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, BinomialHint, Clip, ConstantOfAll, PerToken, Standardized, TowardsAnchor
from obverse.types import Source


def uft(
    num_generations: int = 4,
    beta: float = 0.001,
    hint_coef: float | None = None,
    hint_sum: bool = False,
    epsilon: float = 0.2,
    entropy_coef: float = 0.001,
    num_chunks: int = 5,
    p_high: float = 0.95,
    p_low: float = 0.05,
    hint_until: float = 0.6,
    seed: int = 42,
) -> Method:
    """UFT: GRPO on continuations of a hint that gets shorter, and the hint itself learned a little.

    Paper     UFT: Unifying Supervised and Reinforcement Fine-Tuning, https://arxiv.org/abs/2505.16984.
    Equation  J = E[reward] - beta KL(pi_theta || pi_anchor) on the continuation + beta sum_hint log pi_theta(a*|s*);
              hint of l chunks, l ~ Binomial(num, p(t)), num = min(5, sentences),
              p(t) = p_low + (p_high - p_low) (1 + cos(pi (t + 1) / T_hint)) / 2 for t < T_hint, afterwards l = 0.
    Estimator continuation: c_t = [1_clip r_t A - beta (1 - e^-d)] / N_own, pi_ref = pi_old, A = (R - mean R) / std R,
              d = log pi_theta - log pi_anchor; hint: c_t = beta / N_hint, pi_ref = pi_theta, A = 1.
    Paper writes  A *sum* over the hint's tokens, and the same beta before the KL and before the sum.
    Code does     beta times a token *mean* over the hints of the micro batch (sft_loss_coef .001), token means for GRPO
                  and entropy, k3 as KL; logits clamped to +-100. Its step counter starts at 1.
    We do         The code's, as token means over the whole update; the printed form is hint_sum=True (a sum per sample,
                  then a mean over all samples). All samples of a problem share one hint; chunk boundaries are
                  round(k / num len) in whole steps of the demonstration. p follows the share of the run that is done,
                  which is one step behind the paper's t + 1. The hint's length depends on seed, problem and progress
                  alone, so that a resumed run draws the same.
    Defaults  4 samples, beta 0.001, epsilon 0.2, entropy_coef 0.001, p from 0.95 to 0.05 over 300 of 500 steps
              (hint_until 0.6), 5 chunks, learning_rate 1e-6 constant, reward 0.1 for a wrong answer in the right form
              (format_reward): the paper and its run.py [code]. hint_coef is beta unless given. In a run
              the seed is the run's own --seed.
    Pitfalls  Equal rewards do not give zero: hints and KL still count. A hint may be the whole demonstration; the
              answer is then already there and the reward is not informative. A problem without a demonstration is plain
              GRPO. beta = 0.002 gave 59.95 where 0.0005 gave 46.09 (countdown, 0.5B).
    Authors' names  sft_loss_coef -> hint_coef, kl_loss_coef -> beta, T_hint -> hint_until (a share of the run),
              rollout.n -> num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off; also the default of
            hint_coef
        hint_coef: weight of the SFT loss on hint tokens; none: beta
        hint_sum: sum the hint's loss per sample (the paper) instead of averaging over tokens
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        entropy_coef: weight of the entropy bonus, a mean over rollout tokens; 0 is off
        num_chunks: chunks that a demonstration is cut into, at most one per step of it
        p_high: probability that a chunk is given at the start of the run
        p_low: probability that a chunk is given when hints end
        hint_until: share of the run after which no hints are given
    """
    hint = beta if hint_coef is None else hint_coef
    terms = [
        Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(epsilon, epsilon), normalizer=PerToken()),
        Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerToken(), weight=beta),
        Term(Source.HINT, normalizer=ConstantOfAll(1) if hint_sum else PerToken(), weight=hint),
        Term(Source.ROLLOUT, normalizer=PerToken(), weight=entropy_coef, on="entropy"),
    ]
    return Method(
        ask=BinomialHint(num_generations, num_chunks, p_high, p_low, hint_until, seed),
        terms=tuple(term for term in terms if term.weight),
        run={"learning_rate": 1e-6, "format_reward": 0.1},
    )
