"""The theorem of UFT as an experiment: explorations until a tree of branching B and horizon H is solved, against H.

    python recipes/tree.py        # docs/tree.json, docs/tree.png; a few minutes on one core

One leaf of B^H is correct, and one demonstration leads to it. The policy has B logits per node, all 0 at first.
Requests, selection and coefficients are those of obverse's methods, as `obverse weigh` computes them. A step adds
rate x c x grad log pi to the logits. Explorations are sampled paths, including continuations of hints; for a method
without rollouts, every use of the demonstration counts as one.

UFT (https://arxiv.org/abs/2505.16984) proves that RL needs at least B^H / 4 explorations if rewards are at leaves only,
and UFT polynomially many, O(B H^5 (log B)^2 / gap^2).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from obverse.analysis.step_coefficients import coefficients, keep
from obverse.analysis.step_file import COLUMNS, Row
from obverse.estimator.schedule import only
from obverse.methods import build
from obverse.report.pictures import write_picture
from obverse.report.svg_chart import NUM_COLORS, Chart, Series, standalone
from obverse.types import GenerationRequest, GradeResult, Kind, ModelInput, Problem, Sample, Source

BRANCHING = 3
HORIZONS = (1, 2, 3, 4, 5, 6, 7)
MOST = 4  # a method is given up after this many times B^H explorations
SUCCESS = 0.5  # success probability of the policy without a hint, an exact product
RATES = (3.0, 10.0, 30.0)
SEEDS = tuple(range(15))  # the number of explorations until the first success is geometric, so few seeds say little
SHORTEST = 2**4  # length of the shortest run; each next run is twice as long
METHODS: dict[str, dict[str, Any]] = {
    "hpt": {"num_generations": 8, "entropy_coef": 0.0, "rl_coef": 20.0},
    "uft": {"num_generations": 8, "entropy_coef": 0.0},
    "prefix_rft": {"num_generations": 8, "entropy_coef": 0.0},
    "sft": {},
    "grpo": {"num_generations": 8, "beta": 0.0},
}
OF_LENGTH = ("hpt", "prefix_rft")  # have the option max_completion_length, which is H here
OF_SEED = ("uft", "prefix_rft")  # have the option seed, for their hints

Node = tuple[int, ...]


class TreePath(NamedTuple):
    """A path down the tree; the first `num_hint` turns were given as a hint."""

    turns: Node
    num_hint: int = 0


class Tree:
    """A tabular softmax policy; nodes without an update are uniform."""

    def __init__(self, branching: int, horizon: int, seed: int) -> None:
        self.branching, self.horizon = branching, horizon
        self.rng = random.Random(seed)
        self.target: Node = tuple(self.rng.randrange(branching) for _ in range(horizon))
        self.logits: dict[Node, list[float]] = defaultdict(lambda: [0.0] * branching)

    def probabilities(self, node: Node) -> list[float]:
        if node not in self.logits:
            return [1 / self.branching] * self.branching
        top = max(self.logits[node])
        weights = [math.exp(logit - top) for logit in self.logits[node]]
        return [weight / sum(weights) for weight in weights]

    def success(self) -> float:
        """The probability that a path without a hint ends at the correct leaf."""
        return math.prod(self.probabilities(self.target[:i])[turn] for i, turn in enumerate(self.target))

    def walk(self, num_hint: int) -> TreePath:
        turns = self.target[:num_hint]
        while len(turns) < self.horizon:
            turns += tuple(self.rng.choices(range(self.branching), self.probabilities(turns)))
        return TreePath(turns, num_hint)

    def climb(self, paths: list[tuple[TreePath, list[float]]], rate: float) -> None:
        """One gradient step: every coefficient times the gradient of its turn's log-probability, all at once."""
        change: dict[Node, list[float]] = defaultdict(lambda: [0.0] * self.branching)
        for path, factors in paths:
            for i, (turn, factor) in enumerate(zip(path.turns, factors, strict=True)):
                if factor:
                    node = path.turns[:i]
                    for candidate, chance in enumerate(self.probabilities(node)):
                        change[node][candidate] += rate * factor * ((candidate == turn) - chance)
        for node, gradient in change.items():
            self.logits[node] = [logit + slope for logit, slope in zip(self.logits[node], gradient, strict=True)]


def as_row(tree: Tree, path: TreePath, kind: Kind) -> Row:
    """A path as a sample of an update, with the columns that methods read."""
    chances = [tree.probabilities(path.turns[:i]) for i in range(tree.horizon)]
    logps = [math.log(probabilities[turn]) for probabilities, turn in zip(chances, path.turns, strict=True)]
    source = Source.DEMONSTRATION if kind == "demonstration" else Source.ROLLOUT
    is_right = path.turns == tree.target
    sample = Sample(
        kind,
        prompt=ModelInput((0,)),
        ids=list(path.turns),
        sources=[Source.HINT] * path.num_hint + [source] * (tree.horizon - path.num_hint),
        behavior=logps,
        text="",
        grade=GradeResult(is_right, float(is_right)),
    )
    columns: dict[str, list[float | None] | None] = dict.fromkeys(COLUMNS)
    columns["behavior"] = list(logps)
    columns["anchor"] = [-math.log(tree.branching)] * tree.horizon
    columns["entropy"] = [
        -sum(chance * math.log(chance) for chance in probabilities if chance > 0) for probabilities in chances
    ]
    return Row(kind, "tree", sample, True, None, logps, columns)


