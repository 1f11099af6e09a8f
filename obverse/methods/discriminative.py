"""Raise demonstrations above the initial model's answers."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import Contrast, Demonstrated, LogPartition, One, PerSample, PerSequence, Request
from obverse.types import Source


def discriminative(
    variant: Literal["dft", "dft2"] = "dft",
    num_generations: int = 2,
    gamma: float | None = None,
    tau: float | None = None,
) -> Method:
    """Discriminative fine-tuning: make the demonstration likelier than what the initial model would have answered.

    Paper     Discriminative Finetuning of Generative Large Language Models, https://arxiv.org/abs/2502.18679. Its
              names DFT and DFT2 have nothing to do with `dft`, 2508.05629.
    Equation  L = mean over problems of [ -log pi_theta(y) + (1/m) sum_j sg(e^(d_j - u)) log pi_theta(y_j) ], y the
              demonstration, y_j ~ pi_initial; d_j = log pi_theta(y_j) / tau - log pi_initial(y_j), u <- log((1 - gamma)
              e^u + gamma mean_j e^(d_j)), one u per problem, kept over the run and moved before it is used.
              dft2: every log-likelihood is divided by its length, and d_j = log pi_theta(y_j) / (tau n_j).
    Estimator demonstration: c_t = 1 / B, pi_ref = pi_theta, A = 1; own sample: c_t = -e^(d_j - u) / (m B), pi_ref =
              pi_theta, A = -e^(d_j - u) / m; B demonstrations. dft2: / n_i as well.
    Paper writes  Maximize the discriminative likelihood e^(s(y)) / sum over all texts of e^(s(y')); the partition sum
                  is estimated with samples of the initial model and a moving average.
    Code does     PenGuln/DFT: the equation. m = 2 negatives per problem and epoch, sampled before training at
                  temperature 0.7 and top_k 50, at most 320 tokens, from a prompt that asks for a *bad* answer. u begins
                  at 0, so the first visit counts it as a partition of 1. In log space throughout.
    We do         The code's, B counted over the whole update; u is part of the run's state and of its checkpoints. The
                  negatives are drawn when the problem comes up, at the run's own temperature, from the problem's own
                  prompt. A problem without a demonstration is left out.
    Defaults  dft: gamma 0.85, tau 1; dft2: gamma 0.9, tau 0.3; 2 negatives, learning_rate 2e-6, cosine, 2 epochs: the
              authors' recipes for Mistral-7B [code]; warm-up 10 % there. gamma and tau None are the variant's own.
    Pitfalls  Equal rewards do not give zero: rewards are not read, and no answers are needed. A negative's weight is at
              most 1 / gamma, but once u is stale it may be near 0: with few visits per problem prefer a gamma near 1.
              Negatives that are right are pushed down as well. dft needs the initial model's log-probs; dft2 none.
    Authors' names  samples_per_prompt -> num_generations, gamma and tau the same, ref_free -> variant="dft2".
    Proven    authors' code: PenGuln/DFT, its two losses, in float64.
    Options
        variant: log-likelihoods as sums (dft), or divided by the response's length (dft2)
        num_generations: negatives per problem, sampled from the initial model
        gamma: step of the moving average of a problem's log partition; none: 0.85 (dft), 0.9 (dft2)
        tau: temperature by which log-likelihoods are divided; none: 1 (dft), 0.3 (dft2)
    """
    if num_generations < 1:
        raise ConfigError("discriminative fine-tuning contrasts with own samples: num_generations must be at least 1")
    averaged = variant == "dft2"
    usual_gamma, usual_tau = (0.9, 0.3) if averaged else (0.85, 1.0)
    partition = LogPartition(usual_gamma if gamma is None else gamma, usual_tau if tau is None else tau, averaged)
    demonstrations = (Source.DEMONSTRATION,)
    normalizer = PerSequence(demonstrations) if averaged else PerSample(demonstrations)
    return Method(
        ask=Request(demonstrations=1, rollouts=num_generations, author="initial"),
        keep=Demonstrated(),
        terms=(
            Term(Source.DEMONSTRATION, One(), normalizer=normalizer),
            Term(Source.ROLLOUT, Contrast(partition), normalizer=normalizer),
        ),
        memory=partition,
        run={"learning_rate": 2e-6, "lr_scheduler_type": "cosine", "num_train_epochs": 2.0},
    )
