"""What every method is, read off its value: for the method table, for the README, for programs. No torch here."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial, wants
from obverse.estimator.schedule import Stage, TrainingSchedule, as_schedule
from obverse.methods import added_parameters, call, find, names, parameters
from obverse.types import Source

FAMILIES = ("demonstrations", "own samples", "hybrid", "preferences")


@dataclass(frozen=True)
class Entry:
    """One row of the method table, derived from the method's value."""

    name: str
    make: Callable[..., Method | TrainingSchedule]
    options: Mapping[str, Any]  # the method's own, defaults included
    components: Mapping[str, Any]  # what every method can be given on top
    schedule: TrainingSchedule

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method, or of a course one for each lane."""
        return self.schedule.methods

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
    def link(self) -> str:
        """The paper as a link of Markdown."""
        return f"[{self.paper}](https://arxiv.org/abs/{self.paper})" if self.paper else ""

    @property
    def family(self) -> str:
        """Whose tokens are trained: `demonstrations`, `own samples`, both (`hybrid`), or `preferences`."""
        if any(method.sources & {Source.CHOSEN, Source.REJECTED} for method in self.methods):
            return "preferences"
        own, shown = self._wants("rollouts"), self._wants("demonstrations")
        return "hybrid" if own and shown and self._grades else "own samples" if own and not shown else "demonstrations"

    @property
    def data(self) -> list[str]:
        """What must be there: `answers` (to grade samples by), `demonstrations`, `pairs`, the `anchor`, a `critic`."""
        needs = {
            "answers": self._wants("rollouts") and self._grades,
            "demonstrations": self._wants("demonstrations"),
            "pairs": self._wants("pairs"),
            "anchor": any(method.needs("anchor") or samples_initial(method) for method in self.methods),
            "critic": any(method.critic is not None for method in self.methods),
        }
        return [need for need, needed in needs.items() if needed]

    @property
    def _grades(self) -> bool:
        return any(method.grades for method in self.methods)

    def _wants(self, kind: str) -> bool:
        return any(wants(method, kind) for method in self.methods)

    def record(self) -> dict[str, Any]:
        """The entry for programs; the keys are stable."""
        return {
            "name": self.name,
            "summary": self.summary,
            "family": self.family,
            "data": self.data,
            "paper": self.paper,
            "terms": [
                {"lane": stage, **term_record(term)}
                for stage, method in enumerate(self.methods)
                for term in method.terms
            ],
            "turn": str(self.schedule.selector),
            "lanes": [lane_record(stage) for stage in self.schedule.stages],
            "options": dict(self.options),
            "components": dict(self.components),
            "run": dict(self.schedule.run),
        }


def entry(name: str, options: Mapping[str, Any] | None = None) -> Entry:
    """A method with `options` in place of its defaults."""
    make = find(name)
    chosen = {each: parameter.default for each, parameter in parameters(make).items()} | dict(options or {})
    added = added_parameters(make)
    own = {each: value for each, value in chosen.items() if each not in added}
    components = {each: value for each, value in chosen.items() if each in added}
    return Entry(name, make, own, components, as_schedule(call(name, make, chosen)))


def entries() -> list[Entry]:
    """All methods that ship with obverse, by family."""
    return sorted(map(entry, names()), key=lambda each: (FAMILIES.index(each.family), each.name))


def lane_record(stage: Stage) -> dict[str, Any]:
    """A method as the names of its parts."""
    method = stage.method
    others = {"critic": method.critic, "memory": method.memory, "inputs": method.inputs}
    return {
        "ask": str(method.ask),
        "keep": str(method.keep),
        "shaping": [str(part) for part in method.shaping],
        **{name: None if part is None else str(part) for name, part in others.items()},
        "max_rounds": method.max_rounds,
        "learning_rate": stage.learning_rate,
    }


def term_record(term: Term) -> dict[str, Any]:
    """A term as names."""
    return {
        "source": term.source.label,
        "on": term.on,
        "mask": str(term.mask),
        "reference": str(term.reference),
        "advantage": str(term.advantage),
        "share": str(term.normalizer),
        "weight": term.weight if isinstance(term.weight, int | float) else str(term.weight),
    }


def to_json(found: Iterable[Entry]) -> str:
    """The method table for programs."""
    return json.dumps([each.record() for each in found], indent=2)


def term_rows(methods: Iterable[Method]) -> list[tuple[str, str, str, str, str]]:
    """(what is trained, mask, pi_ref, advantage, share) per term."""
    return [
        (
            term.source.label if term.on == "logp" else term.on,
            str(term.mask),
            str(term.reference),
            str(term.advantage),
            str(term.normalizer),
        )
        for method in methods
        for term in method.terms
    ]


def markdown_table(found: Iterable[Entry]) -> str:
    """The method table for the README: the names of the parts; their options are on the method's page."""
    lines = [
        "| method | family | needs | trains | mask | pi_ref | advantage | share | paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        rows = dict.fromkeys(tuple(cell.partition("(")[0] for cell in row) for row in term_rows(each.methods))
        cells = ["<br>".join(column) for column in zip(*rows, strict=True)]
        lines.append(f"| {' | '.join([f'`{each.name}`', each.family, ', '.join(each.data), *cells, each.link])} |")
    return "\n".join(lines)