def requested_paths(tree: Tree, requests: list[GenerationRequest]) -> list[tuple[TreePath, Kind]]:
    """The paths of a method's requests: demonstrations, and sampled paths with or without a hint."""
    paths: list[tuple[TreePath, Kind]] = []
    for request in requests:
        paths += [(TreePath(tree.target), "demonstration")] * request.demonstrations
        in_tokens = min(int(request.hint * tree.horizon), tree.horizon - 1)
        num_hint = in_tokens if request.hint_in == "tokens" else round(request.hint * tree.horizon)
        paths += [(tree.walk(num_hint), "hinted" if num_hint else "rollout") for _ in range(request.rollouts)]
    return paths


def explore(name: str, branching: int, horizon: int, rate: float, seed: int, length: int) -> int | None:
    """The explorations until the success rate is reached, in a run of at most `length`; None if it is not reached."""
    tree, options = Tree(branching, horizon, seed), dict(METHODS[name])
    options |= {"max_completion_length": horizon} if name in OF_LENGTH else {}
    options |= {"seed": seed} if name in OF_SEED else {}
    method = only(build(name, options))
    problem = Problem("tree", "", demonstration=tuple(map(str, tree.target)))
    spent = 0
    while tree.success() < SUCCESS:
        if spent >= length:
            return None
        paths = requested_paths(tree, method.ask(problem, spent / length))
        rows = [as_row(tree, path, kind) for path, kind in paths]
        selected = keep(method, rows)
        trained = [row for row in rows if id(row.sample) in selected]
        by_sample = coefficients(method, trained, spent / length, selected)
        zeros = [0.0] * horizon
        tree.climb([(path, by_sample[id(row.sample)].logp if id(row.sample) in by_sample else zeros)
                    for (path, _), row in zip(paths, rows, strict=True)], rate)  # fmt: skip
        spent += sum(kind != "demonstration" for _, kind in paths) or len(paths)
    return spent


def shortest(name: str, branching: int, horizon: int, rate: float, most: float) -> float | None:
    """The median over seeds in the shortest run, of doubling lengths, in which most seeds reach it; None if none."""
    length = SHORTEST
    while length <= max(most, SHORTEST):
        explorations = [explore(name, branching, horizon, rate, seed, length) for seed in SEEDS]
        if sum(num is not None for num in explorations) > len(SEEDS) / 2:
            return median([math.inf if num is None else num for num in explorations])
        length *= 2
    return None


def best(name: str, branching: int, horizon: int) -> dict[str, float] | None:
    """The fewest explorations of all rates, and the rate; a rate is given up once it cannot be better."""
    fewest: dict[str, float] | None = None
    for rate in RATES:
        most = 2 * fewest["explorations"] if fewest else MOST * branching**horizon
        explorations = shortest(name, branching, horizon, rate, most)
        if explorations is not None and (fewest is None or explorations < fewest["explorations"]):
            fewest = {"explorations": explorations, "rate": rate}
    return fewest


def draw(results: dict[str, Any], target: Path) -> None:
    """Explorations against H, as powers of ten, with both bounds of the theorem; `target` is a PNG or an SVG file."""
    b, methods = results["branching"], results["explorations"]
    horizons = [int(text) for text in next(iter(methods.values()))]
    bounds = {
        "B^H / 4, lower bound of RL": [b**h / 4 for h in horizons],
        "B H^5 (log B)^2, growth of UFT's bound": [b * h**5 * math.log(b) ** 2 for h in horizons],
    }
    curves = []
    for name, cells in methods.items():
        points = [(float(h), math.log10(cell["explorations"])) for h, cell in cells.items() if cell]
        curves.append(Series(name, tuple(x for x, _ in points), tuple(y for _, y in points), marks=True))
    for number, (name, values) in enumerate(bounds.items()):
        color = 6 + NUM_COLORS * (number + 1) % (2 * NUM_COLORS)  # gray, the first one dashed
        curves.append(Series(name, tuple(map(float, horizons)), tuple(map(math.log10, values)), color=color))
    success = f"success >= {results['success']:g}"
    chart = Chart(f"horizon H of a tree of branching {b}", f"log10 of the explorations until {success}", tuple(curves))
    write_picture(standalone(chart, "Explorations against the horizon"), target)


def as_table(results: dict[str, Any]) -> str:
    """The results as Markdown: explorations, and the rate in brackets."""
    horizons = list(next(iter(results["explorations"].values())))
    lines = [f"| H | {' | '.join(horizons)} |", "|---" * (len(horizons) + 1) + "|"]
    lines.append(f"| B^H | {' | '.join(str(results['branching'] ** int(h)) for h in horizons)} |")
    for name, cells in results["explorations"].items():
        texts = [f"{cell['explorations']:g} ({cell['rate']:g})" if cell else "not reached" for cell in cells.values()]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", default=str(Path(__file__).parents[1] / "docs" / "tree"))
    parser.add_argument("--horizons", default=",".join(map(str, HORIZONS)))
    parsed = parser.parse_args()
    horizons = parsed.horizons.split(",")
    about = {"branching": BRANCHING, "success": SUCCESS, "rates": list(RATES), "num_seeds": len(SEEDS), "most": MOST}
    target = Path(f"{parsed.output}.json")
    stored = json.loads(target.read_text()) if target.exists() else {}
    stored_results = stored.pop("explorations", {}) if {name: stored.get(name) for name in about} == about else {}
    table: dict[str, dict[str, dict[str, float] | None]] = {}
    for name in METHODS:
        table[name] = {}
        for horizon in horizons:
            result = stored_results.get(name, {}).get(horizon, "unknown")  # results of an earlier run are kept
            table[name][horizon] = best(name, BRANCHING, int(horizon)) if result == "unknown" else result
            print(name, horizon, table[name][horizon], flush=True)
            text = json.dumps({**about, "explorations": stored_results | table}, indent=1)
            target.write_text(text + "\n")
    draw(json.loads(text), Path(f"{parsed.output}.png"))
    print(as_table(json.loads(text)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
