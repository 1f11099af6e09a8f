"""`obverse analyze coefficients`: the coefficients of an update by groups of tokens, and completions token by token.

A token's coefficient is the factor of the gradient of its log-prob; its mass is the absolute value of the coefficient.
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

from obverse.analysis.context import (
    Context,
    NamedMethod,
    check_data,
    chosen_methods,
    initial_of,
    load_context,
    progress_at,
    sampling_point,
    with_run_options,
)
from obverse.analysis.forward_pass import forward_passes
from obverse.analysis.stored_samples import read_groups
from obverse.analysis.variance import format_number
from obverse.config.analyze import CoefficientsConfig
from obverse.estimator.formula import Term, coefficient
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.estimator.tables import PartInputs
from obverse.models.batch import Update, pack
from obverse.models.load import load
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher
from obverse.training.learners import Learner
from obverse.types import Group, Problem, Sample

BINS = (0, 4, 16, 64, 256, 1024)  # first positions of the classes of positions


@dataclass(frozen=True)
class Mass:
    """A group of tokens: their number, sum |c|, its share of the method's sum, sum c, and three shares of the tokens.

    `masked`: tokens with an advantage that a mask excludes; `clipped`: those with a mask of the ratio and the
    advantage only; `zero`: tokens with a coefficient of zero for any reason (stored under the key `still`).
    """

    by: str
    name: str
    num_tokens: int
    mass: float
    share: float
    signed: float
    masked: float
    clipped: float
    zero: float

    def plain(self) -> dict[str, Any]:
        """The figures with the keys of coefficients.json."""
        return {"still" if name == "zero" else name: value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Completion:
    """A sample token by token; `coefficients` by method, None if the method's batch does not have the sample."""

    problem: str
    kind: str
    reward: float
    tokens: list[str]
    sources: list[str]
    coefficients: Mapping[str, list[float] | None]


@dataclass(frozen=True)
class Coefficients:
    """Masses of every method, and the completions with the largest coefficients."""

    about: str
    masses: Mapping[str, list[Mass]]
    completions: list[Completion]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        return {
            "question": "coefficients",
            "about": self.about,
            "methods": [
                {"method": name, "masses": [mass.plain() for mass in rows]} for name, rows in self.masses.items()
            ],
            "completions": [vars(item) | {"coefficients": dict(item.coefficients)} for item in self.completions],
        }

    def table(self) -> Stack:
        """The figures and the shaded completions for a console."""
        shaded = [completions_table(self.completions, list(self.masses))] if self.completions else []
        return Stack(Text(self.about), *(mass_table(name, rows) for name, rows in self.masses.items()), *shaded)


def mass_table(method: str, rows: Sequence[Mass]) -> Table:
    """One method's masses, for a console."""
    table = Table(title=f"{method}: coefficients by group of tokens", title_justify="left")
    for column in ("by", "", "tokens", "share of mass", "sum |c|", "sum c", "masked", "clipped", "zero"):
        table.add_column(column, justify="left" if column in ("by", "") else "right")
    for number, mass in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1].by != mass.by
        first = number == 0 or rows[number - 1].by != mass.by
        shares = (f"{share:.1%}" for share in (mass.masked, mass.clipped, mass.zero))
        cells = [
            f"{mass.num_tokens}",
            f"{mass.share:.1%}",
            format_number(mass.mass),
            format_number(mass.signed),
            *shares,
        ]
        table.add_row(mass.by if first else "", Text(flat(mass.name)), *cells, end_section=last)
    return table


def completions_table(completions: Sequence[Completion], names: Sequence[str]) -> Table:
    """Each completion under every method, side by side."""
    title = "token by token: green becomes more likely, red less likely, relative to the largest coefficient of each"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("completion")
    for name in names:
        table.add_column(name, overflow="fold")
    for completion in completions:
        about = Text(flat(f"{completion.problem}\n{completion.kind}, reward {completion.reward:g}"))
        table.add_row(about, *(shaded(completion.tokens, completion.coefficients[name]) for name in names))
    return table


def shaded(tokens: Sequence[str], values: Sequence[float] | None) -> Text:
    """A completion with each token's background by its coefficient; a dash without coefficients."""
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
    """The coefficients of every method on a batch: the stored samples of a step, or fresh samples.

    Raises ConfigError for a method that needs more than a model and its data, DataError for samples that do not exist.
    """
    config = with_run_options(config)
    methods = chosen_methods(config)
    tables, context, about = weighed_tables(config, methods, watcher or Silent())
    return Coefficients(
        about,
        {named.name: masses(tables[named.name], named.method) for named in methods},
        largest_completions(tables, context, config.num_completions),
    )


