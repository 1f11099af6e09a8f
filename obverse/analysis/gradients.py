"""`obverse analyze gradients`: signal and noise of gradients on real batches, and the angles between them.

A row is a method's gradient, or the part of it from demonstrations or from rollouts. They are compared with the plain
policy gradient (each rollout against the mean of the others, summed over its tokens), which is unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group as Stack
from rich.table import Table
from torch import Tensor

from obverse.analysis.context import (
    Context,
    NamedMethod,
    check_data,
    chosen_methods,
    initial_of,
    load_context,
    points,
    progress_at,
    with_run_options,
)
from obverse.analysis.forward_pass import forward_passes
from obverse.analysis.variance import format_number
from obverse.config.analyze import GradientsConfig
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.method_state import memory_values
from obverse.estimator.parts import LeaveOneOut, PerSample, Request
from obverse.models.batch import Update, pack
from obverse.runtime.callbacks import Silent, Watcher
from obverse.training.learners import Learner
from obverse.training.update import loss_of
from obverse.types import Group, Source

UNBIASED = "policy gradient"
NUM_SAMPLES = 8  # rollouts per problem of the policy gradient, without --num_generations
WHOLE, DEMONSTRATIONS, ROLLOUTS = "whole", "demonstrations", "own samples"


@dataclass(frozen=True)
class Row:
    """A gradient G over batches compared with the policy gradient, which has the expectation g.

    norm |E|, bias |E - g| / |g|, cosine of E and g with its standard error, scale <E, g> / |g|^2, variance
    E|G - E|^2 / |g|^2, snr |E|^2 / E|G - E|^2 (may be below 0 for a signal that is lost in noise), and the error: the
    least E|a G - g|^2 / |g|^2 over a >= 0. None if noise dominates E or g. All estimates are free of the bias that
    squares of noisy means have.
    """

    name: str
    part: str
    norm: float | None
    bias: float | None
    cosine: float | None
    cosine_error: float | None
    scale: float | None
    variance: float | None
    snr: float | None
    error: float | None


@dataclass(frozen=True)
class Parts:
    """The parts of a method's gradient from demonstrations and from rollouts: |E| of both and their cosine."""

    name: str
    shown: float | None
    own: float | None
    cosine: float | None


@dataclass(frozen=True)
class Stage:
    """One model: its rows, the mean cosine of every two gradients of the same batch [rows, rows], and parts."""

    name: str
    rows: list[Row]
    cosines: list[list[float | None]]
    parts: list[Parts]


@dataclass(frozen=True)
class Gradients:
    """The rows of every analyzed model, in the order of training."""

    num_batches: int
    num_problems: int
    stages: list[Stage]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        return {
            "question": "gradients",
            "num_batches": self.num_batches,
            "num_problems": self.num_problems,
            "stages": [
                {
                    "name": stage.name,
                    "rows": [vars(row) for row in stage.rows],
                    "cosines": {"names": [label(row) for row in stage.rows], "values": stage.cosines},
                    "parts": [vars(parts) for parts in stage.parts],
                }
                for stage in self.stages
            ],
        }

    def table(self) -> Stack:
        """The figures for a console."""
        tables = [table for stage in self.stages for table in (_rows(stage), _cosines(stage))]
        return Stack(*tables, *([_parts(self.stages)] if any(stage.parts for stage in self.stages) else []))


def label(row: Row) -> str:
    return row.name if row.part == WHOLE else f"{row.name}: {row.part}"


COLUMNS = ("norm", "bias", "cosine", "scale", "variance", "snr", "error")


def _rows(stage: Stage) -> Table:
    table = Table(title=f"{stage.name}: gradients compared with the policy gradient", title_justify="left")
    for column in ("gradient", *COLUMNS):
        table.add_column(column, justify="left" if column == "gradient" else "right")
    for row in stage.rows:
        cells = {column: _cell(getattr(row, column)) for column in COLUMNS}
        if row.cosine_error is not None:
            cells["cosine"] += f" +-{row.cosine_error:.1g}"
        table.add_row(label(row), *cells.values())
    table.caption, table.caption_justify = "-: too noisy with this number of batches", "left"
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else format_number(value)


def _parts(stages: Sequence[Stage]) -> Table:
    table = Table(title="demonstrations against own samples", title_justify="left")
    for column in ("model", "method", DEMONSTRATIONS, ROLLOUTS, "cosine"):
        table.add_column(column, justify="left" if column in ("model", "method") else "right")
    for stage in stages:
        for parts in stage.parts:
            table.add_row(stage.name, parts.name, *map(_cell, (parts.shown, parts.own, parts.cosine)))
    return table


