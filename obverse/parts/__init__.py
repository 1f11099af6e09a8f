"""The named parts that methods are made of: advantages, references, gates, shares, plans, schedules."""

from obverse.parts.advantages import Centered, One, Standardized, TowardsAnchor
from obverse.parts.gates import Always, Clip
from obverse.parts.imitation import (
    AnchorRatio,
    Doubt,
    JensenShannon,
    Pearson,
    SequenceAnchorRatio,
    SquaredHellinger,
    Undecided,
    Unit,
)
from obverse.parts.part import Ask, Gate, Keep, Part, Share, Weight
from obverse.parts.plans import Everything, Request, SolvedGate
from obverse.parts.references import Behavior, Itself
from obverse.parts.schedules import Linear, Rest, WarmCosine
from obverse.parts.shares import Constant, PerSequence, PerToken
from obverse.parts.split import OwnCentered, OwnStandardized

__all__ = [
    "Always",
    "AnchorRatio",
    "Ask",
    "Behavior",
    "Centered",
    "Clip",
    "Constant",
    "Doubt",
    "Everything",
    "Gate",
    "Itself",
    "JensenShannon",
    "Keep",
    "Linear",
    "One",
    "OwnCentered",
    "OwnStandardized",
    "Part",
    "Pearson",
    "PerSequence",
    "PerToken",
    "Request",
    "Rest",
    "SequenceAnchorRatio",
    "Share",
    "SolvedGate",
    "SquaredHellinger",
    "Standardized",
    "TowardsAnchor",
    "Undecided",
    "Unit",
    "WarmCosine",
    "Weight",
]
