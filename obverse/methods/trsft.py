"""SFT on tokens that the policy finds likely enough, and less of it on the others."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import AtLeast, ConstantOfAll, One, Request
from obverse.types import Source


def trsft(trust: float = 0.1, max_completion_length: int = 8192) -> Method:
    """TrSFT: SFT where a token's probability is above `trust`, below it in proportion to the probability.

    Paper     Trust-region SFT of TRAPO, https://arxiv.org/abs/2512.17636.
    Equation  J = (1/(L B)) sum_t f(p_t), f(p) = p / trust below trust, log(p / trust) + 1 above it.
    Estimator c_t = p_t / max(p_t, trust) / (L B): A = 1, no mask, pi_ref = max(p, trust).
    Paper writes  It bounds the pull of tokens that the policy hardly ever writes, to which SFT gives the largest
                  gradient by the probability; used on expert prefixes [abs].
    Code does     trust 0.1 is written into the loss (reshape "clip_low"), A = 1 whatever the verdict, sums over the
                  padded width without the number of sequences. A variant that is not used subtracts 0.5 [code].
    We do         The code's weight. The mean over the B sequences of the update is ours: the code's steps grow with the
                  sequences of a micro batch.
    Defaults  trust 0.1 [code]; learning_rate 1e-6 is that of TRAPO [code]; L 8192. In a run L is the run's own
              --max_completion_length.
    Pitfalls  Between dft (every token in proportion to p) and sft: a token below trust has at most p / trust of SFT's
              weight, so that a demonstration of unlikely tokens is learned slowly. Equal rewards do not give zero:
              rewards are not read. The sum over L makes long demonstrations count more.
    Authors' names  off_policy_reshape clip_low -> the method; its constant -> trust.
    Proven    authors' code: Su-my/TRAPO@982cb8f7e, the off-policy loss of mix_trainer.py, in float64.
    Options
        trust: probability above which a token counts as in SFT
    """
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, One(), AtLeast(trust), normalizer=ConstantOfAll(max_completion_length)),),
        run={"learning_rate": 1e-6},
    )
