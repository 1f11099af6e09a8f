"""Single responses with a label, good or bad, in place of pairs."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import ConstantOfAll, MismatchedKL, Prospect, Request
from obverse.types import Source


def kto(
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss: Literal["kto", "apo_zero_unpaired"] = "kto",
) -> Method:
    """KTO: raise responses that are labelled good, lower those labelled bad, where the policy is not sure already.

    Paper     KTO: Model Alignment as Prospect Theoretic Optimization, https://arxiv.org/abs/2402.01306.
    Equation  L = mean over rows of w_d (1 - s(beta (L_y - z_0))) for a good response and w_u (1 - s(beta (z_0 - L_y)))
              for a bad one, s = sigmoid, L_y = sum_t (log pi_theta - log pi_anchor), z_0 an estimate of
              KL(pi_theta || pi_anchor) without gradient. apo_zero_unpaired: z_0 = 0.
    Estimator good: c_t = w_d beta s(1 - s) / B, bad: c_t = -w_u beta s(1 - s) / B, s = s(beta (L_y - z_0)), B rows of
              the update: no mask, pi_ref = pi_theta, the same A on every token of a response.
    Paper writes  z_0 is the mean log-ratio of responses behind prompts that they do not belong to, at least 0, shared
                  by all rows of a batch.
    Code does     TRL: prompt i with response i - 1 of a device's batch, whose order must be that of the data; the mean
                  over devices, at least 0; rows averaged over the batch [code].
    We do         Prompt i with response i - 1 of the whole update, over all ranks and micro batches: one more forward
                  pass of policy and initial model over as many responses, before each optimizer step. A row with both
                  responses of a pair is two rows, and the chosen responses come before the rejected ones, as in TRL: a
                  response is never compared behind its own prompt. metrics.jsonl has z_0 as mismatched_kl; the tokens
                  that it takes count in num_tokens and flops.
    Defaults  beta 0.1, weights 1, learning_rate 1e-6 (TRL [code]).
    Pitfalls  Equal rewards do not give zero: rewards are not read, the label is. z_0 depends on which rows share an
              update; one whose prompts are all equal has no mismatched response and is refused. With many more rows of
              one label choose weights with (w_d n_good) / (w_u n_bad) between 1 and 4/3 [mem]. A row that is far on the
              right side, or far on the wrong one, is hardly trained.
    Authors' names  beta, desirable_weight, undesirable_weight; TRL: loss_type -> loss.
    Proven    peer: TRL 1.16, KTOTrainer with both losses (make test-parity)
    Options
        beta: scale of the log-ratios to the initial model
        desirable_weight: weight of responses that are labelled good
        undesirable_weight: weight of responses that are labelled bad
        loss: kto, or apo_zero_unpaired, which has no estimate of the KL and costs no passes for it
    """
    is_shifted = loss == "kto"
    part = Prospect(beta, desirable_weight, undesirable_weight, is_shifted)
    return Method(
        ask=Request(labeled=1),
        terms=tuple(Term(source, part, normalizer=ConstantOfAll(1)) for source in (Source.CHOSEN, Source.REJECTED)),
        memory=MismatchedKL() if is_shifted else None,
        run={"learning_rate": 1e-6},
    )
