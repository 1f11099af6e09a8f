"""GRPO whose advantage is redistributed inside each response by a teacher that has read the solution."""

from obverse.estimator import Method, Teacher, Term
from obverse.estimator.parts import Behavior, Clip, PerSequence, Redistributed, Request, RiseAndFall, TowardsAnchor
from obverse.methods._distillation import WhichTeacher
from obverse.types import Source


def rlsd(
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    teacher: WhichTeacher = "policy",
    teacher_update_rate: float = 0.05,
    lam: float = 0.5,
    lam_warmup: float = 0.0,
    lam_decay: float = 0.0,
    reweight_clip: float = 0.2,
    negative_only: bool = False,
) -> Method:
    """RLSD: the reward decides the direction of a response, the informed model itself how much each token weighs.

    Paper     Self-Distilled RLVR, https://arxiv.org/abs/2604.03128 [abs]; read in ms-swift's port of the authors' code.
    Equation  J = mean_i mean_t min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon_high) A_t),
              A_t = A_i ((1 - lam) + lam clip(exp(sgn(A_i) (log pi_T - log pi_old)), 1 - e, 1 + e)), A_i GRPO's.
    Estimator c_t = 1_clip r_t A_t / (n_i B): pi_ref = pi_old, PPO's clip as the mask, e = reweight_clip.
    Paper writes  The teacher is the same policy with the reference answer in its prompt.
    Code does     ms-swift: lam 0.5, e 0.2, negative_only off, a linear rise of lam over warm-up steps, then a linear
                  fall to 0 over decay steps; the std of rewards has eps 1e-4. A loss with one advantage per sequence is
                  refused.
    We do         As ms-swift, with GRPO's mean per sequence, eps 1e-6, and warm-up and decay as shares of the run.
                  Without a demonstration the teacher reads the plain prompt: with teacher=policy this is GRPO.
    Defaults  lam 0.5, e 0.2, no schedule, negative_only off: ms-swift [code]; 8 samples, epsilon 0.2 and learning_rate
              1e-6 as grpo. beta 0, no KL to the initial model, and the policy as its own teacher: [derived].
    Pitfalls  A group with equal rewards has A = 0, with and without a teacher. At lam 0.5 and e 0.2 the factor is
              between 0.9 and 1.1: the method differs little from GRPO, by design.
    Authors' names  ms-swift: rlsd_lambda -> lam, rlsd_reweight_clip_range -> reweight_clip, rlsd_negative_only ->
              negative_only, rlsd_lambda_warmup_steps -> lam_warmup, rlsd_lambda_decay_steps -> lam_decay.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off
        teacher: weights of the teacher: initial, those of the policy as it samples, or their moving average
        teacher_update_rate: share of the policy in the average after each optimizer step, with teacher=average
        lam: share of the advantage that the teacher redistributes, 0 to 1
        lam_warmup: share of the run over which lam rises from 0; 0 is off
        lam_decay: share of the run over which lam then falls to 0; 0 is off
        reweight_clip: clip range of the teacher's factor around 1
        negative_only: redistribute only advantages below 0
    """
    if not 0 <= lam <= 1 or not 0 <= reweight_clip < 1 or min(lam_warmup, lam_decay) < 0:
        raise ValueError("lam must be between 0 and 1, reweight_clip at least 0 and below 1, its schedule not negative")
    share = RiseAndFall(lam, lam_warmup, lam_decay) if lam_warmup or lam_decay else lam
    clip = Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    advantage = Redistributed(share, reweight_clip, negative_only)
    kl = Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerSequence(), weight=beta)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, advantage, Behavior(), clip, normalizer=PerSequence()),
            *([kl] if beta else []),
        ),
        teacher=Teacher(teacher, ("demonstration", "prompt"), rate=teacher_update_rate),
        run={"learning_rate": 1e-6},
    )
