"""Right and wrong answers of a problem as the two classes of a classification."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Classified, PerGroup, Request
from obverse.types import Source


def real(num_generations: int = 8, tau: float = 0.5) -> Method:
    """REAL: a logistic loss of a problem's rollouts, whose logits are their mean log-ratios to the sampling policy.

    Paper     Rewards as Labels, https://arxiv.org/abs/2602.05630 [abs]; the form is that of ms-swift.
    Equation  L = mean over problems of log(1 + sum_wrong e^(s_j / tau)) + log(1 + sum_right e^(-s_i / tau)),
              s_i = mean_t log pi_theta(y_t) / pi_old(y_t); right is a reward above the mean of the problem's group.
    Estimator c_t = e^(-s_i / tau) / (tau (1 + sum_right e^(-s / tau))) / (n_i G) for right samples, minus the same with
              s in place of -s and the wrong samples for wrong ones [derived]: no mask, pi_ref = pi_theta.
    Paper writes  Rewards as labels, with an anchor logit (the 1 in each logarithm) and bounded gradients.
    Code does     ms-swift: the equation, right where the advantage is above 0. A problem with one class only is
                  skipped and counts in G [code].
    We do         ms-swift's, G the problems of the whole update. A problem's rollouts are never split over micro
                  batches.
    Defaults  tau 0.5: ms-swift's real_tau [code]. 8 samples and learning_rate 1e-6 as in TRL's GRPO [code].
    Pitfalls  A sample weighs at most 1 / tau, whatever its reward: of rewards between 0 and 1 only the side of the mean
              counts. Before the first step the weights of a class are 1 / (tau (1 + its size)), so that a class of
              one weighs 1 / (2 tau) in total, a large one nearly 1 / tau. A problem never solved has no gradient.
    Authors' names  ms-swift: real_tau -> tau.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        tau: temperature of the logistic loss; a sample weighs at most 1 / tau
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Classified(tau), normalizer=PerGroup()),),
        run={"learning_rate": 1e-6},
    )
