"""Published results as expected differences between entries of the committed comparison.

The list was written before the comparison was run, and no entry was removed afterwards: which method is above which, on
which test, and the paper that reports it.
"""

from __future__ import annotations

from typing import NamedTuple

from obverse.comparison.plan import BASE, Plan
from obverse.comparison.standings import INSIDE, difference
from obverse.evaluation.bootstrap import Difference

HPT, LUFFY, UFT, CORRECTED = "2509.04419", "2504.14945", "2505.16984", "2604.23747"
OFF_POLICY, MIXED = "hpt-failed-off_policy", "hpt-failed-mixed"
LONGER, COUNTDOWN = "ood-longer", "ood-countdown"


class Shape(NamedTuple):
    """`first` above `second` on a test, at pass@k; `k` is an index into the comparison's values of k."""

    claim: str
    source: str
    first: str
    second: str
    test: str = INSIDE
    k: int = 0


SHAPES = (
    Shape("HPT above SFT", HPT, "hpt", "sft"),
    Shape("HPT above GRPO", HPT, "hpt", "grpo"),
    Shape("HPT above SFT, then RL", HPT, "hpt", "sft_then_rl"),
    Shape("HPT above LUFFY", HPT, "hpt", "luffy"),
    Shape("gate 0 above gate 1", HPT, "hpt", "hpt-gate-1"),
    Shape("gate 0 above gate 2", HPT, "hpt", "hpt-gate-2"),
    Shape("SFT on failed problems above off-policy RL on them", HPT, "hpt", OFF_POLICY),
    Shape("SFT on failed problems above both on them", HPT, "hpt", MIXED),
    Shape("both on failed problems above off-policy RL alone", HPT, MIXED, OFF_POLICY),
    Shape("SFT memorizes more than HPT", HPT, "sft", "hpt", "seen"),
    Shape("SFT memorizes more than GRPO", HPT, "sft", "grpo", "seen"),
    Shape("GRPO above SFT out of distribution", HPT, "grpo", "sft", COUNTDOWN),
    Shape("HPT above SFT out of distribution", HPT, "hpt", "sft", COUNTDOWN),
    Shape("HPT above SFT on longer chains", HPT, "hpt", "sft", LONGER),
    Shape("HPT above GRPO on longer chains", HPT, "hpt", "grpo", LONGER),
    Shape("HPT above GRPO in pass@k at the larger k, hard", HPT, "hpt", "grpo", "hard", 1),
    Shape("GRPO above the base in pass@k at the larger k, hard", HPT, "grpo", BASE, "hard", 1),
    Shape("LUFFY above GRPO", LUFFY, "luffy", "grpo"),
    Shape("LUFFY above SFT", LUFFY, "luffy", "sft"),
    Shape("SRFT above LUFFY", "2506.19767", "srft", "luffy"),
    Shape("UFT above GRPO where the base never succeeds", UFT, "uft", "grpo", "hard"),
    Shape("UFT above SFT", UFT, "uft", "sft"),
    Shape("Prefix-RFT above LUFFY", "2507.01679", "prefix_rft", "luffy"),
    Shape("ReLIFT above GRPO", "2506.07527", "relift-num_waiting-16", "grpo"),
    Shape("DFT above SFT", "2508.05629", "dft", "sft"),
    Shape("DFT above SFT out of distribution", "2508.05629", "dft", "sft", COUNTDOWN),
    Shape("SFT, then RL above HPT, once SFT is right", CORRECTED, "sft_then_rl", "hpt"),
    Shape("SFT, then RL above LUFFY, once SFT is right", CORRECTED, "sft_then_rl", "luffy"),
)


def table(plan: Plan) -> str:
    """Every expected difference between entries of the comparison, at the last and the best step, as Markdown."""
    names = {BASE, *(entry.name for entry in plan.entries)}
    lines = ["| published | source | where | last step | best step | here |", "|---|---|---|---|---|---|"]
    for shape in SHAPES:
        if {shape.first, shape.second} <= names:
            k = plan.config.k[min(shape.k, len(plan.config.k) - 1)]
            last, best = (difference(plan, shape.first, shape.second, step, shape.test, k) for step in ("last", "best"))
            cells = [
                shape.claim,
                shape.source,
                f"{shape.test}, pass@{k}",
                points(last),
                points(best),
                outcome(last, best),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def points(change: Difference) -> str:
    mean, low, high = (
        round(100 * max(-1.0, min(1.0, value)), 1) + 0.0 for value in (change.mean, change.low, change.high)
    )
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def outcome(last: Difference, best: Difference) -> str:
    """The outcome at both steps, in one word if it is the same."""
    outcomes = ["not distinguishable" if not change.distinguishable else "yes" if change.mean > 0 else "reversed"
             for change in (last, best)]  # fmt: skip
    return outcomes[0] if outcomes[0] == outcomes[1] else f"{outcomes[0]}; best step: {outcomes[1]}"
