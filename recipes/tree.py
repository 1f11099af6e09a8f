"""The theorem of UFT as an experiment: explorations until a tree of branching B and horizon H is solved, against H.

    python recipes/tree.py        # docs/tree.json, docs/tree.png; a few minutes on one core

One leaf of B^H is right, and one demonstration leads to it. The policy is a table: B logits per node, uniform at first.
What it learns from, and how much, is decided by obverse's own methods: their `ask`, their `keep`, and the coefficient
of every token as `obverse weigh` gives it. A step adds rate x c x grad log pi to the logits. Explorations are sampled
paths, continuations of hints included; of a method that only imitates, each showing of the demonstration counts as one.

UFT (https://arxiv.org/abs/2505.16984) proves that RL needs at least B^H / 4 of them where rewards stand at leaves only,
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

from obverse.cli.coefficients import coefficients, keep
from obverse.cli.step_file import COLUMNS, Row
from obverse.estimator.schedule import only
from obverse.methods import build
from obverse.report.pictures import write_picture
from obverse.report.svg_chart import NUM_COLORS, Chart, Series, standalone
from obverse.types import GenerationRequest, GradeResult, Kind, ModelInput, Problem, Sample, Source

BRANCHING = 3
HORIZONS = (1, 2, 3, 4, 5, 6, 7)
MOST = 4  # a method that is not there after so many times B^H explorations is given up
SUCCESS = 0.5  # of the policy alone, without a hint: an exact product of probabilities
RATES = (3.0, 10.0, 30.0)
SEEDS = tuple(range(15))  # when luck is found is geometric: few seeds tell little
SHORTEST = 2**4  # of the runs that are tried, each twice as long as the one before
METHODS: dict[str, dict[str, Any]] = {
    "hpt": {"num_generations": 8, "entropy_coef": 0.0, "rl_coef": 20.0},
    "uft": {"num_generations": 8, "entropy_coef": 0.0},
    "prefix_rft": {"num_generations": 8, "entropy_coef": 0.0},
    "sft": {},
    "grpo": {"num_generations": 8, "beta": 0.0},
}
OF_LENGTH = ("hpt", "prefix_rft")  # divide by the longest completion, which is H here
OF_SEED = ("uft", "prefix_rft")  # draw their hints by the run's seed

Node = tuple[int, ...]


class Way(NamedTuple):
    """A way down the tree; the first `num_hint` turns were given."""

    turns: Node
    num_hint: int = 0


class Tree:
    """A tabular softmax policy; nodes that nobody has visited are uniform."""

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
        """The chance that a path without a hint ends at the right leaf."""
        return math.prod(self.probabilities(self.target[:i])[turn] for i, turn in enumerate(self.target))

    def walk(self, num_hint: int) -> Way:
        turns = self.target[:num_hint]
        while len(turns) < self.horizon:
            turns += tuple(self.rng.choices(range(self.branching), self.probabilities(turns)))
        return Way(turns, num_hint)

    def climb(self, ways: list[tuple[Way, list[float]]], rate: float) -> None:
        """One gradient step: every coefficient times the gradient of its turn's log-probability, all at once."""
        change: dict[Node, list[float]] = defaultdict(lambda: [0.0] * self.branching)
        for way, each in ways:
            for i, (turn, coefficient) in enumerate(zip(way.turns, each, strict=True)):
                if coefficient:
                    node = way.turns[:i]
                    for other, chance in enumerate(self.probabilities(node)):
                        change[node][other] += rate * coefficient * ((other == turn) - chance)
        for node, by in change.items():
            self.logits[node] = [logit + each for logit, each in zip(self.logits[node], by, strict=True)]


def as_row(tree: Tree, way: Way, kind: Kind) -> Row:
    """A way as a sample of an update: what a method may read of it."""
    chances = [tree.probabilities(way.turns[:i]) for i in range(tree.horizon)]
    logps = [math.log(each[turn]) for each, turn in zip(chances, way.turns, strict=True)]
    own = Source.DEMONSTRATION if kind == "demonstration" else Source.ROLLOUT
    is_right = way.turns == tree.target
    sample = Sample(
        kind,
        prompt=ModelInput((0,)),
        ids=list(way.turns),
        sources=[Source.HINT] * way.num_hint + [own] * (tree.horizon - way.num_hint),
        behavior=logps,
        text="",
        grade=GradeResult(is_right, float(is_right)),
    )
    columns: dict[str, list[float | None] | None] = dict.fromkeys(COLUMNS)
    columns["behavior"] = list(logps)
    columns["anchor"] = [-math.log(tree.branching)] * tree.horizon
    columns["entropy"] = [-sum(chance * math.log(chance) for chance in each if chance > 0) for each in chances]
    return Row(kind, "tree", sample, True, None, logps, columns)


