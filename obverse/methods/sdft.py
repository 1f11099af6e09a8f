"""Self-distillation from demonstrations: the teacher is the model itself, which reads the demonstration."""

from obverse.estimator import Method, Taught, Teacher
from obverse.estimator.parts import Request
from obverse.methods._distillation import LogitForm, Mode, WhichTeacher, distillation


def sdft(
    num_generations: int = 8,
    teacher: WhichTeacher = "initial",
    teacher_update_rate: float = 0.05,
    distillation_mode: Mode = "sampled_token",
    distillation_alpha: float | None = None,
    distillation_topk: int | None = None,
    distillation_add_tail: bool | None = None,
    distillation_is_clip: float | None = 2.0,
) -> Method:
    """SDFT: own samples move towards what the same model would have written after reading the demonstration.

    Paper     Self-Distillation Enables Continual Learning, https://arxiv.org/abs/2601.19897 [abs].
    Equation  min E_{y ~ pi(. | x)}[ sum_t KL(pi(. | x, y_<t) || pi_T(. | x, demonstration, y_<t)) ], pi_T the same
              model.
    Estimator c_t = min(r_t, 2) (log pi_T - log pi) / N: pi_ref = max(pi_old, pi / 2), no mask; A of the current policy.
    Paper writes  The reverse KL on the policy's samples.
    Code does     TRL: JSD at alpha 0.5 over the policy's top 100 tokens, renormalized, weighted by min(r, 2), a mean
                  per sequence; the teacher has the initial weights. tinker: the forward KL over the teacher's top 20
                  tokens, from the fourth token on, or the sampled token with A from pi_old. prime-rl (opsd): the
                  sampled token, and the policy itself as the teacher.
    We do         The sampled token as TRL's sampled_token form, and one token mean over the update; before the policy
                  has moved, all sampled forms are equal. TRL's default is distillation_mode="topk_logits". No first
                  tokens are skipped. Problems without a demonstration train nothing.
    Defaults  teacher initial, rate 0.05, ratio at most 2, 8 samples, alpha 0.5 and 100 tokens in the logit forms: TRL
              1.16 [code]. learning_rate 1e-5 is SDPO's [derived]: the authors' repository was not read.
    Pitfalls  Equal rewards do not give zero: nothing is graded. The teacher may repeat the demonstration's first words.
              A demonstration in another style than the model's makes a teacher that is sure of tokens which the policy
              never samples: then the advantage is negative nearly everywhere.
    Authors' names  TRL: teacher_model_kind base -> initial, live -> policy, ema -> average; the others have its names.
    Proven    peer: TRL 1.16 and tinker-cookbook@9dfcc3a2c, the sampled form, in float64; the authors' code was not
              read.
    Options
        num_generations: rollouts per problem
        teacher: weights of the teacher: initial, those of the policy as it samples, or their moving average
        teacher_update_rate: share of the policy in the average after each optimizer step, with teacher=average
        distillation_mode: compare the sampled token, or the distributions over the vocabulary or its top k
        distillation_alpha: Jensen-Shannon weight of the logit forms: 0 forward, 1 reverse KL; none: 0.5
        distillation_topk: tokens that topk_logits compares, the policy's most probable ones; none: 100
        distillation_add_tail: add a category for all other tokens in topk_logits; none: no
        distillation_is_clip: cap of the importance ratio; none: no ratio
    """
    term, divergence = distillation(
        distillation_mode,
        distillation_alpha,
        distillation_topk,
        distillation_add_tail,
        distillation_is_clip,
        LogitForm(alpha=0.5, top_k=100, add_tail=False),
    )
    reader = Teacher(teacher, "demonstration", rate=teacher_update_rate)
    return Method(
        ask=Request(rollouts=num_generations),
        keep=Taught(reader),
        terms=(term,),
        teacher=reader,
        divergence=divergence,
        run={"learning_rate": 1e-5},
    )
