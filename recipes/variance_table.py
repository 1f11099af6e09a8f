"""Update the table of docs/analyze.md after a change of a method: python recipes/variance_table.py (minutes)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from obverse.analysis.variance import variance
from obverse.config.analyze import VarianceConfig

PAGE = Path(__file__).parents[1] / "docs" / "analyze.md"
METHODS = "sft,dft,reinforce,rloo,grpo,dr_grpo,nft,raft,hpt,luffy,srft,uft,prefix_rft"
BLOCK = re.compile(r"(<!-- variance -->\n).*?(<!-- end -->)", re.DOTALL)


def main(page: Path = PAGE) -> None:
    table = variance(VarianceConfig(methods=METHODS)).markdown()
    text, num = BLOCK.subn(lambda match: f"{match[1]}{table}\n{match[2]}", page.read_text(encoding="utf-8"))
    if num != 1:
        sys.exit(f"{page}: expects one block between <!-- variance --> and <!-- end -->")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
