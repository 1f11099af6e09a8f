"""Update the tables of docs/analyze.md after a change of a method: python recipes/variance_table.py (minutes).

With `distillation` as its argument it updates the table of methods with a teacher only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from obverse import methods
from obverse.analysis.enumerable_policy import policies_at
from obverse.analysis.variance import Variance, estimators_of, variance
from obverse.config.analyze import VarianceConfig
from obverse.estimator.schedule import as_schedule

PAGE = Path(__file__).parents[1] / "docs" / "analyze.md"
METHODS = "sft,dft,reinforce,rloo,grpo,dr_grpo,nft,raft,hpt,luffy,srft,uft,prefix_rft"
# Sampled tokens beside the whole vocabulary; the options of each method by its label.
DISTILLATION = {
    "opd": {},
    "gkd, beta 1, lmbda 1": {"beta": 1.0, "lmbda": 1.0},
    "sdft": {},
    "sdft, full_logits, alpha 1": {"distillation_mode": "full_logits", "distillation_alpha": 1.0},
    "sdpo": {},
}
NUM_GENERATIONS = 4


def distillation() -> str:
    """The table of methods with a teacher, each beside the gradient of the success and of the reverse KL."""
    config = VarianceConfig()
    policies = policies_at(config.rates, config.seed)
    estimators = []
    for label, options in DISTILLATION.items():
        built = methods.build(label.partition(",")[0], {"num_generations": NUM_GENERATIONS, **options})
        (method,) = as_schedule(built).methods
        estimators += estimators_of(label, 0, method, policies, config.seed)
    return Variance(NUM_GENERATIONS, config.seed, [float(p.success()) for p in policies], [], estimators, {}).markdown()


def write_block(name: str, table: str, page: Path) -> None:
    """Write a table into the block <!-- NAME --> of a page."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, num = block.subn(lambda match: f"{match[1]}{table}\n{match[2]}", page.read_text(encoding="utf-8"))
    if num != 1:
        sys.exit(f"{page}: expects one block between <!-- {name} --> and <!-- end -->")
    page.write_text(text, encoding="utf-8")


def main(page: Path = PAGE, only: str = "") -> None:
    if not only:
        write_block("variance", variance(VarianceConfig(methods=METHODS)).markdown(), page)
    write_block("distillation", distillation(), page)


if __name__ == "__main__":
    main(only="".join(sys.argv[1:]))