def weighed_tables(
    config: CoefficientsConfig, methods: Sequence[NamedMethod], watcher: Watcher
) -> tuple[dict[str, Weighed], Context, str]:
    """The tokens of the batch under every method, the context of the analysis, and a sentence about the batch.

    Raises ConfigError or DataError as `coefficients`.
    """
    point, about = sampling_point(config)
    context, progress = load_context(config, point.path, initial_of(config)), progress_at(config, point)
    check_data(config, context, methods)
    sampling_policy = None
    if config.sampler is not None:
        sampling_policy, about = (
            load(config.sampler, config.dtype, config.device)[0],
            f"{about}, sampled by {config.sampler}",
        )
    tables = {}
    for number, named in enumerate(methods):
        watcher.phase("train", number, len(methods))
        if config.step is not None:
            groups = read_groups(config.model, config.step, context.renderer, context.problems)
        else:
            groups = context.groups(named.method, 0, config.num_problems, progress, sampling_policy)
        learner = context.learner(named.method, samples_itself=sampling_policy is None)
        tables[named.name] = weighed(named.method, groups, learner, progress, context.params.temperature)
    watcher.phase("train", len(methods), len(methods))
    return tables, context, about


@dataclass(frozen=True)
class Weighed:
    """The tokens of a batch under one method: all samples, in the update or not, one after the other."""

    samples: list[tuple[Problem, Sample]]
    sample: Tensor  # [T] index of the sample
    values: Tensor  # [T, terms] coefficients of every term, also of other streams than log-probs
    masked: Tensor  # [T, terms]
    clipped: Tensor  # [T, terms]
    streams: list[str]  # of each term: what its column multiplies the gradient of
    trained: Tensor  # [T] whether the token is in the update

    def total(self, stream: str = "logp") -> Tensor:
        """The factor of the gradient of each log-prob, or of another stream; [T]."""
        return self.values[:, [number for number, on in enumerate(self.streams) if on == stream]].sum(1)


def weighed(
    method: Method, groups: Sequence[Group], learner: Learner, progress: float, temperature: float = 1.0
) -> Weighed:
    """The coefficients of the method's update on the groups; 0 for tokens that are not trained."""
    selected = [method.select(group) for group in groups]
    samples = [(group.problem, sample) for group in groups for sample in group.samples if sample.kind != "greedy"]
    starts, row_of, length = {}, {}, 0
    for row, (_, sample) in enumerate(samples):
        starts[id(sample)], row_of[id(sample)], length = length, row, length + len(sample.ids)
    owner = torch.tensor([row for row, (_, sample) in enumerate(samples) for _ in sample.ids], dtype=torch.long)
    values = torch.zeros(length, len(method.terms), dtype=torch.float64)
    masked, clipped = torch.zeros_like(values).bool(), torch.zeros_like(values).bool()
    trained = torch.zeros(length, dtype=torch.bool)
    update = pack(selected, method.sources, temperature, memory_values(method, {}, groups))
    if update is not None:
        for sample in update.rows:
            begin = starts[id(sample)]
            for position, source in enumerate(sample.sources):
                trained[begin + position] = source in method.sources
        with torch.no_grad():
            for inputs, _ in forward_passes(learner, update, progress):
                indices = _indices(update, inputs, starts)
                for number, term in enumerate(method.terms):
                    values[indices, number] = coefficient(inputs, (term,), term.on).double().cpu()
                    masked[indices, number] = _is_masked(inputs, term).cpu()
                    clipped[indices, number] = masked[indices, number] & term.mask.reads_ratio_only
    return Weighed(samples, owner, values, masked, clipped, [term.on for term in method.terms], trained)


def _indices(update: Update, inputs: PartInputs, starts: Mapping[int, int]) -> Tensor:
    """The indices of a micro batch's tokens among all tokens of the batch; [t]."""
    begin = torch.tensor([starts[id(sample)] for sample in update.rows])
    return begin[inputs.tokens.sample.cpu()] + inputs.tokens.position.cpu()


def _is_masked(inputs: PartInputs, term: Term) -> Tensor:
    """The tokens with an advantage that the term's mask excludes; bool [t]."""
    mask, _, advantage = term.mask_ratio_advantage(inputs)
    return (mask == 0) & (advantage != 0) & (inputs.tokens.source == int(term.source))


def masses(table: Weighed, method: Method) -> list[Mass]:
    """The masses by source, outcome, difficulty and position over all terms, and by term."""
    return [*_masses_by_label(table), *_masses_by_term(table, method)]