def _cosines(stage: Stage) -> Table:
    table = Table(title=f"{stage.name}: cosines on the same batch", title_justify="left")
    table.add_column("")
    for number in range(1, len(stage.rows) + 1):
        table.add_column(str(number), justify="right")
    for number, (row, cells) in enumerate(zip(stage.rows, stage.cosines, strict=True), 1):
        table.add_row(f"{number} {label(row)}", *("-" if cell is None else f"{cell:.2f}" for cell in cells))
    return table


def gradients(config: GradientsConfig, watcher: Watcher | None = None) -> Gradients:
    """Gradients of several methods for a model, or of a run's method for its checkpoints; nothing is trained.

    Raises ConfigError for a method that needs more than a model and its data.
    """
    watch, config = watcher or Silent(), with_run_options(config)
    methods, saved_points = chosen_methods(config), points(config.model)
    stages = []
    total = len(saved_points) * config.num_batches
    for number, point in enumerate(saved_points):
        context, progress = load_context(config, point.path, initial_of(config)), progress_at(config, point)
        check_data(config, context, methods)
        compared = [*methods, *([NamedMethod(UNBIASED, policy_gradient(config))] if context.grades else [])]
        batches = []
        for batch in range(config.num_batches):
            watch.phase("train", number * config.num_batches + batch, total)
            batches.append(one_batch(context, compared, config, batch, progress))
        names = [key for key, _ in batches[0]]
        stacked = torch.stack([torch.stack([vector for _, vector in batch]) for batch in batches], dim=1)
        stages.append(stage_of(point.name, names, gram(stacked)))
    watch.phase("train", total, total)
    return Gradients(config.num_batches, config.num_problems, stages)


def policy_gradient(config: GradientsConfig) -> Method:
    """The unbiased gradient of the expected reward."""
    return Method(
        ask=Request(rollouts=max(2, config.num_generations or NUM_SAMPLES)),
        terms=(Term(Source.ROLLOUT, LeaveOneOut(), normalizer=PerSample()),),
    )


def one_batch(
    context: Context, methods: Iterable[NamedMethod], config: GradientsConfig, batch: int, progress: float
) -> list[tuple[tuple[str, str], Tensor]]:
    """(method, part) and gradient of every row; methods with equal requests use the same samples."""
    collected: dict[tuple[Any, ...], list[Group]] = {}
    rows = []
    for named in methods:
        method = named.method
        problems = context.batch(batch, config.num_problems)
        requests = tuple(request for problem in problems for request in [*method.ask(problem, progress), None])
        key = (requests, method.follow_up)
        if key not in collected:
            collected[key] = context.groups(method, batch, config.num_problems, progress)
        groups = collected[key]
        selected = [method.select(group) for group in groups]
        update = pack(selected, method.sources, context.params.temperature, memory_values(method, {}, groups))
        parts = {
            part: vector(context.learner(method), update, progress, terms, config.sketch)
            for part, terms in parts_of(method).items()
        }
        whole = torch.stack(list(parts.values())).sum(0)
        rows.append(((named.name, WHOLE), whole))
        rows += [((named.name, part), part_gradient) for part, part_gradient in parts.items() if part != WHOLE]
    return rows


def parts_of(method: Method) -> dict[str, tuple[Term, ...]]:
    """The terms on demonstrations (or their hints) and those on rollouts, if a method has both."""
    on_rollouts = tuple(term for term in method.terms if term.source is Source.ROLLOUT)
    on_demonstrations = tuple(term for term in method.terms if term.source is not Source.ROLLOUT)
    return (
        {DEMONSTRATIONS: on_demonstrations, ROLLOUTS: on_rollouts}
        if on_rollouts and on_demonstrations
        else {WHOLE: method.terms}
    )


def vector(learner: Learner, update: Update | None, progress: float, terms: Sequence[Term], sketch: int) -> Tensor:
    """The ascent direction of some of the method's terms in an update; float32 [sketch], or [parameters] for 0.

    Denominators are those of the whole update. The policy's gradients are zero before and after.
    """
    model = learner.policy.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if update is not None:
        model.zero_grad()
        for inputs, streams in forward_passes(learner, update, progress):
            loss_of(streams, inputs.tokens, inputs.samples, terms, progress, inputs.update).backward()
    total = sum(parameter.numel() for parameter in parameters)
    size = min(sketch, total) if sketch else total
    total_gradient = torch.zeros(size)
    start = 0
    for number, parameter in enumerate(parameters):
        if parameter.grad is not None:
            flat = -parameter.grad.detach().flatten().float().cpu()
            if size == total:
                total_gradient[start : start + len(flat)] = flat
            else:
                total_gradient += sketched(flat, size, number)
        start += parameter.numel()
    model.zero_grad()
    return total_gradient


