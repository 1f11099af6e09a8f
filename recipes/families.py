"""Methods of each family at equal budget, beside SFT, GRPO and HPT.

    python -m recipes.families     # data, comparison, its table in docs/results.md; goes on after a stop

The setting is that of recipes/science.py with a quarter of its budget. A problem with a demonstration also has a pair:
the demonstration is the chosen response, the same text with a wrong result the rejected one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from obverse.comparison.export import markdown
from obverse.comparison.standings import standings
from recipes.science import OPTIONS as SCIENCE
from recipes.science import PAGE, arguments, between, run

METHODS = ("sft", "grpo", "hpt", "trsft", "maxrl", "clip_cov", "trapo", "exgrpo", "simpo")
OPTIONS: dict[str, Any] = {**SCIENCE, "methods": METHODS, "baselines": ("sft", "grpo", "hpt"), "budget": 100_000}


def main() -> int:
    options = arguments("families")
    page = Path(options.pop("page"))
    code, plan = run(options, OPTIONS, with_pair)
    if code == 0 and page == PAGE:
        text = page.read_text(encoding="utf-8")
        table = markdown(standings(plan), links=False, sentences=False)
        page.write_text(between(text, "families", table), encoding="utf-8")
        print(f"{page}: the table of families")
    return code


def with_pair(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a chosen and a rejected response, if it has a demonstration."""
    if "demonstration" not in row:
        return row
    chosen, answer = "".join(row["demonstration"]), str(row["answer"])
    head, found, tail = chosen.rpartition(answer)
    if not found:
        raise ValueError(f"{row['id']}: the demonstration {json.dumps(chosen)} does not end in the answer {answer}")
    return row | {"chosen": chosen, "rejected": f"{head}{int(answer) + 1}{tail}"}


if __name__ == "__main__":
    sys.exit(main())
