"""First imitate, then reinforce: two stages of one run."""

from typing import Literal

from obverse.estimator import InOrder, Stage, TrainingSchedule, UntilPlateau
from obverse.methods.dr_grpo import dr_grpo
from obverse.methods.grpo import grpo
from obverse.methods.sft import sft


def sft_then_rl(
    sft_share: float = 0.3,
    imitation_learning_rate: float | None = 5e-6,
    rl: Literal["grpo", "dr_grpo"] = "grpo",
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    max_completion_length: int = 8192,
    patience: int = 0,
    validation_steps: int = 10,
) -> TrainingSchedule:
    """SFT -> RL: demonstrations for a share of the run, own samples for the rest.

    Paper     The baseline of every hybrid: "SFT -> GRPO" of https://arxiv.org/abs/2509.04419, "SFT -> RL" of
              https://arxiv.org/abs/2506.19767, "SFT-RFT" of 2505.16984.
    Equation  Stage 1: L = -(1/N) sum_t log p_t over demonstrations. Stage 2: grpo's objective, or dr_grpo's.
    Estimator stage 1: c_t = 1/N, pi_ref = pi_theta, A = 1. Stage 2: c_t = [1_clip r_t A - beta (1 - e^-d)] / (n_i B),
              or c_t = 1_clip r_t A / (L B) with dr_grpo: pi_ref = pi_old, d against the policy that stage 1 ended with.
    Paper writes  Two runs, each with a recipe of its own; none states how the stages were matched.
    Code does     SRFT: SFT with batches of 128 for 3 epochs, 10 % warm-up, then 500 steps of RL; UFT: 5 epochs of SFT
                  at 1e-5, then RL. LUFFY's RL takes problems that its SFT did not use. HPT's recipe was not read.
    We do         One run over one stream of problems. The second stage begins with fresh moments and a schedule of its
                  own, and its initial model, for a KL, is what it finds. Both have the run's kind of schedule; each
                  counts its own steps. The KL is off, as in the papers' RL.
              With patience, RL begins once the loss on the demonstrations of --eval_dataset has not fallen for that
              many measurements, one every validation_steps steps, and after sft_share of the run at the latest: the
              "stable" phase after which https://arxiv.org/abs/2512.11470 switches [abs]; its thresholds were not read,
              patience and interval are ours [derived]. Rates that decay then reach their end only if RL has the whole
              run, because its length is not known in advance.
    Defaults  imitation_learning_rate 5e-6 and learning_rate 1e-6 (stage 2): SRFT [paper]; sft_share 0.3 of the steps is
              ours [derived]: SRFT's 3 epochs are twice its RL steps, but a step of SFT costs a fraction of one of RL.
              8 samples, L = 8192: SRFT's setting [paper]; epsilon 0.2 [code]; rl grpo, beta 0 [derived]. In a run L is
              the run's own --max_completion_length.
    Pitfalls  Equal rewards do not give zero: stage 1 does not read them. SFT lengthens answers, and those that are cut
              at the limit count as wrong: the first rewards of stage 2 are low. Too much SFT leaves samples alike and
              RL nothing to choose from. sft_share counts steps, or tokens where the run has a --budget.
    Authors' names  none: the papers ran two programs.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        sft_share: share of the run that is SFT; RL follows
        rl: method of the RL stage
        num_generations: rollouts per problem in the RL stage
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        patience: measurements of the validation loss without a new minimum after which RL begins; 0: by sft_share alone
        validation_steps: steps of SFT between two measurements of the validation loss, with patience
        beta: weight of grpo's KL to the policy that SFT ended with; 0 is off; dr_grpo has none
    """
    if rl == "dr_grpo" and beta:
        raise ValueError("beta weighs the KL of grpo; dr_grpo has none: give kl_coef")
    if rl == "grpo":
        second = grpo(num_generations, epsilon, epsilon_high, beta)
    else:
        second = dr_grpo(num_generations, epsilon, epsilon_high, max_completion_length)
    return TrainingSchedule(
        (Stage(sft(), imitation_learning_rate), Stage(second)),
        UntilPlateau(sft_share, patience, validation_steps) if patience else InOrder(first=sft_share),
        run={"learning_rate": 1e-6, "imitation_learning_rate": 5e-6},
    )
