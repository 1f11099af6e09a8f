"""Train on the first tokens of own samples, correct or not."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Itself, One, PerPrefixToken, Prefix, PrefixRequest
from obverse.types import Source


def upft(prefix_length: int = 8, whole_share: float = 0.1) -> Method:
    """UPFT: supervised fine-tuning on the first tokens of one own answer per problem, without labels.

    Paper     The First Few Tokens Are All You Need, https://arxiv.org/abs/2503.02875.
    Equation  L = -(1/N) sum over t <= t0 of log pi_theta(y_t), y ~ pi_initial; a share of the problems has all of y.
    Estimator c_t = 1[t <= t0] / N (1 / N for whole answers): the prefix as the mask, pi_ref = pi_theta, A = 1.
    Paper writes  Right and wrong answers begin alike (prefix self-consistency), so the beginning needs no verifier and
                  no second sample; whole answers keep the model from forgetting how they go on. Prefix problems carry
                  a template that asks for the first step only.
    Code does     Not read: none was found.
    We do         Which problems train whole answers is fixed by their own number, the same in every run. Prefixes are
                  sampled no further than t0. N counts the tokens that train, over the whole update. Prompts carry no
                  template of their own: both kinds of problems are asked alike.
    Defaults  prefix_length 8, the paper's for Llama-3.1-8B; 32 for Qwen2.5-Math-7B, 128 for
              R1-Distill-Qwen-7B. whole_share 0.1 (0.3 on LIMO); learning_rate 1e-6, 2e-6 on LIMO, constant after a
              warm-up of 3 %; 1 to 3 epochs [paper].
    Pitfalls  Uses no labels: equal rewards do not give zero, for neither rewards nor grades are read, and incorrect
              beginnings train like correct ones. It sharpens what the initial model does most and adds nothing new. The
              objective falls even if answers do not get better: watch the evaluation.
    Authors' names  t -> prefix_length, p -> whole_share.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        prefix_length: tokens at the beginning of an answer that train
        whole_share: share of the problems that train on the whole answer
    """
    prefix = Prefix(prefix_length, whole_share)
    return Method(
        ask=PrefixRequest(prefix_length, whole_share),
        terms=(Term(Source.ROLLOUT, One(), Itself(), prefix, normalizer=PerPrefixToken(prefix_length, whole_share)),),
        run={"learning_rate": 1e-6, "lr_scheduler_type": "constant_with_warmup"},
    )
