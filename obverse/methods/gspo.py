"""The importance ratio of a whole sequence, length-normalized."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Clip, PerSequence, Request, SequenceMean, Standardized
from obverse.types import Source


def gspo(num_generations: int = 8, epsilon: float = 3e-4, epsilon_high: float = 4e-4) -> Method:
    """GSPO: GRPO with one ratio per sequence, the geometric mean of its tokens' ratios, clipped as a whole.

    Paper     Group Sequence Policy Optimization, https://arxiv.org/abs/2507.18071.
    Equation  J = mean_i min(s_i A_i, clip(s_i, 1 - epsilon, 1 + epsilon_high) A_i),
              s_i = (pi_theta(y_i) / pi_old(y_i))^(1 / n_i), A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = 1_clip(s_i) s_i A_i / (n_i B) for all tokens of a sequence: pi_ref = pi_theta / s_i.
    Paper writes  A sequence objective; the gradient of s_i brings the 1 / n_i.
    Code does     verl writes it per token with a stop-gradient, which has the same gradient, forces the per-sequence
                  mean and caps log s_i at 10. TRL: importance_sampling_level="sequence" with loss_type="grpo".
    We do         The paper's, B counted over the whole update, unbiased std, eps 1e-6; log s_i is limited only where
                  float32 ends. A group with equal rewards stays in B and has zero advantage.
    Defaults  epsilon 3e-4 and 4e-4, with 4 mini batches per collection: the paper's [2nd]. 8 samples and learning_rate
              1e-6 as in TRL's GRPO [code]. Mini batches are the run's: --num_mini_batches 4; with one the ratio is 1.
    Pitfalls  epsilon is far smaller than PPO's, for s_i is a mean: 0.2 never clips. A sampler with log-probs that
              differ from the trainer's by 3e-4 on average is clipped at once. A problem never solved has no gradient.
    Authors' names  TRL: the same; verl: clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high.
    Proven    peer: TRL 1.16, GRPOTrainer with ratios of sequences (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon: lower clip bound of the sequence's ratio, 1 - epsilon
        epsilon_high: upper clip bound of the sequence's ratio, 1 + epsilon_high
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, Standardized(), SequenceMean(), Clip(epsilon, epsilon_high), normalizer=PerSequence()),
        ),
        run={"learning_rate": 1e-6},
    )
