"""The named parts that methods are made of: advantages, references, gates, shares, plans, schedules."""

from obverse.parts.advantages import Centered, One, Standardized, TowardsAnchor
from obverse.parts.gates import Always, Clip
from obverse.parts.part import Ask, Gate, Keep, Part, Share, Weight
from obverse.parts.plans import Everything, Request, SolvedGate
from obverse.parts.references import Behavior, Itself
from obverse.parts.schedules import Linear
from obverse.parts.shares import Constant, PerSequence, PerToken

__all__ = [
    "Always",
    "Ask",
    "Behavior",
    "Centered",
    "Clip",
    "Constant",
    "Everything",
    "Gate",
    "Itself",
    "Keep",
    "Linear",
    "One",
    "Part",
    "PerSequence",
    "PerToken",
    "Request",
    "Share",
    "SolvedGate",
    "Standardized",
    "TowardsAnchor",
    "Weight",
]
