"""Some steps of RL, some steps of SFT, and again."""

from typing import Literal

from obverse.estimator import InTurns, Stage, TrainingSchedule
from obverse.methods.dr_grpo import dr_grpo
from obverse.methods.grpo import grpo
from obverse.methods.sft import sft


def alternate(
    rl_steps: int = 1,
    sft_steps: int = 1,
    rl: Literal["grpo", "dr_grpo"] = "grpo",
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    max_completion_length: int = 8192,
    imitation_learning_rate: float | None = None,
    moments: Literal["separate", "shared"] = "separate",
) -> TrainingSchedule:
    """Alternation: rl_steps updates on own samples, then sft_steps updates on demonstrations, and so on.

    Paper     The plain form of interleaving; with performance feedback it is relift, https://arxiv.org/abs/2506.07527,
              per problem it is hpt, https://arxiv.org/abs/2509.04419.
    Equation  Step k minimizes L_RL while k mod (rl_steps + sft_steps) < rl_steps, else L_SFT.
    Estimator RL step: c_t = 1_clip r_t A / (n_i B), pi_ref = pi_old (grpo; dr_grpo has 1 / (L B)); SFT step: c_t = 1/N,
              pi_ref = pi_theta, A = 1: the step's number selects the loss.
    Paper writes  Nothing: no paper has this alone [derived].
    Code does     No official code.
    We do         Problems come from one stream: an SFT step takes the next ones, not those of the RL step before. Both
                  kinds of update are means (over sequences, over tokens), so that shared moments see one scale.
                  moments="separate": an AdamW for each, as in ReLIFT; "shared": one, with one rate and one schedule,
                  where imitation_learning_rate is not read.
    Defaults  1 and 1 steps, separate moments, the run's learning rate for both [derived]; 8 samples, epsilon 0.2, no
              KL, L = 8192, learning_rate 1e-6: the setting of the hybrids' papers [code]. In a run L is the run's own
              --max_completion_length.
    Pitfalls  Equal rewards do not give zero: SFT steps do not read them. An SFT step is blind to what the model can
              already do. Two AdamW drift apart: each one's moments know only half of the steps. 1 RL step at 1e-6 and 1
              SFT step at 1e-6 move the weights alike under Adam: the ratio of steps is the balance.
    Authors' names  none.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        rl_steps: RL steps in a row
        sft_steps: SFT steps in a row, after those of RL
        rl: method of the RL steps
        num_generations: rollouts per problem in RL steps
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        beta: weight of grpo's KL to the initial model; 0 is off; dr_grpo has none
        moments: an AdamW state for each kind of step (separate), or one for both (shared)
    """
    if rl == "dr_grpo" and beta:
        raise ValueError("beta weighs the KL of grpo; dr_grpo has none: give kl_coef")
    if rl == "grpo":
        first = grpo(num_generations, epsilon, epsilon_high, beta)
    else:
        first = dr_grpo(num_generations, epsilon, epsilon_high, max_completion_length)
    second = Stage(sft(), shares_optimizer=True) if moments == "shared" else Stage(sft(), imitation_learning_rate)
    return TrainingSchedule((Stage(first), second), InTurns(rl_steps, sft_steps), run={"learning_rate": 1e-6})
