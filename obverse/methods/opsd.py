"""On-policy self-distillation: the initial model reads the solution and scores the policy's samples."""

from obverse.estimator import Method, Taught, Teacher
from obverse.estimator.parts import Request
from obverse.methods._distillation import LogitForm, Mode, WhichTeacher, distillation


def opsd(
    num_generations: int = 1,
    teacher: WhichTeacher = "initial",
    teacher_update_rate: float = 0.001,
    distillation_mode: Mode = "sampled_token",
    distillation_alpha: float | None = None,
    distillation_topk: int | None = None,
) -> Method:
    """OPSD: the initial model, which has read the solution, teaches the policy on the policy's own samples.

    Paper     Self-Distilled Reasoner, https://arxiv.org/abs/2601.18734 [abs].
    Equation  min E_{y ~ pi(. | x)}[ mean_t D(pi_T(. | x, solution, y_<t), pi(. | x, y_<t)) ], pi_T the initial model.
    Estimator c_t = (log pi_T - log pi) / N: no ratio, no mask, pi_ref = pi_theta, A of the current policy.
    Paper writes  A divergence over the vocabulary; the sampled token is a variant.
    Code does     Scripts: JSD at 0.5 over the vocabulary, LoRA with the adapters off as the teacher, token mean. Its
                  options are an average at 0.999, the teacher's top 50 tokens, renormalized, and the sampled token
                  (use_thinking_machines_loss).
    We do         The sampled token by default, whose coefficient can be stated for each token (obverse weigh). The
                  scripts' default is distillation_mode="full_logits"; topk_logits takes the teacher's tokens.
                  The teacher does not write reasoning of its own first (reason_first), and sampling is not truncated to
                  top_p 0.95 and top_k 20. Problems without a demonstration train nothing.
    Defaults  teacher initial, rate 0.001 (an average at 0.999), JSD at 0.5, 50 tokens, temperature 1.1: the authors'
              scripts [code]. Their versions differ: LoRA at 2e-5 and temperature 1.2, or at 2e-4 and 1.1; learning_rate
              2e-5 is the lower one. One sample per problem [derived].
    Pitfalls  Equal rewards do not give zero: nothing is graded. The teacher never learns: what the policy gains beyond
              it is taken back. With --use_peft the teacher is the model without its adapters and needs no memory.
    Authors' names  fixed_teacher -> teacher=initial, use_ema_teacher -> teacher=average, ema_decay -> 1 -
              teacher_update_rate, beta -> distillation_alpha, top_k_loss -> distillation_topk,
              use_thinking_machines_loss -> distillation_mode=sampled_token.
    Proven    authors' code: siyan-zhao/OPSD@590ec26c5, the sampled form, in float64; the divergence by its literal
              objective.
    Options
        num_generations: rollouts per problem
        teacher: weights of the teacher: initial, those of the policy as it samples, or their moving average
        teacher_update_rate: share of the policy in the average after each optimizer step, with teacher=average
        distillation_mode: compare the sampled token, or the distributions over the vocabulary or its top k
        distillation_alpha: Jensen-Shannon weight of the logit forms: 0 forward, 1 reverse KL; none: 0.5
        distillation_topk: tokens that topk_logits compares, the teacher's most probable ones; none: 50
    """
    form = LogitForm(alpha=0.5, top_k=50, add_tail=False, top_k_of="target")
    term, divergence = distillation(distillation_mode, distillation_alpha, distillation_topk, None, None, form)
    reader = Teacher(teacher, "demonstration", rate=teacher_update_rate)
    return Method(
        ask=Request(rollouts=num_generations),
        keep=Taught(reader),
        terms=(term,),
        teacher=reader,
        divergence=divergence,
        run={"learning_rate": 2e-5, "temperature": 1.1},
    )
