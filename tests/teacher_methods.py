"""Methods with a teacher for tests: rollouts weighed by log pi_T - log mu, for any model and context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator import Method, Stage, Term, TrainingSchedule
from obverse.estimator.parts import Behavior, PerToken, Request
from obverse.estimator.parts.interfaces import Part
from obverse.estimator.schedule import InOrder
from obverse.estimator.teacher import Teacher
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

FILE = Path(__file__)
TAUGHT, IN_TWO_STAGES, MIXED = f"{FILE}:taught", f"{FILE}:in_two_stages", f"{FILE}:mixed"


@dataclass(frozen=True)
class TeacherGap(Part):
    """log pi_T - log mu of each token."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.tokens.teacher - inputs.tokens.behavior


def taught(who: str = "policy", sees: str = "prompt", rate: float = 0.5, num_generations: int = 3) -> Method:
    """A teacher scores rollouts; `sees` has contexts separated by plus signs.

    Options
        who: the teacher's model
        sees: what it reads
        rate: share of the policy in an average
        num_generations: rollouts per problem
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, TeacherGap(), Behavior(), normalizer=PerToken()),),
        teacher=Teacher(who, tuple(sees.split("+")), rate),  # type: ignore[arg-type]
        run={"learning_rate": 1e-3},
    )


def mixed(num_generations: int = 3) -> Method:
    """Imitates demonstrations, and weighs rollouts by a right sibling's teacher.

    Options
        num_generations: rollouts per problem
    """
    of_rollouts = taught("policy", "sibling", num_generations=num_generations)
    demonstrated = Term(Source.DEMONSTRATION, normalizer=PerToken())
    ask = Request(rollouts=num_generations, demonstrations=1)
    return replace(of_rollouts, ask=ask, terms=(*of_rollouts.terms, demonstrated))


def in_two_stages(who: str = "initial", sees: str = "prompt", num_generations: int = 3) -> TrainingSchedule:
    """Half of the run on demonstrations, then taught by a model of the second stage.

    Options
        who: the teacher's model
        sees: what it reads
        num_generations: rollouts per problem
    """
    shown = Method(ask=Request(demonstrations=1), terms=(Term(Source.DEMONSTRATION, normalizer=PerToken()),))
    return TrainingSchedule(
        (Stage(shown), Stage(taught(who, sees, 0.5, num_generations))), InOrder(0.5), {"learning_rate": 1e-3}
    )
