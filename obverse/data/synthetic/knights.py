"""Knights and knaves: knights always tell the truth, knaves always lie. Exactly one assignment fits all statements.

Prompt:         Q:Al:Bo is a knave;Bo:Al and Bo are different\\nA:
Demonstration:  Al+Bo-:no;  Al-Bo+:ok  #Al is a knave,Bo is a knight
Difficulty:     the number of people

A step of the demonstration is one case: an assumption (`Al+`: Al is a knight, `Al-`: a knave), the roles that follow
from the statements, and whether there is a contradiction. If nothing follows, a second assumption is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from random import Random
from typing import NamedTuple

from obverse.data.splits import Draft, Range, deal
from obverse.types import Problem

ALLOWED = {"train": (2, 4), "heldout": (2, 4), "ood": (5, 6)}
NAMES = ("Al", "Bo", "Cy", "Di", "Ed", "Jo", "Mo", "Vi")
MAX_EXTRA = 2  # every person makes one statement, and up to this many people a second one

# Forms of statements: the words, the number of people in them, and the condition under which they are true.
FORMS: dict[str, tuple[int, Callable[..., bool]]] = {
    "{} is a knight": (1, lambda a: a),
    "{} is a knave": (1, lambda a: not a),
    "{} and {} are the same": (2, lambda a, b: a == b),
    "{} and {} are different": (2, lambda a, b: a != b),
    "{} and {} are knights": (2, lambda a, b: a and b),
    "{} and {} are knaves": (2, lambda a, b: not a and not b),
    "{} or {} is a knight": (2, lambda a, b: a or b),
    "{} or {} is a knave": (2, lambda a, b: not a or not b),
    "{} is a knight and {} a knave": (2, lambda a, b: a and not b),
    "if {} is a knight,so is {}": (2, lambda a, b: not a or b),
}
ORDERED = (
    "{} is a knight and {} a knave",
    "if {} is a knight,so is {}",
)  # forms in which the two people cannot be swapped


class Claim(NamedTuple):
    """A statement of one person; people are numbers, so that names do not matter."""

    speaker: int
    form: str
    people: tuple[int, ...]

    def holds(self, world: Sequence[bool]) -> bool:
        """Return whether the claim fits a world: it is true if and only if its speaker is a knight."""
        return FORMS[self.form][1](*(world[person] for person in self.people)) == world[self.speaker]

    def rename(self, order: Sequence[int]) -> Claim:
        people = tuple(order[person] for person in self.people)
        return Claim(order[self.speaker], self.form, people if self.form in ORDERED else tuple(sorted(people)))

    def text(self, names: Sequence[str]) -> str:
        return f"{names[self.speaker]}:{self.form.format(*(names[person] for person in self.people))}"


def generate(split: str, num_problems: int, seed: int, difficulty: Range | None = None) -> list[Problem]:
    """Return distinct problems of a split (train, heldout: 2 to 4 people; ood: 5 to 6), dealt evenly.

    Errors: ConfigError if the split does not have that difficulty or that many problems.
    """
    return deal("knights", split, num_problems, seed, difficulty, allowed=ALLOWED, draw=_draw, verifier="knights")


def solutions(claims: Sequence[Claim], num_people: int) -> list[tuple[bool, ...]]:
    """Return every world (True: a knight) that fits all claims, found by trying all of them."""
    worlds = product((True, False), repeat=num_people)
    return [world for world in worlds if all(claim.holds(world) for claim in claims)]


def solve(claims: Sequence[Claim], names: Sequence[str]) -> tuple[str, ...]:
    """Return the steps of a demonstration: the cases in order until one holds, then the answer.

    Errors: ValueError if no case holds.
    """
    steps: list[str] = []
    for roles, holds in _cases(claims, {}, len(names)):
        signs = "".join(f"{names[person]}{'+' if knight else '-'}" for person, knight in roles.items())
        if holds:
            answer = ",".join(_role_clause(name, roles[person]) for person, name in enumerate(names))
            return (*steps, f"{signs}:ok", f"#{answer}")
        steps.append(f"{signs}:no;")
    raise ValueError("no world fits these claims")


def _role_clause(name: str, knight: bool) -> str:
    return f"{name} is a {'knight' if knight else 'knave'}"


def _cases(claims: Sequence[Claim], roles: dict[int, bool], num_people: int) -> Iterator[tuple[dict[int, bool], bool]]:
    """Yield (roles, holds) of each case of the assumptions: the roles in the order of derivation, and consistency."""
    roles = dict(roles)
    if not _derive_roles(claims, roles):
        yield roles, False
    elif len(roles) == num_people:
        yield roles, True
    else:
        person = next(person for person in range(num_people) if person not in roles)
        for knight in (True, False):
            yield from _cases(claims, roles | {person: knight}, num_people)


def _derive_roles(claims: Sequence[Claim], roles: dict[int, bool]) -> bool:
    """Add to `roles` the roles that single claims imply, until nothing follows; False if a claim cannot hold."""
    changed = bool(roles)  # without an assumption nothing is derived: the case analysis starts with the first person
    while changed:
        changed = False
        for claim in claims:
            involved = sorted({claim.speaker, *claim.people})
            choices = [(roles[person],) if person in roles else (True, False) for person in involved]
            worlds = [dict(zip(involved, world, strict=True)) for world in product(*choices)]
            worlds = [world for world in worlds if claim.holds(world)]  # type: ignore[arg-type]  # people index it
            if not worlds:
                return False
            for person in involved:
                if person not in roles and len({world[person] for world in worlds}) == 1:
                    roles[person] = worlds[0][person]
                    changed = True
    return True


def _draw(rng: Random, num_people: int) -> Draft:
    while True:
        extra = rng.sample(range(num_people), rng.randint(0, min(MAX_EXTRA, num_people)))
        claims = [_claim(rng, speaker, num_people) for speaker in sorted([*range(num_people), *extra])]
        worlds = solutions(claims, num_people)
        if len(worlds) == 1 and len(set(claims)) == len(claims):
            break
    names = rng.sample(NAMES, num_people)
    prompt = f"Q:{';'.join(claim.text(names) for claim in claims)}\nA:"
    answer = {"names": names, "solution": list(worlds[0])}
    return Draft(_canonical(claims, num_people), prompt, answer, solve(claims, names))


def _claim(rng: Random, speaker: int, num_people: int) -> Claim:
    form = rng.choice(list(FORMS))
    num_about = FORMS[form][0]
    candidates = [
        person for person in range(num_people) if num_about > 1 or person != speaker
    ]  # no statements "I am a ..."
    people = rng.sample(candidates, num_about)
    return Claim(speaker, form, tuple(people if form in ORDERED else sorted(people)))


def _canonical(claims: Sequence[Claim], num_people: int) -> str:
    """Return the same text for puzzles that differ by a permutation of people: the smallest over all orders."""
    orders = permutations(range(num_people))
    smallest = min(sorted(claim.rename(order) for claim in claims) for order in orders)
    return ";".join(claim.text(tuple(map(str, range(num_people)))) for claim in smallest)
