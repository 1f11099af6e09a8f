"""A smooth weight of whole sequences, for samples of older policies."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import GammaWeighted, PerToken, Request, Standardized
from obverse.types import Source


def vespo(
    num_generations: int = 8,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
) -> Method:
    """VESPO: REINFORCE with a weight of the sequence's ratio that has a maximum, in place of ratio and clip.

    Paper     VESPO, https://arxiv.org/abs/2602.10693 [abs].
    Equation  J = (1/N) sum_i sum_t sg(phi(W_i)) A_i log pi_theta(y_t), W_i = prod_t pi_theta / pi_old,
              phi(W) = e^lambda W^k e^(-lambda W), A_i = (R_i - mean R) / std R over the problem's group.
              (k, lambda) = (k_pos, lambda_pos) where A_i >= 0, (k_neg, lambda_neg) where A_i < 0.
    Estimator c_t = phi(W_i) A_i / N: no mask, pi_ref = pi_theta / phi(W_i). phi(1) = 1; its maximum is at k / lambda.
    Paper writes  A weight of whole sequences from a variational problem, in place of a clip.
    Code does     The equation, detached, a token mean. Every log-ratio is clamped to +-20, and so is their sum. The
                  constants are (2, 3) and (3, 2); the function's docstring has (2, 1.5) and (4, 2.5) [code]. TRL
                  multiplies a correction of the sampler's log-probs into W and allows no second one.
    We do         The code's, N counted over the whole update, unbiased std, eps 1e-6. --importance_sampling multiplies
                  the coefficient, not W.
    Defaults  k and lambda of the code's function, which TRL 1.16 has too [code]; the scripts take them from the
              environment. 8 samples and learning_rate 1e-6 as in TRL's GRPO [code].
    Pitfalls  W is a product over all tokens: after one step it is far from 1 for long answers, and phi then is near 0;
              for right answers the maximum is below W = 1, so those that already became likelier count less. With one
              update per collection vespo is REINFORCE with GRPO's advantage. A problem never solved has no gradient.
    Authors' names  TRL: vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg -> the same without vespo_.
    Proven    authors' code: FloyedShen/VESPO@aa1f3045c, its policy loss by autograd in float64; also TRL 1.16,
              GRPOTrainer with loss_type vespo (make test-parity).
    Options
        num_generations: rollouts per problem
        k_pos: exponent of the sequence's ratio where the advantage is not negative
        lambda_pos: rate at which the weight falls with the ratio where the advantage is not negative
        k_neg: exponent of the sequence's ratio where the advantage is negative
        lambda_neg: rate at which the weight falls with the ratio where the advantage is negative
    """
    reference = GammaWeighted(k_pos, lambda_pos, k_neg, lambda_neg)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), reference, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
