"""On-policy distillation in which tokens after a prefix that the teacher rejects weigh less."""

from obverse.estimator import Method, Teacher, Term
from obverse.estimator.parts import PerToken, PrefixWeighted, Request
from obverse.types import Source


def iw_opd(num_generations: int = 1, gamma: float = 0.5) -> Method:
    """IW-OPD: the teacher's advantage, weighted up to 1 + gamma while teacher and policy still agree on the prefix.

    Paper     On the Position Bias of On-Policy Distillation, https://arxiv.org/abs/2606.22600; read in TRL only [code].
    Equation  L = -mean_t sg(w_t a_t) log pi(y_t), a_t = log pi_T - log pi_old,
              w_t = 1 + gamma (1 - sum_{k<t} |a_k| / max(sum_k |a_k|, 1e-8)) over the tokens of the sample.
    Estimator c_t = w_t a_t / N: no ratio and no mask, pi_ref = pi_theta, A = w_t a_t.
    Paper writes  Later tokens carry less of the teacher's knowledge, since it scores a prefix that it would not write.
    Code does     TRL: the printed loss with gamma 0.5 and a mean over the tokens of the step, where lmbda must be 1.
    We do         TRL's loss over the whole update.
    Defaults  gamma 0.5, one sample per problem, learning_rate 1e-6: TRL 1.16 [code], which samples with top_p 0.95.
    Pitfalls  Equal rewards do not give zero: nothing is graded. Without a ratio several updates per collection are
              biased. A sample on which teacher and policy agree exactly has no gradient; the first token always weighs
              most, whatever it is.
    Authors' names  iw_opd_gamma -> gamma; iw_opd_epsilon is constant here.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        gamma: additional weight of a sample's first token
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, not {gamma:g}: 0 is opd without a ratio")
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, PrefixWeighted(gamma), normalizer=PerToken()),),
        teacher=Teacher("model", "prompt"),
        run={"learning_rate": 1e-6},
    )