def _masses_by_label(table: Weighed) -> list[Mass]:
    """The masses over all terms, of the tokens with an equal label."""
    total, masked, clipped = table.total(), table.masked.any(1), table.clipped.any(1)
    whole = float(total.abs().sum())
    rows = []
    for by, labels in token_labels(table).items():
        order = dict.fromkeys(map(position_class, BINS)) if by == "position" else sorted(set(labels))
        for name in order:
            group = torch.tensor([label == name for label in labels]) & table.trained
            if name and group.any():
                rows.append(_mass(by, name, total[group], masked[group], clipped[group], whole))
    return rows


def token_labels(table: Weighed) -> dict[str, list[str]]:
    """The labels of every token by what they describe: source, outcome, difficulty and position; [T] each."""
    sample_of_token = [table.samples[row] for row in table.sample.tolist()]
    positions = [position for _, sample in table.samples for position in range(len(sample.ids))]
    return {
        "source": [source.label for _, sample in table.samples for source in sample.sources],
        "outcome": ["right" if sample.correct else "wrong" for _, sample in sample_of_token],
        "difficulty": [
            str(problem.meta.get("difficulty", problem.meta.get("level", ""))) for problem, _ in sample_of_token
        ],
        "position": [position_class(position) for position in positions],
    }


def _masses_by_term(table: Weighed, method: Method) -> list[Mass]:
    """The mass of every term, over the tokens of its source."""
    sources = torch.tensor([int(source) for _, sample in table.samples for source in sample.sources])
    whole = float(table.values.abs().sum())
    rows = []
    for number, term in enumerate(method.terms):
        group = (sources == int(term.source)) & table.trained
        if group.any():
            columns = (table.values, table.masked, table.clipped)
            values, masked, clipped = (column[group, number] for column in columns)
            rows.append(_mass("term", term_label(term), values, masked, clipped, whole))
    return rows


def _mass(by: str, name: str, values: Tensor, masked: Tensor, clipped: Tensor, whole: float) -> Mass:
    """The mass of a group of tokens; [n] each, and the sum of |c| that its share relates to."""
    mass = float(values.abs().sum())
    masked_share, clipped_share, zero_share = (float(flag.double().mean()) for flag in (masked, clipped, values == 0))
    share = mass / whole if whole else 0.0
    signed = float(values.sum())
    return Mass(by, name, len(values), mass, share, signed, masked_share, clipped_share, zero_share)


def position_class(position: int) -> str:
    """The class of a position in the response: `4-15`."""
    begin = max(first for first in BINS if first <= position)
    after = [first for first in BINS if first > begin]
    return f"{begin}-{after[0] - 1}" if after else f"{begin} and on"


def term_label(term: Term) -> str:
    """The label of a term: its source, stream, advantage and reference."""
    stream = "" if term.on == "logp" else f" {term.on}"
    return f"{term.source.label}{stream}: {term.advantage} over {term.reference}"


def largest_completions(tables: Mapping[str, Weighed], context: Context, num: int) -> list[Completion]:
    """The samples with the largest share of any method's mass; per problem and kind one correct and one wrong."""
    pieces = {name: dict(_pieces(table)) for name, table in tables.items()}
    candidates = {_key(*pair): pair for table in tables.values() for pair in table.samples}
    pushed = dict.fromkeys(candidates, 0.0)
    for coefficients_by_key in pieces.values():
        sizes = {key: sum(map(abs, values)) for key, values in coefficients_by_key.items()}
        for key, size in sizes.items():
            pushed[key] = max(pushed[key], size / (sum(sizes.values()) or 1.0))
    completions: dict[tuple[str, str, bool], Completion] = {}
    for key in sorted(candidates, key=lambda key: -pushed[key]):
        problem, sample = candidates[key]
        if len(completions) < num:
            texts = [context.tokenizer.decode([token]) for token in sample.ids]
            labels = [source.label for source in sample.sources]
            by_method = {name: coefficients_by_key.get(key) for name, coefficients_by_key in pieces.items()}
            completion = Completion(problem.id, sample.kind, sample.reward, texts, labels, by_method)
            completions.setdefault((problem.id, sample.kind, sample.correct), completion)
    return list(completions.values())


def _key(problem: Problem, sample: Sample) -> tuple[str, str, tuple[int, ...]]:
    return problem.id, sample.kind, tuple(sample.ids)


def _pieces(table: Weighed) -> Iterable[tuple[tuple[str, str, tuple[int, ...]], list[float]]]:
    """The coefficients of each sample, by its key."""
    lengths = [len(sample.ids) for _, sample in table.samples]
    for (problem, sample), piece in zip(table.samples, table.total().split(lengths), strict=True):
        yield _key(problem, sample), piece.tolist()
