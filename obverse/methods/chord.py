"""CHORD: own samples and demonstrations in one sum with weights that change over the run."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, One, OwnStandardized, PerToken, Request, Rest, Undecided, WarmCosine
from obverse.types import Source


def chord(
    num_generations: int = 8,
    mu_peak: float = 0.1,
    mu_valley: float = 0.1,
    mu_warmup: float = 0.0,
    mu_decay: float = 1.0,
    phi: bool = True,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Method:
    """CHORD: (1 - mu) GRPO on own samples plus mu SFT on demonstrations, token by token where the model is undecided.

    Paper     On-Policy RL Meets Off-Policy Experts: Harmonizing SFT and RL via Dynamic Weighting,
              https://arxiv.org/abs/2508.11408.
    Equation  L = (1 - mu) L_GRPO + mu L_SFT, L_SFT = -(1/N) sum_t sg(phi_t) log p_t, phi_t = p_t (1 - p_t);
              L_GRPO = -(1/M) sum_t min(r_t A, clip(r_t, 1 - epsilon, 1 + epsilon) A), A = (R - mean R) / std R.
    Estimator rollout: c_t = (1 - mu) 1_clip r_t A / M, pi_ref = pi_old; demonstration: c_t = mu phi_t / N,
              pi_ref = pi_theta, A = phi. mu rises from 0 to mu_peak in a straight line and falls to mu_valley along
              half a cosine.
    Paper writes  Two forms: CHORD-mu (schedule, no phi) and CHORD-phi (phi, a constant mu).
    Code does     Trinity-RFT: phi detached; token means of each part of a micro batch, weighted back to the batch;
                  optionally log p is clamped at log(cutoff). The schedule counts steps.
    We do         Token means over the update, M own and N demonstrated tokens. The group's mean and std are those of
                  the own samples. mu_warmup and mu_decay are shares of the run. No clamp of log p. Each problem
                  brings one demonstration; the paper draws them from a data set of their own.
    Defaults  CHORD-phi: phi, mu constant at 0.1 [2nd]; 8 samples, learning_rate 1e-6 (of 1e-6, 5e-6, 1e-5) [2nd];
              epsilon 0.2 [mem]. CHORD-mu is phi=False, mu_peak=0.9, mu_valley=0.05 and a decay of 200 steps [2nd].
    Pitfalls  Equal rewards do not give zero: demonstrations train at any reward. With phi a token of p near 0 teaches
              next to nothing, so a style that is foreign to the model is not learned. Do not compare mu with and
              without phi: phi is at most 1/4.
    Authors' names  mu_peak, mu_valley -> the same; mu_warmup_steps, mu_decay_steps -> mu_warmup, mu_decay as shares of
              the run; enable_phi_function (ms-swift) -> phi; repeat_times -> num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        mu_peak: weight of the SFT loss at its highest, after the warm-up
        mu_valley: weight of the SFT loss at the end of its decay
        mu_warmup: share of the run over which mu rises from 0 to mu_peak
        mu_decay: share of the run over which mu falls to mu_valley, after the warm-up
        phi: weigh each demonstration token by p (1 - p), p its probability
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    high = epsilon if epsilon_high is None else epsilon_high
    mu = WarmCosine(mu_peak, mu_valley, mu_warmup, mu_decay)
    rollout = Term(
        Source.ROLLOUT, OwnStandardized(), Behavior(), Clip(epsilon, high), normalizer=PerToken(), weight=Rest(mu)
    )
    demonstration = Term(Source.DEMONSTRATION, Undecided() if phi else One(), normalizer=PerToken(), weight=mu)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        terms=(rollout, demonstration),
        run={"learning_rate": 1e-6},
    )
