"""Hybrid post-training: RL where the model succeeds, SFT where it fails."""

from typing import Literal

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import (
    Always,
    Behavior,
    ByCount,
    Centered,
    Clip,
    Constant,
    ConstantOfAll,
    Everything,
    One,
    Part,
    PerToken,
    Request,
    Reward,
    Saturating,
    SolvedGate,
    Standardized,
)
from obverse.types import Source

# The authors' soft gates: the coefficient where 1, 2, ..., 8 members of the group are right.
SOFT_RL = (0.0, 0.125, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0)
SOFT_SFT = (1.0, 0.5, 0.25, 0.125, 0.0, 0.0, 0.0, 0.0)
SOFT_OFF = {
    "always": (1.0,) * 8,
    "never": (0.0,) * 8,
    "between": (0.0, 0.5, 1.0, 0.5, 0.25, 0.125, 0.0, 0.0),
}


def hpt(
    num_generations: int = 8,
    gate: int = 0,
    sft_coef: float = 1.0,
    rl_coef: float = 1.0,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
    scale_rewards: Literal["none", "group"] = "none",
    epsilon: float | None = None,
    gate_type: Literal["switch", "soft"] = "switch",
    soft_type: Literal["always", "never", "between"] = "always",
    failed: Literal["sft", "off_policy", "mixed"] = "sft",
    off_coef: float = 1.0,
) -> Method:
    """HPT: each problem chooses between RL on its own rollouts and SFT on its demonstration by how often it was solved.

    Paper     Towards a Unified View of LLM Post-Training, https://arxiv.org/abs/2509.04419, eq. 9-12 and algorithm 1.
    Equation  L = alpha L_RL + beta L_SFT per problem, alpha = 1[P > gate], beta = 1[P <= gate], P = correct rollouts.
    Estimator rollout of a solved problem: c_t = rl_coef r_t (R - mean R) / (L B), pi_ref = pi_old, no mask;
              demonstration of a failed one: c_t = sft_coef / N, pi_ref = pi_theta, A = 1. With off-policy RL on it,
              c_t = rl_coef off_coef R gamma p / (p + gamma)^2 / (L S), pi_ref = (p + gamma)^2 / gamma, gamma = 0.1.
    Paper writes  GRPO with clip and std (eq. 11) and a per-sequence mean for SFT (eq. 12); P is a mean in [0, 1].
    Code does     No clip, no std; RL sums tokens / 8192 and never divides by the number of sequences; SFT is a token
                  mean over each micro batch, so the two parts' proportion moves with the micro batches. P is a count
                  of rewards equal to 1. The entropy bonus is a token mean over all trained tokens, demonstrations too.
              Off-policy RL is -A p / (p + 0.1) in the RL sum; a lone demonstration has A = its own reward. Its soft
              gates keep the whole group and multiply RL, off-policy RL and SFT by tables over the number of right
              members, the demonstration counted: 0 "cannot occur".
    We do         No clip, no std, a count, as the code; but denominators of the whole update: RL sums / (L B), B the
                  rollouts that train, SFT a token mean over the demonstrations that train. The printed form is
                  scale_rewards="group", epsilon=0.2. Since the code never divides by B, its RL part weighs as much
                  more as there are rollouts in one of its micro batches: 32,768 tokens, about 20 rollouts. A run
                  therefore starts from rl_coef 20, which keeps the proportion that produced the paper's numbers and
                  does not move with the batch [derived]; the formula alone (weigh, explain) has rl_coef 1.
              failed="off_policy" is OFF/ON of the ablation, "mixed" adds it to SFT: the plain sum [derived]. Where
              off-policy RL may act both kinds share one denominator L S, S all samples that train, as in the code's
              one sum. gate_type="soft" has A = R - mean over the mixed group [derived]; soft_type sets when the
              demonstration also trains by off-policy RL: always, never, or between (1, 2 or else in the code).
              0 right members read the tables' first entry, 9 their last [derived].
              SuperRL (https://arxiv.org/abs/2506.01096 v2 [abs]: GRPO where any sample has a reward, else SFT on the
              demonstration) is `obverse train hpt --scale_rewards group --epsilon 0.2 --entropy_coef 0 --rl_coef 1`:
              gate 0 with GRPO's clip and std, and no entropy bonus; the denominators stay hpt's [derived].
    Defaults  8 rollouts, gate 0, sft_coef 1.0 (0.3 for Qwen2.5-Math-1.5B), entropy_coef 0.001, L = 8192, learning_rate
              5e-6 constant, weight_decay 0.01, no step when the gradient norm exceeds 80, gate_type switch and SFT on
              failed problems: the authors' train.sh for Qwen2.5-Math-7B [code]; LLaMA-3.1-8B has gate 2. off_coef 1 is
              ours [derived]. In a run L is the run's own --max_completion_length.
    Pitfalls  rl_coef and sft_coef decide which half leads: with 1 and 1 a run is nearly SFT on failed problems.
              Needs a demonstration per problem: a failed problem without one has no gradient. Equal rewards do not
              give zero: an all-wrong group trains on its demonstration. The entropy term acts on demonstrations too.
              Off-policy RL in place of SFT gave 38.1, both 40.3, SFT 41.9 (Qwen2.5-Math-1.5B). The soft tables count
              to 8: with other group sizes they mean something else.
    Authors' names  switch_gate -> gate, sft_loss_coef -> sft_coef, entropy_coeff -> entropy_coef, rollout.n ->
              num_generations, grpo_use_std -> scale_rewards, loss_remove_clip -> epsilon=None, unify_strategy ->
              gate_type, offline_loss_type -> failed; soft_type 1 -> always, 2 -> never, else -> between.
    Proven    authors' code: the repository of 2509.04419, its mixed RL loss and its SFT loss, in float64.
    Options
        num_generations: rollouts per problem
        gate: a problem with more correct rollouts than this trains by RL, others by SFT
        sft_coef: weight of the SFT loss on demonstrations
        rl_coef: weight of the RL loss on rollouts
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
        scale_rewards: divide advantages by the standard deviation of the group's rewards (group), or not (none)
        epsilon: clip range of the importance ratio; none: no clip
        gate_type: choose one loss per problem (switch), or weigh all by the authors' tables (soft)
        soft_type: when a demonstration also trains by off-policy RL, with gate_type=soft
        failed: loss on the demonstration of a failed problem: SFT, off-policy RL, or their sum (mixed)
        off_coef: weight of off-policy RL on demonstrations, beside rl_coef
    """
    if gate_type == "soft" and (gate, failed) != (0, "sft"):
        raise ValueError("a soft gate has its own tables: gate and failed belong to gate_type='switch'")
    soft, advantage = gate_type == "soft", Standardized() if scale_rewards == "group" else Centered()
    constant = Constant(max_completion_length) if failed == "sft" and not soft else ConstantOfAll(max_completion_length)

    def gated(part: Part, table: tuple[float, ...]) -> Part:
        return ByCount(part, table) if soft else part

    rollout = Term(
        Source.ROLLOUT,
        gated(advantage, SOFT_RL),
        Behavior(),
        Always() if epsilon is None else Clip(epsilon, epsilon),
        normalizer=constant,
        weight=rl_coef,
    )
    imitated = Term(Source.DEMONSTRATION, gated(One(), SOFT_SFT), normalizer=PerToken(), weight=sft_coef)
    reinforced = Term(
        Source.DEMONSTRATION,
        ByCount(advantage, SOFT_OFF[soft_type]) if soft else Reward(),
        Saturating(0.1),
        normalizer=constant,
        weight=rl_coef * off_coef,
    )
    demonstration_terms = {"sft": (imitated,), "off_policy": (reinforced,), "mixed": (imitated, reinforced)}[failed]
    if soft:
        demonstration_terms = (imitated,) if soft_type == "never" else (imitated, reinforced)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        keep=Everything() if soft else SolvedGate(gate),
        terms=(rollout, *demonstration_terms, *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.DEMONSTRATION)),
        run={"learning_rate": 5e-6, "weight_decay": 0.01, "skip_grad_norm": 80.0, "rl_coef": 20.0},
    )
