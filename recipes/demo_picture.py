"""Draw the results of a demo run: python recipes/demo_picture.py runs/demo-1 docs/demo.png

Left, held-out accuracy by difficulty before and after training; right, the reward on training problems over the tokens
spent. The file is a PNG (needs the extra `plots`) or an SVG, by its suffix.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from obverse.report.pictures import write_picture
from obverse.report.svg_chart import Chart, Series, side_by_side

COLORS = {"base": 6, "hpt": 0, "grpo": 1, "sft": 2}  # of svg_chart's palette
WINDOW = 8  # steps that one point of a curve averages


def smooth(values: list[float]) -> list[float]:
    """The running mean over the last WINDOW values."""
    return [sum(values[max(0, i - WINDOW + 1) : i + 1]) / min(i + 1, WINDOW) for i in range(len(values))]


def accuracy_chart(results: dict[str, dict[str, dict[str, float]]]) -> Chart:
    """Bars of pass@1 by difficulty, from `demo.json`: policy -> difficulty -> figures."""
    levels = [level for level in next(iter(results.values())) if level.isdigit()]
    numbers = tuple(float(number) for number in range(len(levels)))
    bars = tuple(
        Series(name, numbers, tuple(rows[level]["pass@1"] for level in levels), color=COLORS.get(name))
        for name, rows in results.items()
    )
    return Chart(
        "operations in the chain (the base was trained on up to 3)",
        "held-out problems solved",
        bars,
        kind="bars",
        categories=tuple(levels),
        percent=True,
        bounds=(0.0, 1.0),
    )


def reward_chart(root: Path, names: list[str]) -> Chart:
    """The mean reward of rollouts, over tokens, of every method that has metrics."""
    curves = []
    for name in names:
        path = root / name / "metrics.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().split("\n") if line]
            tokens = tuple(row["num_tokens"] for row in rows)
            rewards = smooth([row.get("reward", 0.0) for row in rows])
            curves.append(Series(name, tokens, tuple(rewards), color=COLORS.get(name)))
    return Chart("tokens, generated plus trained", "reward of rollouts", tuple(curves), bounds=(0.0, 1.0))


def draw(root: Path, target: Path) -> None:
    """Write the picture of the demo run in `root` to `target`."""
    results = json.loads((root / "demo.json").read_text())
    accuracy = (accuracy_chart(results), "Held-out accuracy by difficulty")
    reward = (reward_chart(root, list(results)), "Reward over tokens")
    write_picture(side_by_side([accuracy, reward], columns=2), target)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
