"""GRPO plus a gated imitation of own tokens that an informed teacher finds likelier."""

from obverse.estimator import Method, Taught, Teacher, Term
from obverse.estimator.parts import (
    Behavior,
    Clip,
    PerSequence,
    PerToken,
    Request,
    Standardized,
    TeacherGate,
    TowardsAnchor,
)
from obverse.methods._distillation import WhichTeacher
from obverse.types import Source


def sdar(
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    teacher: WhichTeacher = "policy",
    teacher_update_rate: float = 0.05,
    coef: float = 0.1,
    gate_beta: float = 5.0,
) -> Method:
    """SDAR: GRPO, and own tokens rise as far as the model that has read the solution finds them likelier.

    Paper     Self-Distilled Agentic Reinforcement Learning, https://arxiv.org/abs/2605.15155 [mem]; read in ms-swift's
              port of the authors' code.
    Equation  L = L_GRPO + coef mean_t sg(g_t) (log pi_T - log pi), g_t = sigmoid(gate_beta (log pi_T - log pi)).
    Estimator c_t = 1_clip r_t A_i / (n_i B) + coef g_t / N: pi_ref = pi_old with PPO's clip, and pi_ref = pi_theta.
    Paper writes  A gated distillation loss beside GRPO's, for agents whose teacher reads skills.
    Code does     The printed loss: only log pi has a gradient, and minimizing it raises every sampled token, at most by
                  coef [derived]. It is a gated SFT on own samples, not the gradient of a KL.
    We do         The code's gradient. The teacher reads the problem's demonstration; a problem without one trains
                  nothing, and leaves every denominator.
    Defaults  coef 0.1 (0.01 for ALFWorld), gate_beta 5, token mean: the authors' code as ms-swift ports it, where the
              default coef is 0, off [code]. 8 samples, epsilon 0.2 and learning_rate 1e-6 as grpo; beta 0 and the
              policy as its own teacher: [derived].
    Pitfalls  Equal rewards do not give zero: the gate acts on wrong answers too, and a failed group trains by it alone.
              What the teacher finds as likely as the policy rises with g = 0.5.
    Authors' names  sdar_coef, in ms-swift sdar_loss_coef -> coef; gate_beta, in ms-swift sdar_gate_beta -> gate_beta.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off
        teacher: weights of the teacher: initial, those of the policy as it samples, or their moving average
        teacher_update_rate: share of the policy in the average after each optimizer step, with teacher=average
        coef: weight of the gated imitation
        gate_beta: steepness of the gate
    """
    if coef <= 0 or gate_beta <= 0:
        raise ValueError("coef and gate_beta must be above 0: without the gated imitation this is grpo")
    reader = Teacher(teacher, "demonstration", rate=teacher_update_rate)
    clip = Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    kl = Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerSequence(), weight=beta)
    return Method(
        ask=Request(rollouts=num_generations),
        keep=Taught(reader),
        terms=(
            Term(Source.ROLLOUT, Standardized(), Behavior(), clip, normalizer=PerSequence()),
            Term(Source.ROLLOUT, TeacherGate(gate_beta), normalizer=PerToken(), weight=coef),
            *([kl] if beta else []),
        ),
        teacher=reader,
        run={"learning_rate": 1e-6},
    )
