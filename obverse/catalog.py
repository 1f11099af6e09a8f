"""What every method is, read off its value: for the method table, for the README, for programs. No torch here."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from obverse.estimator import Term
from obverse.method import Method
from obverse.methods import find, names, parameters
from obverse.records import Problem, Source, Wish

FAMILIES = ("demonstrations", "own samples", "hybrid", "preferences")


@dataclass(frozen=True)
class Entry:
    """One row of the method table, derived from the method's value."""

    name: str
    make: Callable[..., Method]
    options: Mapping[str, Any]  # what the function was called with, defaults included
    method: Method

    @property
    def text(self) -> str:
        """The docstring without its indentation."""
        return inspect.getdoc(self.make) or "This method's function has no docstring."

    @property
    def summary(self) -> str:
        return self.text.splitlines()[0]

    @property
    def paper(self) -> str:
        """The arXiv id of the first paper that the docstring links to; empty without one."""
        found = re.search(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", self.text)
        return found[1] if found else ""

    @property
    def wishes(self) -> list[Wish]:
        """Everything the method asks for over a run, for a problem that has all data."""
        problem = Problem("any", "", answer="", demonstration=("one step", "another"), chosen="", rejected="")
        asked = [wish for tenth in range(11) for wish in self.method.ask(problem, tenth / 10)]
        return list(dict.fromkeys(asked))

    @property
    def family(self) -> str:
        """Whose tokens are trained: `demonstrations`, `own samples`, both (`hybrid`), or `preferences`."""
        if self.method.sources & {Source.CHOSEN, Source.REJECTED}:
            return "preferences"
        own = any(wish.rollouts for wish in self.wishes)
        shown = any(wish.demonstrations or wish.hint for wish in self.wishes)
        return "hybrid" if own and shown else "own samples" if own else "demonstrations"

    @property
    def data(self) -> list[str]:
        """What must be there: `answers` (to grade samples by), `demonstrations`, `pairs`, the `anchor`, a `critic`."""
        own = any(wish.rollouts for wish in self.wishes)
        shown = any(wish.demonstrations or wish.hint for wish in self.wishes)
        needs = {
            "answers": own,
            "demonstrations": shown,
            "pairs": self.family == "preferences",
            "anchor": self.method.needs("anchor"),
            "critic": self.method.needs("advantage"),
        }
        return [need for need, needed in needs.items() if needed]

    def record(self) -> dict[str, Any]:
        """The entry for programs; the keys are stable."""
        return {
            "name": self.name,
            "summary": self.summary,
            "family": self.family,
            "data": self.data,
            "paper": self.paper,
            "ask": str(self.method.ask),
            "keep": str(self.method.keep),
            "terms": [term_record(term) for term in self.method.terms],
            "options": dict(self.options),
            "run": dict(self.method.run),
        }


def entry(name: str, options: Mapping[str, Any] | None = None) -> Entry:
    """A method with `options` in place of its defaults."""
    make = find(name)
    chosen = {each: parameter.default for each, parameter in parameters(make).items()} | dict(options or {})
    return Entry(name, make, chosen, make(**chosen))


def entries() -> list[Entry]:
    """All methods that ship with obverse, by family."""
    return sorted(map(entry, names()), key=lambda each: (FAMILIES.index(each.family), each.name))


def term_record(term: Term) -> dict[str, Any]:
    """A term as names."""
    return {
        "source": term.source.label,
        "on": term.on,
        "mask": str(term.stable),
        "reference": str(term.reference),
        "advantage": str(term.advantage),
        "share": str(term.share),
        "weight": term.weight if isinstance(term.weight, int | float) else str(term.weight),
    }


def to_json(found: Iterable[Entry]) -> str:
    """The method table for programs."""
    return json.dumps([each.record() for each in found], indent=2)


def term_rows(method: Method) -> list[tuple[str, str, str, str, str]]:
    """(what is trained, mask, pi_ref, advantage, share) per term."""
    return [
        (
            term.source.label if term.on == "logp" else term.on,
            str(term.stable),
            str(term.reference),
            str(term.advantage),
            str(term.share),
        )
        for term in method.terms
    ]


def markdown_table(found: Iterable[Entry]) -> str:
    """The method table for the README."""
    lines = [
        "| method | family | needs | trains | mask | pi_ref | advantage | share | paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        cells = ["<br>".join(column) for column in zip(*dict.fromkeys(term_rows(each.method)), strict=True)]
        paper = f"[{each.paper}](https://arxiv.org/abs/{each.paper})" if each.paper else ""
        lines.append(f"| {' | '.join([f'`{each.name}`', each.family, ', '.join(each.data), *cells, paper])} |")
    return "\n".join(lines)
