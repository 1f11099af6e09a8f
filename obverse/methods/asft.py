"""Anchored supervised fine-tuning: DFT with a KL to the initial model over the vocabulary."""

from obverse.estimator import Divergence, Method, Term
from obverse.estimator.parts import PerToken, Request, Unit
from obverse.types import Source


def asft(kl_weight: float = 0.1) -> Method:
    """ASFT: every token's loss times its own probability, while the distribution stays near the initial model's.

    Paper     Anchored Supervised Fine-Tuning, https://arxiv.org/abs/2509.23753 [abs].
    Equation  L = mean_t -sg(p_t) log p_t + kl_weight mean_t KL(pi_anchor(. | s_t) || pi(. | s_t)).
    Estimator c_t = p_t / N: pi_ref = 1, A = 1, no mask; and d_t = kl_weight / N weighs minus the KL over the
              vocabulary. By the logits: p_t (p - delta_y) + kl_weight (p - pi_anchor).
    Paper writes  A KL to the base model.
    Code does     The forward KL, the anchor's probabilities first, in the authors' code and in LLaMA-Factory; both
                  parts are means over a micro batch's tokens.
    We do         The code's forward KL; one token mean over the update.
    Defaults  kl_weight 0.1 (0.05 in the README's example; LLaMA-Factory asft_alpha 0.1), learning_rate 2e-5, 3 epochs:
              the authors' code [code], which has batches of 64 and 512 tokens.
    Pitfalls  Equal rewards do not give zero: rewards are not read. kl_weight 0 is dft. Compared with dft, each step has
              a forward pass of the anchor and its logits; with --use_peft the anchor is the model without adapters.
    Authors' names  kl_weight; LLaMA-Factory: asft_alpha -> kl_weight.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        kl_weight: weight of the forward KL from the initial model, over the vocabulary; 0 is off
    """
    if kl_weight < 0:
        raise ValueError(f"kl_weight must not be negative, not {kl_weight:g}")
    dft = Term(Source.DEMONSTRATION, reference=Unit(), normalizer=PerToken())
    kl = Term(Source.DEMONSTRATION, normalizer=PerToken(), weight=kl_weight, on="divergence")
    return Method(
        ask=Request(demonstrations=1),
        terms=(dft, kl) if kl_weight else (dft,),
        divergence=Divergence("anchor", beta=0.0) if kl_weight else None,
        run={"learning_rate": 2e-5, "num_train_epochs": 3.0},
    )
