"""A reward model: one score per response, trained on pairs of preferences."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerPair, Ranked, Request
from obverse.types import Source


def reward_model(margin: float = 0.0, center_rewards_coefficient: float = 0.0) -> Method:
    """Reward model: a scalar head on the last token learns to score chosen responses above rejected ones.

    Paper     Training language models to follow instructions, https://arxiv.org/abs/2203.02155, eq. 1 (Bradley-Terry);
              centering: https://arxiv.org/abs/2312.09244; margins: Llama 2, https://arxiv.org/abs/2307.09288 [mem].
    Equation  L = -log sigmoid(r_w - r_l - margin) + center_rewards_coefficient (r_w + r_l)^2, r the head's output at a
              response's last token.
    Estimator no policy learns: the coefficient multiplies r, not log pi. With s = sigmoid(-(r_w - r_l - margin)) and
              k = center_rewards_coefficient, at the last token: chosen (s - 2 k (r_w + r_l)) / P, rejected
              (-s - 2 k (r_w + r_l)) / P, P = pairs of the update; 0 at all other tokens.
    Paper writes  A mean over all pairs of a prompt's K ranked answers, all of them in one batch element [mem].
    Code does     TRL: a mean over the batch's pairs, a margin per row if the data have one. OpenRLHF: the same, written
                  as log(1 + e^(r_l - r_w)).
    We do         A mean over the pairs of the whole update, one margin for all.
    Defaults  No margin, no centering (TRL [code]; 0.01 is typical); learning_rate 9e-6 (OpenRLHF [code]; TRL has 1e-4).
    Pitfalls  Equal rewards play no part: the data say which response is better, nothing is graded. Scores have no
              origin without centering: take a mean off before using them. One pass over the data, a second one
              overfits [mem]. The score is at the end-of-text token: a response that was cut has none.
    Authors' names  TRL: center_rewards_coefficient; the margin is a column there.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        margin: difference of scores that a pair should have beyond 0
        center_rewards_coefficient: weight of the squared sum of a pair's scores, which centers them; 0 is off
    """
    part = Ranked(margin, center_rewards_coefficient)
    return Method(
        ask=Request(pairs=1),
        terms=tuple(
            Term(source, part, normalizer=PerPair(), on="score") for source in (Source.CHOSEN, Source.REJECTED)
        ),
        run={"learning_rate": 9e-6},
    )
