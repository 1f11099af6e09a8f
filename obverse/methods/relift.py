"""RL, and SFT on unsolved problems as soon as enough of them are deferred."""

from obverse.estimator import Method, Stage, Term, TrainingSchedule, WhenWaiting, entropy_bonus
from obverse.estimator.parts import Behavior, Centered, Constant, PerToken, Request, SolvedGate
from obverse.types import Source


def relift(
    num_generations: int = 8,
    num_waiting: int = 128,
    imitation_learning_rate: float | None = 1e-6,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
) -> TrainingSchedule:
    """ReLIFT: RL interleaved with fine-tuning on the demonstrations of problems that no own sample solved.

    Paper     Learning What Reinforcement Learning Can't: Interleaved Online Fine-Tuning for Hardest Questions,
              https://arxiv.org/abs/2506.07527.
    Equation  RL step: L = -sum_t r_t (R - mean R), as luffy's on own samples. Problems with only wrong samples wait
              with their demonstrations; when num_waiting do, one SFT step on them: L = -(1/N) sum_t log p_t.
    Estimator RL step: c_t = r_t (R - mean R) / (L B), pi_ref = pi_old, no mask. SFT step: c_t = 1/N, pi_ref = pi_theta,
              A = 1. In both an entropy bonus, a token mean.
    Paper writes  GRPO, and SFT on the hardest questions whenever the buffer is full.
    Code does     No std, no clip, RL sums tokens / 8192 and never divides by the number of sequences. SFT right after
                  the RL update, over 128 demonstrations, newest first, in micro batches of 4; their token means are
                  averaged; minus .001 times the entropy there too. A second AdamW on the same weights. A run whose
                  buffer is still empty crashes.
    We do         The same with denominators of the whole update: RL sums / (L B), SFT one token mean. The SFT step is a
                  step of the run, its optimizer and its schedule are its own, and its rate stays in proportion to the
                  run's schedule. What waits and is not taken goes on waiting.
    Defaults  8 samples, 128 waiting, entropy_coef 0.001, L = 8192, learning_rate 1e-6 for both, max_grad_norm 0.7 (the
              script for the 7B model): the authors' code [code], with RL batches of 128 problems. In a run L is the
              run's own --max_completion_length.
    Pitfalls  Equal rewards do not give zero: that is when a problem waits, if all are wrong, and the bonus acts always.
              Since the code never divides by B, its entropy bonus is smaller beside RL than here; entropy_coef lowers
              it. With num_waiting far above the problems of a step, SFT is rare: it used about 13 % of the
              demonstrations. Two AdamW drift apart. A problem without a demonstration never waits.
    Authors' names  rollout.n -> num_generations, entropy_coeff -> entropy_coef.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem in RL steps
        num_waiting: unsolved problems that wait before an SFT step trains on their demonstrations
        entropy_coef: weight of the entropy bonus in both kinds of step, a token mean; 0 is off
    """
    rollout = Term(Source.ROLLOUT, Centered(), Behavior(), normalizer=Constant(max_completion_length))
    reinforce = Method(
        ask=Request(rollouts=num_generations), terms=(rollout, *entropy_bonus(entropy_coef, Source.ROLLOUT))
    )
    imitate = Method(
        ask=Request(demonstrations=1),
        keep=SolvedGate(0),  # of a whole group, demonstrations train only where all rollouts failed
        terms=(Term(Source.DEMONSTRATION, normalizer=PerToken()), *entropy_bonus(entropy_coef, Source.DEMONSTRATION)),
    )
    return TrainingSchedule(
        (Stage(reinforce), Stage(imitate, imitation_learning_rate)),
        WhenWaiting(num_waiting),
        run={"learning_rate": 1e-6, "imitation_learning_rate": 1e-6, "max_grad_norm": 0.7},
    )
