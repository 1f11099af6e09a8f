"""Generalized knowledge distillation: a divergence from the teacher on own samples and demonstrations."""

from obverse.estimator import Divergence, Method, Teacher, Term
from obverse.estimator.parts import OwnOrDemonstrated, PerToken
from obverse.types import Source


def gkd(
    num_generations: int = 1,
    beta: float = 0.5,
    lmbda: float = 0.5,
    seed: int = 42,
) -> Method:
    """GKD: the policy's distribution moves towards the teacher's, on own samples and on demonstrations.

    Paper     On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes,
              https://arxiv.org/abs/2306.13649, eq. 1 and algorithm 1.
    Equation  L = mean_t D(pi_T(. | s_t), pi(. | s_t)); D = beta KL(pi_T || m) + (1 - beta) KL(pi || m),
              m = beta pi_T + (1 - beta) pi; beta 0 := KL(pi_T || pi), beta 1 := KL(pi || pi_T).
    Estimator d_t = 1 / N weighs minus D, a stream over the vocabulary; N counts the update's tokens of both kinds. No
              term multiplies log pi(y_t).
    Paper writes  With probability lambda a batch is sampled from the policy, else taken from the data; samples carry no
                  gradient.
    Code does     TRL: the same, with one draw per batch, or the teacher's text in place of the data (seq_kd); the
                  sampling temperature 0.9 divides the logits of both models, and D is not multiplied by its square.
    We do         One draw per problem and step, by seed, problem and progress, so that the expected share is lmbda and
                  every step has both kinds. A problem without a demonstration always has rollouts. Logits of rollouts
                  are divided by the sampling temperature, those of demonstrations are not. seq_kd is not offered: write
                  the teacher's text into the data.
    Defaults  beta 0.5, lmbda 0.5, temperature 0.9: TRL 1.16 [code]; one sample per problem; learning_rate 2e-5 as in
              TRL's SFTConfig [mem].
    Pitfalls  Equal rewards do not give zero: nothing is graded. D is 0 in both limits of the printed formula: beta 0.01
              is a small step, and beta 0 the forward KL. The teacher's logits have the size of the policy's. The
              teacher needs the same tokenizer. lmbda 1 and beta 1 minimize the objective of opd with less variance.
    Authors' names  lambda -> lmbda, as in TRL; the others have their names.
    Proven    literal objective: values and gradients of the divergence as TRL's formula gives them.
    Options
        num_generations: rollouts per problem, where it has any
        beta: 0 is the forward KL from the teacher, 1 the reverse KL, between them Jensen-Shannon
        lmbda: expected share of problems that train on rollouts; the others train on their demonstration
    """
    normalizer = PerToken((Source.ROLLOUT, Source.DEMONSTRATION))
    return Method(
        ask=OwnOrDemonstrated(num_generations, lmbda, seed),
        terms=tuple(
            Term(source, normalizer=normalizer, on="divergence") for source in (Source.ROLLOUT, Source.DEMONSTRATION)
        ),
        teacher=Teacher("model", "prompt"),
        divergence=Divergence("teacher", beta),
        run={"learning_rate": 2e-5, "temperature": 0.9},
    )
