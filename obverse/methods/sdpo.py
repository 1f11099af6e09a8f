"""Self-distillation from a right sibling: the teacher is an average of the policy, which reads a solved rollout."""

from obverse.estimator import Method, Taught, Teacher
from obverse.estimator.parts import Request
from obverse.methods._distillation import LogitForm, Mode, WhichTeacher, distillation


def sdpo(
    num_generations: int = 8,
    teacher: WhichTeacher = "average",
    teacher_update_rate: float = 0.05,
    success_reward_threshold: float = 0.5,
    include_environment_feedback: bool = False,
    distillation_mode: Mode = "sampled_token",
    distillation_alpha: float | None = None,
    distillation_topk: int | None = None,
    distillation_add_tail: bool | None = None,
    distillation_is_clip: float | None = 2.0,
) -> Method:
    """SDPO: each rollout is scored by an average of the policy that has read a right answer of the same group.

    Paper     Reinforcement Learning via Self-Distillation, https://arxiv.org/abs/2601.20802.
    Equation  L = sum_t D(pi(. | x, y_<t), pi_T(. | x, solution or feedback, y_<t)) over the policy's own rollouts;
              theta_T <- (1 - rate) theta_T + rate theta after each step.
    Estimator c_t = m_i min(r_t, 2) (log pi_T - log pi) / N, N the tokens with m_i = 1: pi_ref = max(pi_old, pi / 2), A
              of the current policy; m_i = 1 where another rollout of the group has a reward of at least the threshold.
    Paper writes  A divergence over the vocabulary, or its reverse KL on the sampled token.
    Code does     YAML: alpha 0.5 (JSD) over the policy's top 100 tokens with a tail, threshold 0.5, min(r, 2), token
                  mean, rate 0.05; its sampled-token form has alpha 1. The solution is the first sibling with the
                  threshold's reward, never the sample itself. The dataclass differs: alpha 0, no cap, threshold 1.
                  run_sdpo.sh sets ema_update_rate, which nothing reads. TRL: the sampled token, a mean per sequence,
                  and distillation_weight w: (1 - w) GRPO + w distillation.
    We do         The sampled token as both compute it, and one token mean over the update. The YAML's default is
                  distillation_mode="topk_logits". Feedback (the verifier's reason) is read where no sibling is right.
                  Not offered: TRL's sum with GRPO, the teacher that mixes logits (trust-region), and a second
                  correction of the rollouts' log-probs, which is --importance_sampling here.
    Defaults  8 samples, threshold 0.5, rate 0.05, cap 2, learning_rate 1e-5, alpha 0.5 and 100 tokens with a tail in
              the logit forms: the authors' YAML [code]; sampled_token is TRL's default [code].
    Pitfalls  Equal rewards do not give zero: in a group with several right answers these move too. The only right
              sample of a group does not train, and a failed group trains only with include_environment_feedback;
              samples without a context leave the denominator.
    Authors' names  alpha -> distillation_alpha, is_clip -> distillation_is_clip, distillation_topk, teacher_update_rate
              and include_environment_feedback; TRL: teacher_model_kind base -> initial, live -> policy, ema -> average.
    Proven    authors' code: lasgroup/SDPO@0e6d5106a, compute_self_distillation_loss, the sampled form, in float64.
    Options
        num_generations: rollouts per problem
        teacher: weights of the teacher: initial, those of the policy as it samples, or their moving average
        teacher_update_rate: share of the policy in the average after each optimizer step, with teacher=average
        success_reward_threshold: reward from which a sibling is a solution that the teacher reads
        include_environment_feedback: let the teacher read the verifier's reason where no sibling is right
        distillation_mode: compare the sampled token, or the distributions over the vocabulary or its top k
        distillation_alpha: Jensen-Shannon weight of the logit forms: 0 forward, 1 reverse KL; none: 0.5
        distillation_topk: tokens that topk_logits compares, the policy's most probable ones; none: 100
        distillation_add_tail: add a category for all other tokens in topk_logits; none: yes
        distillation_is_clip: cap of the importance ratio; none: no ratio
    """
    term, divergence = distillation(
        distillation_mode,
        distillation_alpha,
        distillation_topk,
        distillation_add_tail,
        distillation_is_clip,
        LogitForm(alpha=0.5, top_k=100, add_tail=True),
    )
    reader = Teacher(
        teacher,
        ("sibling", "feedback") if include_environment_feedback else "sibling",
        rate=teacher_update_rate,
        threshold=success_reward_threshold,
    )
    return Method(
        ask=Request(rollouts=num_generations),
        keep=Taught(reader),
        terms=(term,),
        teacher=reader,
        divergence=divergence,
        run={"learning_rate": 1e-5},
    )
