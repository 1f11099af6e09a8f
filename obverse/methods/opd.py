"""On-policy distillation: a better model scores each token that the policy sampled."""

from obverse.estimator import Method, Teacher, Term
from obverse.estimator.parts import (
    Always,
    BackToBehavior,
    Behavior,
    Clip,
    NotFallen,
    PerToken,
    Request,
    TowardsTeacher,
)
from obverse.estimator.parts.distillation import Baseline
from obverse.types import Source


def opd(
    num_generations: int = 4,
    kl_coef: float = 1.0,
    reward_coef: float = 0.0,
    epsilon: float | None = None,
    epsilon_high: float | None = None,
    baseline: Baseline = "behavior",
    max_probability_drop: float | None = None,
    behavior_kl_coef: float = 0.0,
) -> Method:
    """OPD: raise own tokens that a teacher finds likelier than the policy does, and lower the others.

    Paper     On-Policy Distillation, Thinking Machines Lab 2025 (a blog post [abs]). The advantage is that of MiniLLM,
              https://arxiv.org/abs/2306.08543, with its discount at 0 [code of TRL].
    Equation  min E_{y ~ pi}[ sum_t KL(pi(. | s_t) || pi_T(. | s_t)) ], estimated on the sampled token: the reward of a
              token is log pi_T(y_t) - log pi(y_t), without a discount.
    Estimator c_t = r_t A_t / N, r_t = pi_theta / pi_old, pi_ref = pi_old, no mask;
              A_t = kl_coef (log pi_T - log pi_old) + reward_coef (R_i - mean R) / (std R + 1e-6).
    Paper writes  The reward alone (reward_coef 0), importance sampling without a clip.
    Code does     A from pi_old, no clip: tinker, which adds R - mean R without a std. A from pi_old, PPO's clip at
                  0.2: slime and ms-swift, which add the standardized advantage. A from the current policy: verl (0.2,
                  dual clip 3), prime-rl (drops tokens with p - pi_old < -0.2, and adds 1e-3 (log p - log pi_old)^2 to
                  the loss) and TRL. All are equal before the policy has moved. verl's default differentiates the
                  estimate itself: k2 is then A from the current policy without a ratio, k3 has the gradient of the
                  forward KL in expectation, and k1 does not contain the teacher at all.
    We do         tinker's advantage and mask, slime's standardized reward, and one token mean over the update. PPO's
                  clip is epsilon, prime-rl's loss is baseline="policy", max_probability_drop=0.2,
                  behavior_kl_coef=0.002. A group without a right answer trains on: the teacher scores it all the same.
    Defaults  kl_coef 1, reward_coef 0, no clip: tinker, slime, ms-swift [code]; 4 samples per problem as in tinker and
              thunlp/OPD, learning_rate 1e-6 as in thunlp/OPD and TRL [code]; tinker has 5e-5, and 1e-4 with LoRA.
    Pitfalls  Equal rewards do not give zero: the teacher's advantage does not depend on them. Nats and standard
              deviations have no common scale, so reward_coef has to be tried. The teacher needs the same tokenizer, and
              scores at the sampling temperature. kl_coef weighs the teacher here, not a KL to the initial model.
              Divergences over the vocabulary are `gkd` with lmbda 1: as an advantage of the sampled token they would
              have zero expected gradient.
    Authors' names  tinker: kl_penalty_coef -> kl_coef; slime: opd_kl_coef -> kl_coef; ms-swift: teacher_kl_coef ->
              kl_coef; verl: clip_ratio -> epsilon.
    Proven    authors' code: tinker-cookbook@9dfcc3a2c and the variants of verl, slime, prime-rl and ms-swift, in
              float64.
    Options
        num_generations: rollouts per problem
        kl_coef: weight of the teacher's advantage log pi_T - log pi
        reward_coef: weight of the group's standardized reward; 0 is off, and then nothing is graded
        epsilon: clip range of the importance ratio; none: no clip
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        baseline: policy that the teacher is compared with: the one that sampled (behavior), or the current one
        max_probability_drop: drop tokens whose probability fell by more than this since sampling; none: keep all
        behavior_kl_coef: weight of the squared log-ratio to the sampling policy, half of it in the loss; 0 is off
    """
    if min(kl_coef, reward_coef, behavior_kl_coef) < 0 or kl_coef == 0:
        raise ValueError("kl_coef must be above 0, reward_coef and behavior_kl_coef at least 0")
    if epsilon is None and epsilon_high is not None:
        raise ValueError("epsilon_high is the upper bound of a clip: give epsilon too")
    if epsilon is not None and max_probability_drop is not None:
        raise ValueError("epsilon and max_probability_drop are two masks: give one of them")
    mask = Always() if epsilon is None else Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    gate = mask if max_probability_drop is None else NotFallen(max_probability_drop)
    advantage = TowardsTeacher(kl_coef, reward_coef, baseline)
    near = Term(Source.ROLLOUT, BackToBehavior(), normalizer=PerToken(), weight=behavior_kl_coef)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, advantage, Behavior(), gate, normalizer=PerToken()),
            *([near] if behavior_kl_coef else []),
        ),
        teacher=Teacher("model", "prompt"),
        run={"learning_rate": 1e-6},
    )
