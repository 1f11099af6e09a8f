"""The estimator: a method is a sum of terms, each of which gives every trained token one coefficient. No torch import.

What a method's author needs: `Method`, `Term`, the module `parts`, `Teacher` and `Divergence`, and `TrainingSchedule`
with `Stage` and a selector.
"""

from obverse.estimator import parts
from obverse.estimator.divergence import Divergence
from obverse.estimator.formula import Term, entropy_bonus
from obverse.estimator.method import Method
from obverse.estimator.schedule import InOrder, InTurns, Stage, TrainingSchedule, UntilPlateau, WhenWaiting
from obverse.estimator.teacher import Taught, Teacher

__all__ = [
    "Divergence",
    "InOrder",
    "InTurns",
    "Method",
    "Stage",
    "Taught",
    "Teacher",
    "Term",
    "TrainingSchedule",
    "UntilPlateau",
    "WhenWaiting",
    "entropy_bonus",
    "parts",
]
