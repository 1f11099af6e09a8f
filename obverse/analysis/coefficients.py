"""`obverse analyze coefficients`: who pushed. The gradient's mass by what a token is, and completions token by token.

A token's coefficient is what the gradient of its log-prob is multiplied by; its mass is the coefficient's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text
from torch import Tensor

from obverse.analysis.context import Scene, check_data, chosen, filled, initial_of, progress_at, sampled_at, scene
from obverse.analysis.forward_pass import read
from obverse.analysis.stored_samples import stored
from obverse.analysis.variance import written
from obverse.config.analyze import CoefficientsConfig
from obverse.estimator.formula import Term, coefficient
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.estimator.tables import PartInputs
from obverse.models.batch import Update, pack
from obverse.models.load import load
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher
from obverse.training.update import Learner
from obverse.types import Group, Problem, Sample, Source

BINS = (0, 4, 16, 64, 256, 1024)  # where the classes of positions begin


@dataclass(frozen=True)
class Mass:
    """Tokens of one kind: how many, sum |c|, its share of the method's, sum c, and three shares of these tokens.

    `masked`: a stability mask shut out a token that had an advantage; `clipped`: one that reads the ratio and the
    advantage alone did; `still`: the coefficient is zero, whatever the reason.
    """

    by: str
    name: str
    num_tokens: int
    mass: float
    share: float
    signed: float
    masked: float
    clipped: float
    has_zero_gradient: float


@dataclass(frozen=True)
class Completion:
    """A sample token by token; `coefficients` by method, None where the method's batch does not have the sample."""

    problem: str
    kind: str
    reward: float
    tokens: list[str]
    sources: list[str]
    coefficients: Mapping[str, list[float] | None]


@dataclass(frozen=True)
class Coefficients:
    """Masses of every method, and the completions that were pushed most."""

    about: str
    masses: Mapping[str, list[Mass]]
    completions: list[Completion]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        return {
            "question": "coefficients",
            "about": self.about,
            "methods": [
                {"method": name, "masses": [vars(each) for each in found]} for name, found in self.masses.items()
            ],
            "completions": [vars(each) | {"coefficients": dict(each.coefficients)} for each in self.completions],
        }

    def table(self) -> Stack:
        """The figures and the shaded completions for a console."""
        shown = [completions_table(self.completions, list(self.masses))] if self.completions else []
        return Stack(Text(self.about), *(mass_table(name, found) for name, found in self.masses.items()), *shown)


def mass_table(method: str, found: Sequence[Mass]) -> Table:
    """One method's masses."""
    table = Table(title=f"{method}: who pushed", title_justify="left")
    for column in ("by", "", "tokens", "share of mass", "sum |c|", "sum c", "masked", "clipped", "still"):
        table.add_column(column, justify="left" if column in ("by", "") else "right")
    for number, each in enumerate(found):
        last = number + 1 == len(found) or found[number + 1].by != each.by
        first = number == 0 or found[number - 1].by != each.by
        shares = (f"{share:.1%}" for share in (each.masked, each.clipped, each.has_zero_gradient))
        cells = [f"{each.num_tokens}", f"{each.share:.1%}", written(each.mass), written(each.signed), *shares]
        table.add_row(each.by if first else "", Text(flat(each.name)), *cells, end_section=last)
    return table


def completions_table(completions: Sequence[Completion], names: Sequence[str]) -> Table:
    """Each completion under every method, side by side."""
    title = "token by token: green is pushed up, red is pushed down, as strong as the method's strongest here"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("completion")
    for name in names:
        table.add_column(name, overflow="fold")
    for each in completions:
        about = Text(flat(f"{each.problem}\n{each.kind}, reward {each.reward:g}"))
        table.add_row(about, *(shaded(each.tokens, each.coefficients[name]) for name in names))
    return table


def shaded(tokens: Sequence[str], values: Sequence[float] | None) -> Text:
    """A completion whose tokens have a background as strong as their coefficients; a dash where there are none."""
    if values is None:
        return Text("-")
    strongest = max(map(abs, values), default=0.0)
    text = Text()
    for token, value in zip(tokens, values, strict=True):
        strength = abs(value) / strongest if strongest else 0.0
        style = ""
        if strength > 0.01:
            level = int(40 + 140 * strength)
            style = f"white on #00{level:02x}28" if value > 0 else f"white on #{level:02x}0028"
        text.append(flat(token.replace("\n", "\\n")), style=style)
    return text