def sketched(flat: Tensor, size: int, seed: int) -> Tensor:
    """A random projection [n] -> [size] that keeps inner products on average: each number goes, with a random sign, to
    a random place. Their relative error is about sqrt(2 / size). Source: count sketch, Charikar et al. 2002.
    """
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(size, flat.shape, generator=rng)
    sign = torch.randint(2, flat.shape, generator=rng) * 2 - 1
    return torch.zeros(size).index_add_(0, index, flat * sign)


def gram(vectors: Tensor) -> Tensor:
    """Inner products of all gradients [M, B, K] with each other; float64 [M, B, M, B]."""
    num, batches = vectors.shape[:2]
    flat = vectors.reshape(num * batches, -1).double()
    return (flat @ flat.T).reshape(num, batches, num, batches)


def stage_of(name: str, names: Sequence[tuple[str, str]], products: Tensor) -> Stage:
    """The figures of the gradients `names` (method, part) from their inner products [M, B, M, B]."""
    true = len(names) - 1 if names[-1][0] == UNBIASED else None
    rows = [row_of(*key, products, number, true) for number, key in enumerate(names)]
    cosines = [[_on_one_batch(products, first, second) for second in range(len(names))] for first in range(len(names))]
    demonstration_rows = {method: number for number, (method, part) in enumerate(names) if part == DEMONSTRATIONS}
    rollout_rows = {method: number for number, (method, part) in enumerate(names) if part == ROLLOUTS}
    parts = [
        Parts(method, rows[first].norm, rows[rollout_rows[method]].norm, cosine(products, first, rollout_rows[method]))
        for method, first in demonstration_rows.items()
    ]
    return Stage(name, rows, cosines, parts)


def row_of(name: str, part: str, products: Tensor, number: int, true: int | None) -> Row:
    """The figures of one gradient; without a policy gradient, those that compare with it are None."""
    signal, square = between(products, number, number), float(products[number, :, number].diagonal().mean())
    noise = square - signal
    norm, snr = math.sqrt(signal) if signal > 0 else None, signal / noise if noise > 1e-12 * square else None
    unit = 0.0 if true is None else between(products, true, true)
    if true is None or unit <= 0:
        return Row(name, part, norm, None, None, None, None, None, snr, None)
    along = between(products, number, true)
    return Row(
        name,
        part,
        norm,
        math.sqrt(max(signal - 2 * along + unit, 0.0) / unit),
        cosine(products, number, true),
        deviation(products, number, true),
        along / unit,
        noise / unit,
        snr,
        1 - max(along, 0.0) ** 2 / (unit * square) if square else 1.0,
    )


def between(products: Tensor, first: int, second: int) -> float:
    """<E G_one, E G_other>, unbiased: the mean inner product over all pairs of different batches."""
    block = products[first, :, second]
    num = len(block)
    return float((block.sum() - block.diagonal().sum()) / (num * (num - 1)))


def cosine(products: Tensor, first: int, second: int) -> float | None:
    """The cosine of two expectations; None if one of them is dominated by noise."""
    lengths = between(products, first, first) * between(products, second, second)
    if between(products, first, first) <= 0 or lengths <= 0:
        return None
    return max(-1.0, min(1.0, between(products, first, second) / math.sqrt(lengths)))


def deviation(products: Tensor, first: int, second: int) -> float | None:
    """The cosine's standard error, by a jackknife over batches; None if it is undefined for a subset."""
    num = products.shape[1]
    if num < 3:
        return None
    cosines = []
    for omitted in range(num):
        batches = [batch for batch in range(num) if batch != omitted]
        cosines.append(cosine(products[:, batches][:, :, :, batches], first, second))
    values = torch.tensor([value for value in cosines if value is not None], dtype=torch.float64)
    if len(values) < num:
        return None
    return float(((values - values.mean()) ** 2).sum().mul((num - 1) / num).sqrt())


def _on_one_batch(products: Tensor, first: int, second: int) -> float | None:
    """The mean cosine of two gradients of one batch, over the batches where neither is zero."""
    norms = products[first, :, first].diagonal() * products[second, :, second].diagonal()
    inner = products[first, :, second].diagonal()[norms > 0]
    return float((inner / norms[norms > 0].sqrt()).mean()) if len(inner) else None
