"""Own right samples of earlier steps come back, beside fresh ones of the same problem."""

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import Behavior, Centered, ConstantOfAll, Request, SaturatingRatio
from obverse.estimator.replay import Replay
from obverse.types import Source


def exgrpo(
    num_generations: int = 8,
    replay_share: float = 0.5,
    replay_start: float = 0.35,
    gamma: float = 0.1,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
) -> Method:
    """ExGRPO: mixed-policy GRPO with the policy's own right answers of earlier steps as off-policy samples.

    Paper     ExGRPO: Learning to Reason from Experience, https://arxiv.org/abs/2510.02245 [abs].
    Equation  J = (1/(L S)) [ sum_fresh r_t A + sum_replayed f(x_t) A ], f(x) = x / (x + gamma),
              r_t = pi_theta / pi_old, x_t = pi_theta / pi_recorded, A = R - mean R over the group of fresh and replayed
              samples.
    Estimator rollout: c_t = r_t A / (L S), pi_ref = pi_old, no mask; replayed: c_t = A gamma x / (x + gamma)^2 / (L S),
              pi_ref = pi (x + gamma)^2 / (gamma x), no mask; S samples, replayed ones included.
    Paper writes  Experience is organized by how often a problem was solved, and trajectories of low entropy are
                  preferred [abs].
    Code does     The store has the right samples of problems that some of 8 rollouts solved, one of each text, with
                  their log-probs; a problem solved 8 of 8 is retired. Once a batch's success exceeds 0.35, half of the
                  problems come from the store: drawn by the number of right rollouts with weight N(n / 2, 1), and of a
                  problem the sample of lowest current mean entropy; 7 fresh ones join it. The mean entropy is taken
                  over the padding positions of the last scoring batch, which looks like a slip. No clip, no std; sums
                  over the padded width without the number of sequences [code].
    We do         The code's, with the entropy over the response, which costs one scoring pass over the candidates. At
                  most 8 samples of a problem are kept, the newest. A replayed problem is retired if all of its fresh
                  samples are right. The store is part of every checkpoint. S is counted over the whole update.
    Defaults  8 samples per problem, of replayed problems 7 fresh ones, replay_share 0.5, replay_start 0.35, gamma 0.1,
              entropy_coef 0.001, learning_rate 1e-6, 128 problems per step [code]. In a run L is the run's own
              --max_completion_length.
    Pitfalls  At x = 1 a replayed token weighs 0.083 A, and at most A / 4, near x = gamma: experience that the policy
              still likes teaches little. Log-probs are those of the policy that sampled: metrics.jsonl has the mean age
              as replay/staleness. Equal rewards of a group give zero; only the entropy bonus acts always.
    Authors' names  entropy_coeff -> entropy_coef, rollout.n -> num_generations, off_policy_reshape
              p_div_p_0.1 -> gamma.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: samples per problem, of a replayed problem one of them from the store
        replay_share: share of a step's problems that come from the store, as far as it has that many
        replay_start: fraction of right rollouts in a step above which replay begins
        gamma: constant of f(x) = x / (x + gamma)
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
    """
    normalizer = ConstantOfAll(max_completion_length)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, Centered(), Behavior(), normalizer=normalizer),
            Term(Source.REPLAYED, Centered(), SaturatingRatio(gamma), normalizer=normalizer),
            *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.REPLAYED),
        ),
        replay=Replay(num_generations, replay_share, replay_start),
        run={"learning_rate": 1e-6},
    )
