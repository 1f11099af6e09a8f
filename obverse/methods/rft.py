"""Rejection sampling: sample the initial model, keep correct samples, imitate them."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import DistinctCorrect, PerToken, Request
from obverse.types import Source


def rft(num_generations: int = 100) -> Method:
    """RFT: supervised fine-tuning on the distinct correct answers of the initial model.

    Paper     Scaling Relationship on Learning Mathematical Reasoning with Large Language Models,
              https://arxiv.org/abs/2308.01825 [mem].
    Equation  L = -(1/N) sum over the tokens of distinct correct answers y ~ pi_initial of log pi_theta(y_t).
    Estimator c_t = 1[R_i = 1] / N: no mask but the verifier's, pi_ref = pi_theta, A = 1. It is RAFT with samples that
              do not follow the policy: REINFORCE with rewards 0 and 1 on another policy's data, uncorrected.
    Paper writes  K answers per problem from a model that was fine-tuned on the demonstrations; one answer per distinct
                  list of equations; then SFT on them and on the demonstrations.
    Code does     Not read. The NFT paper's baseline of this name is NFT with neg_weight = 0 [code], which follows the
                  policy and is `nft` here; 2508.05629 has an offline RFT with 4 answers at temperature 1 [paper].
    We do         An answer counts once by its text, not by its equations. Answers have equal weight, and no
                  demonstrations are mixed in. The initial model is the run's --model: fine-tune it first for the
                  paper's. It is sampled at each visit of a problem, so a second epoch brings fresh answers.
    Defaults  100 answers, temperature 0.7, learning_rate 1e-5 with cosine decay, 3 epochs [mem].
    Pitfalls  Equal rewards do not give zero: an all-right group trains like any other, and easy problems dominate, for
              a problem's weight grows with its distinct correct answers. A problem that the initial model never
              solves is never learned. Rollouts train at the temperature that they were sampled at, here 0.7,
              where public code trains at 1. "RFT" also abbreviates reinforcement fine-tuning.
    Authors' names  K -> num_generations.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        num_generations: samples of the initial model per problem
    """
    return Method(
        ask=Request(rollouts=num_generations, author="initial"),
        keep=DistinctCorrect(),
        terms=(Term(Source.ROLLOUT, normalizer=PerToken()),),
        run={"learning_rate": 1e-5, "lr_scheduler_type": "cosine", "temperature": 0.7, "num_train_epochs": 3.0},
    )