def coefficients(config: CoefficientsConfig, watcher: Watcher | None = None) -> Coefficients:
    """What every method makes of a batch: of the samples that a run stored at a step, or of a fresh one.

    Raises ConfigError for a method that needs more than a model and its data, DataError for samples that are not there.
    """
    watch, config = watcher or Silent(), filled(config)
    found = chosen(config)
    point, about = sampled_at(config)
    here, progress = scene(config, point.place, initial_of(config)), progress_at(config, point)
    check_data(config, here, found)
    author = None
    if config.sampler is not None:
        author, about = load(config.sampler, config.dtype, config.device)[0], f"{about}, sampled by {config.sampler}"
    tables = {}
    for number, named in enumerate(found):
        watch.phase("train", number, len(found))
        if config.step is not None:
            groups = stored(config.model, config.step, here.renderer, here.problems)
        else:
            groups = here.groups(named.method, 0, config.num_problems, progress, author)
        learner = here.learner(named.method, samples_itself=author is None)
        tables[named.name] = weighed(named.method, groups, learner, progress, here.params.temperature)
    watch.phase("train", len(found), len(found))
    return Coefficients(
        about,
        {named.name: masses(tables[named.name], named.method) for named in found},
        heaviest(tables, here, config.num_completions),
    )


@dataclass(frozen=True)
class Weighed:
    """Every token of a batch under one method; `rows` are the samples, in or out of the update, one after the other."""

    samples: list[tuple[Problem, Sample]]
    sample: Tensor  # [T] the row
    values: Tensor  # [T, terms] each term's coefficient; of another stream than log-probs too
    masked: Tensor  # [T, terms]
    clipped: Tensor  # [T, terms]
    logp_terms: list[int]  # the columns that multiply the gradient of a log-prob
    trained: Tensor  # [T] whether the token is in the update

    def total(self) -> Tensor:
        """What multiplies the gradient of each log-prob; [T]."""
        return self.values[:, self.logp_terms].sum(1)


def weighed(
    method: Method, groups: Sequence[Group], learner: Learner, progress: float, temperature: float = 1.0
) -> Weighed:
    """The coefficients of the update that the method makes of the groups; zeros for what it does not train."""
    kept = [method.select(group) for group in groups]
    samples = [(group.problem, sample) for group in groups for sample in group.samples if sample.kind != "greedy"]
    starts, row_of, length = {}, {}, 0
    for row, (_, sample) in enumerate(samples):
        starts[id(sample)], row_of[id(sample)], length = length, row, length + len(sample.ids)
    owner = torch.tensor([row for row, (_, sample) in enumerate(samples) for _ in sample.ids], dtype=torch.long)
    values = torch.zeros(length, len(method.terms), dtype=torch.float64)
    masked, clipped = torch.zeros_like(values).bool(), torch.zeros_like(values).bool()
    trained = torch.zeros(length, dtype=torch.bool)
    update = pack(kept, method.sources, temperature, memory_values(method, {}, groups))
    if update is not None:
        for sample in update.rows:
            begin = starts[id(sample)]
            for place, source in enumerate(sample.sources):
                trained[begin + place] = source in method.sources
        with torch.no_grad():
            for inputs, _ in read(learner, update, progress):
                at = _places(update, inputs, starts)
                for number, term in enumerate(method.terms):
                    values[at, number] = coefficient(inputs, (term,), term.on).double().cpu()
                    masked[at, number] = _shut(inputs, term).cpu()
                    clipped[at, number] = masked[at, number] & term.mask.reads_ratio_only
    logp_terms = [number for number, term in enumerate(method.terms) if term.on == "logp"]
    return Weighed(samples, owner, values, masked, clipped, logp_terms, trained)


def _places(update: Update, inputs: PartInputs, starts: Mapping[int, int]) -> Tensor:
    """Where the tokens of a micro batch stand among all tokens of the batch; [t]."""
    begin = torch.tensor([starts[id(sample)] for sample in update.rows])
    return begin[inputs.tokens.sample.cpu()] + inputs.tokens.position.cpu()


def _shut(inputs: PartInputs, term: Term) -> Tensor:
    """Which tokens have an advantage that the term's mask shuts out; bool [t]."""
    mask, _, advantage = term.mask_ratio_advantage(inputs)
    return (mask == 0) & (advantage != 0) & (inputs.tokens.source == int(term.source))


