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

from obverse.methods import build
from obverse.records import Problem, Wish
from obverse.weigh import weigh

BRANCHING = 3
HORIZONS = (1, 2, 3, 4, 5, 6, 7, 8)
SUCCESS = 0.5  # of the policy alone, without a hint: an exact product of probabilities
RATES = (1.0, 3.0, 10.0, 30.0)
SEEDS = (0, 1, 2, 3, 4)
MOST = 2**15  # explorations after which a run is given up
SHORTEST = 2**4  # of the runs that are tried, each twice as long as the one before
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 8, "beta": 0.0},
    "hpt": {"num_generations": 8, "entropy_coef": 0.0, "rl_coef": 20.0},
    "uft": {"num_generations": 8, "entropy_coef": 0.0},
    "prefix_rft": {"num_generations": 8, "entropy_coef": 0.0},
    "sft": {},
}
OF_LENGTH = ("hpt", "prefix_rft")  # divide by the longest completion, which is H here
OF_SEED = ("uft", "prefix_rft")  # draw their hints by the run's seed

Node = tuple[int, ...]


class Path_(NamedTuple):
    """One way down the tree: the first `num_hint` turns were given."""

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

    def walk(self, num_hint: int) -> Path_:
        turns = self.target[:num_hint]
        while len(turns) < self.horizon:
            turns += tuple(self.rng.choices(range(self.branching), self.probabilities(turns)))
        return Path_(turns, num_hint)

    def climb(self, paths: list[Path_], coefficients: list[list[float]], rate: float) -> None:
        """One gradient step: every coefficient times the gradient of its turn's log-probability, all at once."""
        change: dict[Node, list[float]] = defaultdict(lambda: [0.0] * self.branching)
        for path, each in zip(paths, coefficients, strict=True):
            for i, (turn, coefficient) in enumerate(zip(path.turns, each, strict=True)):
                if coefficient:
                    node = path.turns[:i]
                    for other, chance in enumerate(self.probabilities(node)):
                        change[node][other] += rate * coefficient * ((other == turn) - chance)
        for node, by in change.items():
            self.logits[node] = [logit + each for logit, each in zip(self.logits[node], by, strict=True)]


def as_sample(tree: Tree, path: Path_, kind: str) -> dict[str, Any]:
    """A path as a sample of a step file."""
    chances = [tree.probabilities(path.turns[:i]) for i in range(tree.horizon)]
    logps = [math.log(each[turn]) for each, turn in zip(chances, path.turns, strict=True)]
    own = "demonstration" if kind == "demonstration" else "rollout"
    return {
        "problem": "tree",
        "kind": kind,
        "reward": float(path.turns == tree.target),
        "source": ["hint"] * path.num_hint + [own] * (tree.horizon - path.num_hint),
        "logp": logps,
        "behavior": logps,
        "anchor": [-math.log(tree.branching)] * tree.horizon,
        "entropy": [-sum(chance * math.log(chance) for chance in each if chance > 0) for each in chances],
    }


def asked(tree: Tree, wishes: list[Wish]) -> tuple[list[Path_], list[str]]:
    """What a method asks for at the root: demonstrations, and paths of its own with or without a hint."""
    paths, kinds = [], []
    for wish in wishes:
        for _ in range(wish.demonstrations):
            paths.append(Path_(tree.target))
            kinds.append("demonstration")
        in_tokens = min(int(wish.hint * tree.horizon), tree.horizon - 1)
        num_hint = in_tokens if wish.hint_in == "tokens" else round(wish.hint * tree.horizon)
        for _ in range(wish.rollouts):
            paths.append(tree.walk(num_hint))
            kinds.append("hinted" if num_hint else "rollout")
    return paths, kinds


def explore(name: str, branching: int, horizon: int, rate: float, seed: int, length: int) -> int | None:
    """Explorations until the success rate is reached, in a run of at most `length`; None if it is not."""
    tree, options = Tree(branching, horizon, seed), dict(METHODS[name])
    options |= {"max_completion_length": horizon} if name in OF_LENGTH else {}
    options |= {"seed": seed} if name in OF_SEED else {}
    method = build(name, options)
    problem = Problem("tree", "", demonstration=tuple(map(str, tree.target)))
    spent = 0
    while spent < length:
        if tree.success() >= SUCCESS:
            return spent
        progress = spent / length
        paths, kinds = asked(tree, method.ask(problem, progress))
        samples = [as_sample(tree, path, kind) for path, kind in zip(paths, kinds, strict=True)]
        found = weigh(name, {"progress": progress, "samples": samples}, options)["samples"]
        tree.climb(paths, [each["coefficient"] for each in found], rate)
        spent += sum(kind != "demonstration" for kind in kinds) or len(paths)
    return spent if tree.success() >= SUCCESS else None


def shortest(name: str, branching: int, horizon: int, rate: float) -> float | None:
    """The median over seeds in the shortest run, of doubling lengths, in which most seeds get there; None if none."""
    length = SHORTEST
    while length <= MOST:
        found = [explore(name, branching, horizon, rate, seed, length) for seed in SEEDS]
        reached = [each for each in found if each is not None]
        if len(reached) > len(SEEDS) / 2:
            return median([math.inf if each is None else each for each in found])
        length *= 2
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", default=str(Path(__file__).parents[1] / "docs" / "tree"))
    parser.add_argument("--horizons", default=",".join(map(str, HORIZONS)))
    parsed = parser.parse_args()
    horizons = [int(text) for text in parsed.horizons.split(",")]
    table: dict[str, dict[int, dict[str, float] | None]] = {}
    for name in METHODS:
        table[name] = {}
        for horizon in horizons:
            tried = [(found, rate) for rate in RATES if (found := shortest(name, BRANCHING, horizon, rate)) is not None]
            table[name][horizon] = dict(zip(("explorations", "rate"), min(tried), strict=True)) if tried else None
            print(name, horizon, table[name][horizon], flush=True)
    about = {"branching": BRANCHING, "success": SUCCESS, "rates": RATES, "num_seeds": len(SEEDS), "most": MOST}
    Path(f"{parsed.output}.json").write_text(json.dumps({**about, "explorations": table}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
