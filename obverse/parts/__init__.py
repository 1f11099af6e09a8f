"""The named parts that methods are made of: advantages, references, gates, shares, plans, schedules."""

from obverse.parts.advantages import Centered, One, Standardized, TowardsAnchor
from obverse.parts.gates import Always, Clip
from obverse.parts.hints import (
    AgainstUnhinted,
    BinomialHint,
    ConstantOfAll,
    DoubleClip,
    OneHinted,
    StagedHint,
    TornHint,
    UniformHint,
)
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
from obverse.parts.shapings import (
    Confident,
    Logarithm,
    Power,
    Saturating,
    Signed,
)
from obverse.parts.shares import Constant, PerSequence, PerToken
from obverse.parts.split import OwnCentered, OwnStandardized

__all__ = [
    "AgainstUnhinted",
    "Always",
    "AnchorRatio",
    "Ask",
    "Behavior",
    "BinomialHint",
    "Centered",
    "Clip",
    "Confident",
    "Constant",
    "ConstantOfAll",
    "DoubleClip",
    "Doubt",
    "Everything",
    "Gate",
    "Itself",
    "JensenShannon",
    "Keep",
    "Linear",
    "Logarithm",
    "One",
    "OneHinted",
    "OwnCentered",
    "OwnStandardized",
    "Part",
    "Pearson",
    "PerSequence",
    "PerToken",
    "Power",
    "Request",
    "Rest",
    "Saturating",
    "SequenceAnchorRatio",
    "Share",
    "Signed",
    "SolvedGate",
    "SquaredHellinger",
    "StagedHint",
    "Standardized",
    "TornHint",
    "TowardsAnchor",
    "Undecided",
    "UniformHint",
    "Unit",
    "WarmCosine",
    "Weight",
]
