"""Learn from wrong answers by supervised learning of an implicit negative policy."""

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import Constant, ImplicitNegative, MixedOutcomes, Request, Right, Wrong
from obverse.types import Source


def nft(
    num_generations: int = 16,
    prompt_weight: float = 1,
    epsilon: float = 1.0,
    neg_weight: float = 1.0,
    max_completion_length: int = 1000,
    max_num_gen_batches: int = 10,
) -> Method:
    """NFT: likelihood of right answers, and of wrong ones under the policy that the right ones imply for them.

    Paper     Bridging Supervised Learning and Reinforcement Learning in Math Reasoning,
              https://arxiv.org/abs/2505.18118.
    Equation  right: -omega log R_t; wrong: -omega log max((1 - r R_t) / (1 - r), epsilon); R_t = pi_theta / pi_old, r
              the problem's success rate; the maximum is taken in value only (straight-through gradient).
    Estimator right: c_t = omega / (L B), pi_ref = pi_theta, A = omega; wrong: A = -omega r / (1 - r) and
              pi_ref = pi_old max((1 - r R_t) / (1 - r), epsilon). omega is 1 (prompt_weight 0), 1 - r (1; on policy
              Dr. GRPO) or sqrt((1 - r) / r) (2; on policy GRPO with the population std).
    Paper writes  pi_old = r pi_right + (1 - r) pi_wrong defines the wrong answers' policy from the right ones'.
    Code does     Keeps r within [0.02, 0.98], cuts log R_t at 10, sums tokens / 1000 over sequences and never divides
                  by the number of sequences; with dynamic micro batches the step moves with their size.
    We do         The code's r and cut (in value only), but sums / (L B), B counted over the whole update. Problems with
                  only right or only wrong answers are dropped, as in paper and code, and replaced by further problems
                  in at most max_num_gen_batches collections, as in DAPO, the base of this code.
    Defaults  prompt_weight 1, epsilon (the floor) 1.0, neg_weight 1, 16 samples, 10 collections, learning_rate 1e-6, 10
              warm-up steps, weight_decay 0.1: train_7B.sh [code]; L = 1000: dp_actor.py [code]. In a run L is the run's
              own --max_completion_length.
    Pitfalls  epsilon 1.0 floors every token with R_t >= 1: its weight is then linear, -omega r R_t / (1 - r). A small
              epsilon lets weights grow without bound. neg_weight 0 is rejection sampling on mixed problems, the
              paper's RFT; the code takes a negative one to mean DAPO, here it is refused. The code's ratio of whole
              sequences is not here. Needs rewards that say right or wrong.
    Authors' names  normalize -> prompt_weight, clamp_negative -> epsilon, neg_weight, rollout.n -> num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        prompt_weight: weight omega of a problem of success rate r: 1 (0), 1 - r (1), sqrt((1 - r) / r) (2)
        epsilon: floor of the implicit negative policy's ratio
        neg_weight: weight of incorrect rollouts; 0 trains on correct ones only
        max_num_gen_batches: rounds of sampling per step to fill the batch with groups of mixed outcomes, at most
    """
    if prompt_weight not in (0, 1, 2):
        raise ConfigError(f"prompt_weight must be 0, 1 or 2, not {prompt_weight:g}")
    if epsilon <= 0 or neg_weight < 0:
        raise ConfigError("epsilon must be above 0, neg_weight at least 0")
    normalizer = Constant(max_completion_length)
    right = Term(Source.ROLLOUT, Right(prompt_weight), normalizer=normalizer)
    wrong = Term(
        Source.ROLLOUT, Wrong(prompt_weight), ImplicitNegative(epsilon), normalizer=normalizer, weight=neg_weight
    )
    return Method(
        ask=Request(rollouts=num_generations),
        keep=MixedOutcomes(),
        max_rounds=max_num_gen_batches,
        terms=(right, wrong) if neg_weight else (right,),
        run={"learning_rate": 1e-6, "warmup_steps": 10, "weight_decay": 0.1},
    )