def masses(found: Weighed, method: Method) -> list[Mass]:
    """The masses by source, outcome, difficulty and position of the total, and by term of each term's own."""
    total, masked, clipped = found.total(), found.masked.any(1), found.clipped.any(1)
    rows = [found.samples[row] for row in found.sample.tolist()]
    places = [place for _, sample in found.samples for place in range(len(sample.ids))]
    labels = {
        "source": [source.label for _, sample in found.samples for source in sample.sources],
        "outcome": ["right" if sample.correct else "wrong" for _, sample in rows],
        "difficulty": [str(problem.meta.get("difficulty", problem.meta.get("level", ""))) for problem, _ in rows],
        "position": [position_class(place) for place in places],
    }
    made = []
    for by, names in labels.items():
        order = dict.fromkeys(map(position_class, BINS)) if by == "position" else sorted(set(names))
        for name in order:
            own = torch.tensor([each == name for each in names]) & found.trained
            if name and own.any():
                made.append(_mass(by, name, total[own], masked[own], clipped[own], float(total.abs().sum())))
    sources, whole = torch.tensor([int(Source[each.upper()]) for each in labels["source"]]), found.values.abs().sum()
    for number, term in enumerate(method.terms):
        own = (sources == int(term.source)) & found.trained
        if own.any():
            values, shut, cut = (column[own, number] for column in (found.values, found.masked, found.clipped))
            made.append(_mass("term", term_label(term), values, shut, cut, float(whole)))
    return made


def _mass(by: str, name: str, values: Tensor, masked: Tensor, clipped: Tensor, whole: float) -> Mass:
    """One row of the tokens with these coefficients; [n] each, and the sum of sizes that it is a share of."""
    mass = float(values.abs().sum())
    shut, cut, has_zero_gradient = (float(flag.double().mean()) for flag in (masked, clipped, values == 0))
    return Mass(
        by, name, len(values), mass, mass / whole if whole else 0.0, float(values.sum()), shut, cut, has_zero_gradient
    )


def position_class(place: int) -> str:
    """The class of a place in the response: `4-15`."""
    begin = max(each for each in BINS if each <= place)
    after = [each for each in BINS if each > begin]
    return f"{begin}-{after[0] - 1}" if after else f"{begin} and on"


def term_label(term: Term) -> str:
    """A term by its source, stream, advantage and reference."""
    stream = "" if term.on == "logp" else f" {term.on}"
    return f"{term.source.label}{stream}: {term.advantage} over {term.reference}"


def heaviest(tables: Mapping[str, Weighed], here: Scene, num: int) -> list[Completion]:
    """The samples with the largest share of any method's mass; of a problem one of each kind, right and wrong."""
    pieces = {name: dict(_pieces(table)) for name, table in tables.items()}
    candidates = {_key(*pair): pair for table in tables.values() for pair in table.samples}
    pushed = dict.fromkeys(candidates, 0.0)
    for found in pieces.values():
        sizes = {key: sum(map(abs, values)) for key, values in found.items()}
        for key, size in sizes.items():
            pushed[key] = max(pushed[key], size / (sum(sizes.values()) or 1.0))
    made: dict[tuple[str, str, bool], Completion] = {}
    for key in sorted(candidates, key=lambda key: -pushed[key]):
        problem, sample = candidates[key]
        if len(made) < num:
            texts = [here.tokenizer.decode([token]) for token in sample.ids]
            labels = [source.label for source in sample.sources]
            under = {name: found.get(key) for name, found in pieces.items()}
            completion = Completion(problem.id, sample.kind, sample.reward, texts, labels, under)
            made.setdefault((problem.id, sample.kind, sample.correct), completion)
    return list(made.values())


def _key(problem: Problem, sample: Sample) -> tuple[str, str, tuple[int, ...]]:
    return problem.id, sample.kind, tuple(sample.ids)


def _pieces(table: Weighed) -> Iterable[tuple[tuple[str, str, tuple[int, ...]], list[float]]]:
    """Each sample's coefficients under its key."""
    lengths = [len(sample.ids) for _, sample in table.samples]
    for (problem, sample), piece in zip(table.samples, table.total().split(lengths), strict=True):
        yield _key(problem, sample), piece.tolist()
