"""Draw what a demo run found: python recipes/demo_picture.py runs/demo-1 docs/demo.png

Left, held-out accuracy by difficulty before and after; right, the reward on training problems over the tokens spent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLORS = {"base": "#9aa0a6", "hpt": "#1a73e8", "grpo": "#e8710a", "sft": "#188038"}
WINDOW = 8  # steps that one point of a curve averages


def smooth(values: list[float]) -> list[float]:
    """The mean over the last WINDOW values at each place."""
    return [sum(values[max(0, i - WINDOW + 1) : i + 1]) / min(i + 1, WINDOW) for i in range(len(values))]


def draw(root: Path, target: Path) -> None:
    found = json.loads((root / "demo.json").read_text())
    levels = [level for level in next(iter(found.values())) if level.isdigit()]
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(3, 2))
    width = 0.8 / len(found)
    for index, (name, rows) in enumerate(found.items()):
        places = [i + (index - (len(found) - 1) / 2) * width for i in range(len(levels))]
        heights = [100 * rows[level]["pass@1"] for level in levels]
        bars.bar(places, heights, width, label=name, color=COLORS.get(name))
    bars.set_xticks(range(len(levels)), levels)
    bars.set_xlabel("operations in the chain (the base has read up to 3)")
    bars.set_ylabel("held-out problems solved, %")
    bars.set_ylim(0, 100)
    bars.legend(frameon=False)
    for name in found:
        path = root / name / "metrics.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().split("\n") if line]
            tokens = [row["num_tokens"] / 1e6 for row in rows]
            curves.plot(tokens, smooth([row.get("reward", 0.0) for row in rows]), label=name, color=COLORS.get(name))
    curves.set_xlabel("million tokens, generated plus trained")
    curves.set_ylabel("reward of own samples")
    curves.set_ylim(0, 1)
    for axes in (bars, curves):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
