"""The methods with their options, families and requirements, derived from their values. No torch import."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from obverse.api.table import Table
from obverse.config.method_options import method_fields
from obverse.estimator.cost import cost_of, scoring_passes
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial, wants
from obverse.estimator.schedule import Stage, TrainingSchedule, as_schedule
from obverse.estimator.teacher import Context
from obverse.methods import added_parameters, call, find, names, parameters
from obverse.methods._docstring import labeled, split_options
from obverse.types import Source

# How a method's coefficients are proven, the strongest first: against a function of its authors' code, against a
# maintained library, against the literal objective that a test writes out; or the objective itself is a reconstruction.
PROOFS = ("authors' code", "peer", "literal objective", "derived")
FAMILIES = ("demonstrations", "own samples", "hybrid", "teacher", "preferences")


@dataclass(frozen=True)
class Entry:
    """A method with chosen options, and what the tables and pages show of it."""

    name: str
    make: Callable[..., Method | TrainingSchedule]
    options: Mapping[str, Any]  # the parameters of the method's function, with defaults filled in
    components: Mapping[str, Any]  # the options of `compose` that the function does not have
    schedule: TrainingSchedule

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method of each stage; one for a method without a schedule."""
        return self.schedule.methods

    @property
    def text(self) -> str:
        """The docstring without its indentation and its `Options` section."""
        return split_options(inspect.getdoc(self.make) or "")[0] or "This method's function has no docstring."

    @property
    def help(self) -> dict[str, str]:
        """The help text of each option by name, as `obverse train METHOD --help` prints it."""
        fields = method_fields(self.make)
        return {name: str(field.description) for name, (_, field) in fields.items()}

    @property
    def summary(self) -> str:
        return self.text.splitlines()[0]

    @property
    def paper(self) -> str:
        """The arXiv id of the first paper that the docstring links to; empty without one."""
        match = re.search(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", self.text)
        return match[1] if match else ""

    @property
    def link(self) -> str:
        """The paper as a link of Markdown."""
        return f"[{self.paper}](https://arxiv.org/abs/{self.paper})" if self.paper else ""

    @property
    def sources(self) -> list[str]:
        """The arXiv ids of all papers that the docstring's entry `Paper` names."""
        text = dict(labeled(self.text.splitlines()[1:])).get("Paper", "")
        return list(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", text)))

    @property
    def proof(self) -> tuple[str, str]:
        """One of `PROOFS`, and what was compared: the docstring's entry `Proven`; two empty texts without one."""
        text = " ".join(dict(labeled(self.text.splitlines()[1:])).get("Proven", "").splitlines())
        kind, _, compared = text.partition(": ")
        return kind, compared

    @property
    def costs(self) -> list[dict[str, Any]]:
        """The most that a problem costs in a step of each stage, relative to SFT; see `obverse.estimator.cost`."""
        return [
            {**cost_of(method, self.schedule.run)._asdict(), "scored_by": scoring_passes(method)}
            for method in self.methods
        ]

    @property
    def cost(self) -> str:
        """The costs as text, `forward / backward` of each stage.

        Example: "1 / 1, then 16 / 8"
        """
        return ", then ".join(f"{cost['forward']} / {cost['backward']}" for cost in self.costs)

    @property
    def family(self) -> str:
        """What is trained: `demonstrations`, rollouts (`own samples`), both (`hybrid`), or `preferences`.

        `teacher` is the family of methods that have one.
        """
        if any(method.teacher is not None for method in self.methods):
            return "teacher"
        if any(method.sources & {Source.CHOSEN, Source.REJECTED} for method in self.methods):
            return "preferences"
        rollouts, demonstrations = self._wants("rollouts"), self._wants("demonstrations")
        if rollouts and demonstrations and self._grades:
            return "hybrid"
        return "own samples" if rollouts and not demonstrations else "demonstrations"

    @property
    def data(self) -> list[str]:
        """What it requires: `answers` (to grade by), `demonstrations`, `pairs`, `labels` of single
        responses, the `anchor` model, a `teacher`, which
        is another model, a `critic`.
        """
        needs = {
            "answers": self._wants("rollouts") and self._grades and not self._transforms,
            "demonstrations": self._transforms or self._wants("demonstrations") or self._teacher_reads("demonstration"),
            "pairs": self._wants("pairs"),
            "labels": self._wants("labeled"),
            "anchor": any(method.reads_anchor or samples_initial(method) for method in self.methods),
            "teacher": any(method.teacher is not None and method.teacher.who == "model" for method in self.methods),
            "critic": any(method.critic is not None for method in self.methods),
        }
        return [need for need, needed in needs.items() if needed]

    @property
    def _grades(self) -> bool:
        return any(method.grades for method in self.methods)

    def _teacher_reads(self, context: Context) -> bool:
        return any(method.teacher is not None and context in method.teacher.contexts for method in self.methods)

    @property
    def _transforms(self) -> bool:
        """Whether the problems are made from demonstrations."""
        return any(method.problems is not None for method in self.methods)

    def _wants(self, kind: str) -> bool:
        return any(wants(method, kind) for method in self.methods)

    def record(self) -> dict[str, Any]:
        """The entry as JSON values; the keys are stable."""
        return {
            "name": self.name,
            "summary": self.summary,
            "family": self.family,
            "data": self.data,
            "paper": self.paper,
            "sources": self.sources,
            "cost": self.costs,
            "proven": dict(zip(("by", "text"), self.proof, strict=True)),
            "terms": [
                {"lane": stage, **term.record()} for stage, method in enumerate(self.methods) for term in method.terms
            ],
            "turn": str(self.schedule.selector),
            "lanes": [stage_record(stage) for stage in self.schedule.stages],
            "options": dict(self.options),
            "components": dict(self.components),
            "run": dict(self.schedule.run),
        }


def entry(name: str, options: Mapping[str, Any] | None = None) -> Entry:
    """A method with `options` in place of its defaults."""
    make = find(name)
    values = {option: parameter.default for option, parameter in parameters(make).items()} | dict(options or {})
    added = added_parameters(make)
    method_options = {option: value for option, value in values.items() if option not in added}
    components = {option: value for option, value in values.items() if option in added}
    return Entry(name, make, method_options, components, as_schedule(call(name, make, values)))


def entries() -> list[Entry]:
    """All methods that ship with obverse, by family, then by name."""
    return sorted(map(entry, names()), key=lambda row: (FAMILIES.index(row.family), row.name))


def method_table() -> Table:
    """Return the methods that ship with obverse: name, family, summary, needs, cost, proof, arXiv id of the paper.

    Example:
        >>> table = method_table()
        >>> table.columns
        ['name', 'family', 'needs', 'cost', 'proven', 'paper', 'summary']
    """
    rows = [
        {
            "name": row.name,
            "family": row.family,
            "needs": ", ".join(row.data),
            "cost": row.cost,
            "proven": row.proof[0],
            "paper": row.paper,
            "summary": row.summary,
        }
        for row in entries()
    ]
    return Table(rows, "methods", most_rows=len(rows))


def by_family(rows: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each family that has any, in the order of `FAMILIES`."""
    rows = list(rows)
    families = {family: [row for row in rows if row.family == family] for family in FAMILIES}
    return {family: members for family, members in families.items() if members}


def stage_record(stage: Stage) -> dict[str, Any]:
    """A stage's method as the names of its parts."""
    method = stage.method
    optional: dict[str, object] = {"critic": method.critic, "memory": method.memory, "inputs": method.inputs}
    optional |= {"teacher": method.teacher, "divergence": method.divergence}
    optional |= {"replay": method.replay} if method.replay is not None else {}
    optional |= {"problems": method.problems} if method.problems is not None else {}
    return {
        "ask": str(method.ask),
        "keep": str(method.keep),
        "shaping": [str(part) for part in method.shaping],
        **{name: None if part is None else str(part) for name, part in optional.items()},
        "max_rounds": method.max_rounds,
        "follow_up": None if method.follow_up is None else str(method.follow_up),
        "learning_rate": stage.learning_rate,
    }