def asked(tree: Tree, requests: list[GenerationRequest]) -> list[tuple[Way, Kind]]:
    """What a method asks for at the root: demonstrations, and ways of its own with or without a hint."""
    ways: list[tuple[Way, Kind]] = []
    for request in requests:
        ways += [(Way(tree.target), "demonstration")] * request.demonstrations
        in_tokens = min(int(request.hint * tree.horizon), tree.horizon - 1)
        num_hint = in_tokens if request.hint_in == "tokens" else round(request.hint * tree.horizon)
        ways += [(tree.walk(num_hint), "hinted" if num_hint else "rollout") for _ in range(request.rollouts)]
    return ways


def explore(name: str, branching: int, horizon: int, rate: float, seed: int, length: int) -> int | None:
    """Explorations until the success rate is reached, in a run of at most `length`; None if it is not."""
    tree, options = Tree(branching, horizon, seed), dict(METHODS[name])
    options |= {"max_completion_length": horizon} if name in OF_LENGTH else {}
    options |= {"seed": seed} if name in OF_SEED else {}
    method = only(build(name, options))
    problem = Problem("tree", "", demonstration=tuple(map(str, tree.target)))
    spent = 0
    while tree.success() < SUCCESS:
        if spent >= length:
            return None
        ways = asked(tree, method.ask(problem, spent / length))
        rows = [as_row(tree, way, kind) for way, kind in ways]
        kept = keep(method, rows)
        trained = [row for row in rows if id(row.sample) in kept]
        found = coefficients(method, trained, spent / length, kept)
        zeros = [0.0] * horizon
        tree.climb([(way, found[id(row.sample)].logp if id(row.sample) in found else zeros)
                    for (way, _), row in zip(ways, rows, strict=True)], rate)  # fmt: skip
        spent += sum(kind != "demonstration" for _, kind in ways) or len(ways)
    return spent


def shortest(name: str, branching: int, horizon: int, rate: float, most: float) -> float | None:
    """The median over seeds in the shortest run, of doubling lengths, in which most seeds get there; None if none."""
    length = SHORTEST
    while length <= max(most, SHORTEST):
        found = [explore(name, branching, horizon, rate, seed, length) for seed in SEEDS]
        if sum(each is not None for each in found) > len(SEEDS) / 2:
            return median([math.inf if each is None else each for each in found])
        length *= 2
    return None


def best(name: str, branching: int, horizon: int) -> dict[str, float] | None:
    """The fewest explorations of all rates, and the rate; a rate is given up where it cannot beat those before."""
    reached: dict[str, float] | None = None
    for rate in RATES:
        most = 2 * reached["explorations"] if reached else MOST * branching**horizon
        found = shortest(name, branching, horizon, rate, most)
        if found is not None and (reached is None or found < reached["explorations"]):
            reached = {"explorations": found, "rate": rate}
    return reached


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


def as_table(found: dict[str, Any]) -> str:
    """The same as Markdown: explorations, and the rate in brackets."""
    horizons = list(next(iter(found["explorations"].values())))
    lines = [f"| H | {' | '.join(horizons)} |", "|---" * (len(horizons) + 1) + "|"]
    lines.append(f"| B^H | {' | '.join(str(found['branching'] ** int(h)) for h in horizons)} |")
    for name, cells in found["explorations"].items():
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
    kept = json.loads(target.read_text()) if target.exists() else {}
    known = kept.pop("explorations", {}) if {name: kept.get(name) for name in about} == about else {}
    table: dict[str, dict[str, dict[str, float] | None]] = {}
    for name in METHODS:
        table[name] = {}
        for horizon in horizons:
            found = known.get(name, {}).get(horizon, "unknown")  # what a run before this one has found stands
            table[name][horizon] = best(name, BRANCHING, int(horizon)) if found == "unknown" else found
            print(name, horizon, table[name][horizon], flush=True)
            text = json.dumps({**about, "explorations": known | table}, indent=1)
            target.write_text(text + "\n")
    draw(json.loads(text), Path(f"{parsed.output}.png"))
    print(as_table(json.loads(text)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
