"""One loss for demonstrations, preferences and scores: the implicit reward is fitted to labels or scores."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import ConstantOfAll, ImplicitScore, Request
from obverse.types import Source


def una(
    beta: float = 0.01,
    loss: Literal["mse", "bce"] = "mse",
    data: Literal["demonstrations", "pairs", "both", "none"] = "both",
    num_generations: int | None = None,
) -> Method:
    """UNA (called UFT in its second paper): fit sigmoid(beta log(pi / pi_anchor)) of a response to its score.

    Paper     UFT: Unifying Fine-Tuning of SFT and RLHF/DPO/UNA, https://arxiv.org/abs/2410.21438, eq. 7; before it
              UNA, https://arxiv.org/abs/2408.15339. The name UFT belongs to another method here.
    Equation  L = (s - r)^2 (mse) or -r log s - (1 - r) log(1 - s) (bce), s = sigmoid(beta L_y),
              L_y = sum_t (log pi_theta - log pi_anchor), r in [0, 1]: 1 for demonstrations.
    Estimator c_t = 2 beta (r - s) s (1 - s) / S (mse) or beta (r - s) / S (bce) on every token, S = samples of the
              update: no mask, pi_ref = pi_theta, A bounded by beta.
    Paper writes  Demonstrations with score 1, scored responses with their score; a preference pair as in DPO, or as
                  binary feedback: chosen 1, rejected 0. The implicit reward's own offset is set to 0.
    Code does     One sample per batch and torch.sum, so a sum and no mean; a branch for each kind of sample. Online the
                  target is sigmoid of a reward model's score.
    We do         Chosen 1, rejected 0, demonstrations 1, own samples their reward clipped to [0, 1]; a mean over all
                  samples of the update, of whatever kind. Pairs with a difference are dpo. `data` selects what is taken
                  from the data set (a kind that it does not have is simply absent), num_generations adds own
                  samples.
    Defaults  beta 0.01, learning_rate 3e-5, mse [paper] (with LoRA; score data in the offline scripts 0.03 [code]).
              No own samples: the paper's main runs are offline.
    Pitfalls  Equal rewards do not give zero: there is no baseline, a sample is drawn to its own score. The pull ends
              where s reaches r, and with mse also where s is near the wrong end. With beta 0.01 s stays near 1/2
              while log-ratios are below some tens. A score of 1 for every demonstration takes the data for perfect.
    Authors' names  kl_coef (online script) -> beta; binary and score losses -> loss bce and mse.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        beta: scale of the implicit reward, beta times the log-ratio to the initial model
        loss: distance to the target score: squared error, or cross entropy
        data: samples that are taken from the data set
        num_generations: rollouts per problem, trained towards their reward; none: no rollouts
    """
    if data == "none" and num_generations is None:
        raise ConfigError('data="none" without num_generations leaves nothing to train on')
    has_demonstrations, has_pairs = data in ("demonstrations", "both"), data in ("pairs", "both")
    targets: dict[Source, float | None] = {}
    if has_demonstrations:
        targets[Source.DEMONSTRATION] = 1.0
    if has_pairs:
        targets |= {Source.CHOSEN: 1.0, Source.REJECTED: 0.0}
    if num_generations:
        targets[Source.ROLLOUT] = None
    return Method(
        ask=Request(rollouts=num_generations or 0, demonstrations=int(has_demonstrations), pairs=int(has_pairs)),
        terms=tuple(
            Term(source, ImplicitScore(beta, loss, target), normalizer=ConstantOfAll(1))
            for source, target in targets.items()
        ),
        run={"learning_rate": 3e-5},
    )
