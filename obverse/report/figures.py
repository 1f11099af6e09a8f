"""Which figures a page shows, and in plain words what each of them means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from obverse.report.load_runs import AXES, RunData
from obverse.report.svg_chart import Chart, Series, number

SMOOTH = 25  # a curve is a running mean over a 25th of its steps
GRID = 120  # points at which runs on other axes than steps are brought together
MOST_ROWS = 20  # of the table beside a chart


@dataclass(frozen=True)
class Figure:
    """A picture with its meaning; `charts` has one per axis, or a single one under ""."""

    key: str
    title: str
    meaning: str
    charts: Mapping[str, Chart] = field(default_factory=dict)
    section: str = "curves"

    def chart(self, axis: str) -> Chart:
        """The chart on an axis, else the one there is."""
        return self.charts.get(axis) or next(iter(self.charts.values()))


@dataclass(frozen=True)
class Curve:
    """A figure of metrics.jsonl: the metrics with their names, the first of which a comparison shows."""

    key: str
    title: str
    unit: str
    names: Mapping[str, str]
    meaning: str
    percent: bool = False
    optional: bool = False  # no picture where it is zero throughout


CURVES = (
    Curve(
        "accuracy",
        "Own samples solved",
        "share of own samples",
        {"accuracy": ""},
        "The share of the model's own training samples that the verifier called right. It moves with the problems that "
        "happened to come; progress is proven on held-out problems only.",
        percent=True,
    ),
    Curve(
        "reward",
        "Reward",
        "reward",
        {"reward": "mean", "reward_std": "spread within a problem"},
        "The mean reward of own samples. The spread within a problem is what pure RL learns from: where all samples of "
        "a problem are rewarded alike, RL has nothing to compare.",
    ),
    Curve(
        "signal",
        "Problems without a signal for RL",
        "share of problems",
        {"frac_reward_zero_std": ""},
        "The share of problems whose own samples all got the same reward, all right or all wrong. Pure RL learns "
        "nothing from them; methods that read demonstrations still may.",
        percent=True,
    ),
    Curve(
        "entropy",
        "Entropy",
        "nats",
        {"entropy": ""},
        "How undecided the policy is over the next token, in nats, on the tokens that it trained on. A fall towards 0 "
        "means that its samples become alike and exploring ends.",
    ),
    Curve(
        "nll",
        "Surprise at demonstrations",
        "nats per token",
        {"nll": ""},
        "The mean negative log-likelihood of a demonstration's token, in nats, on the demonstrations that trained. "
        "Lower is closer to imitation; far below what held-out problems show it is memory.",
    ),
    Curve(
        "preferences",
        "Preferred responses",
        "share of pairs",
        {"rewards/accuracies": ""},
        "The share of pairs of which the model prefers the chosen response.",
        percent=True,
    ),
    Curve(
        "completions",
        "Form of completions",
        "share of own samples",
        {"completions/formatted": "has an answer", "completions/clipped_ratio": "cut off"},
        "The share of own samples with an answer where the verifier looks for one, and the share that the length limit "
        "cut off. What is cut off cannot be right: if that share is high, raise max_completion_length.",
        percent=True,
    ),
    Curve(
        "length",
        "Length of completions",
        "tokens",
        {"completions/mean_length": "mean", "completions/max_length": "longest"},
        "In tokens, own samples only.",
    ),
    Curve(
        "gradient",
        "Gradient norm",
        "norm before clipping",
        {"grad_norm": ""},
        "The size of each update before clipping. Spikes are single batches that pull hard; a norm that grows without "
        "end announces a collapse.",
    ),
    Curve(
        "mask",
        "Masked tokens",
        "share of own tokens",
        {"clip_ratio": ""},
        "The share of own tokens that the method's stability mask shut out, because the policy moved away from what "
        "sampled them.",
        percent=True,
        optional=True,
    ),
    Curve(
        "critic",
        "Error of the critic",
        "squared error",
        {"critic/error": ""},
        "The mean squared distance between what the critic expected and what came.",
    ),
    Curve(
        "speed",
        "Speed",
        "tokens per second",
        {"tokens_per_second": ""},
        "Generated plus trained tokens per second of a step.",
    ),
)
GATE = {
    "problems/demonstration": "a demonstration",
    "problems/rollout": "own samples",
    "problems/pairs": "pairs",
    "problems/none": "nothing",
}
GATE_MEANING = (
    "The share of each step's problems that trained on a demonstration (SFT), on the model's own samples (RL), or on "
    "nothing. For a method with a gate, such as HPT, this is the gate at work: as more problems are solved, imitation "
    "gives way to exploration."
)
TRAINED_MEANING = (
    "The share of the trained tokens by whose they are: shown (demonstrations and the like), or own samples, right or "
    "wrong. Samples without any advantage count too: how hard each token pushes is in its coefficient, not here."
)
BAND = " Lines are means over seeds, bands reach from the lowest to the highest seed."
SMOOTHED = " Faint: every step; strong: a running mean over {} steps."


def smooth(values: Sequence[float]) -> tuple[float, ...]:
    """A running mean, centered, of what is finite; NaN where nothing near is."""
    half = len(values) // SMOOTH // 2
    windows = (values[max(i - half, 0) : i + half + 1] for i in range(len(values)))
    return tuple(mean([value for value in window if math.isfinite(value)]) for window in windows)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def window(run: RunData) -> int:
    """Steps that the running mean of a run covers."""
    return 2 * (len(run.rows) // SMOOTH // 2) + 1


def curves_of(run: RunData) -> Iterator[Figure]:
    """The figures of a single run's metrics."""
    note = SMOOTHED.format(window(run)) if window(run) > 1 else ""
    for curve in CURVES:
        names = {name: label for name, label in curve.names.items() if run.has(name)}
        if not names or (curve.optional and not any(any(row.get(name) for row in run.rows) for name in names)):
            continue
        charts = {
            axis: Chart(
                AXES[axis], curve.unit, tuple(_line(run, x, *each) for each in names.items()), percent=curve.percent
            )
            for axis, x in run.axes.items()
        }
        yield Figure(curve.key, curve.title, curve.meaning + note, charts)


def _line(run: RunData, x: Sequence[float], name: str, label: str) -> Series:
    raw = tuple(run.values(name))
    return Series(label, tuple(x), smooth(raw), raw=raw if window(run) > 1 else ())


def gate_of(run: RunData) -> Iterator[Figure]:
    """What each step's problems trained on: areas where the shares add up to 1, lines where a problem is in two."""
    names = {name: label for name, label in GATE.items() if any(run.values(name)) and run.has(name)}
    if not names:
        return
    totals = [sum(parts) for parts in zip(*(run.values(name) for name in names), strict=True)]
    whole = all(abs(total - 1) < 1e-6 for total in totals)
    charts = {
        axis: Chart(
            AXES[axis],
            "share of problems that train on",
            tuple(Series(label, tuple(x), smooth(run.values(name))) for name, label in names.items()),
            kind="areas" if whole else "lines",
            percent=True,
            bounds=(0.0, 1.0),
        )
        for axis, x in run.axes.items()
    }
    note = f" Means over {window(run)} steps." if window(run) > 1 else ""
    yield Figure("gate", "What problems train on", GATE_MEANING + note, charts)


def trained_of(run: RunData, trained: Mapping[int, Mapping[str, int]]) -> Iterator[Figure]:
    """Whose tokens train, at the steps whose completions were read."""
    steps = [step for step, found in trained.items() if sum(found.values())]
    names = [name for name in trained[steps[0]] if any(trained[step][name] for step in steps)] if steps else []
    if len(names) < 2:
        return  # all of one kind: no picture needed
    totals = {step: sum(trained[step].values()) for step in steps}
    charts = {
        axis: Chart(
            AXES[axis],
            "share of trained tokens",
            tuple(
                Series(
                    name, tuple(run.place(axis, s) for s in steps), tuple(trained[s][name] / totals[s] for s in steps)
                )
                for name in names
            ),
            kind="areas",
            percent=True,
            bounds=(0.0, 1.0),
        )
        for axis in run.axes
    }
    yield Figure("trained", "Whose tokens train", TRAINED_MEANING, charts)


def compared(arms: Mapping[str, Sequence[RunData]]) -> Iterator[Figure]:
    """The figures of several runs: a line per arm, with a band where it has several seeds."""
    runs = [run for members in arms.values() for run in members]
    axes = [axis for axis in AXES if all(axis in run.axes for run in runs)]
    gate = [
        Curve(
            "gate",
            "Problems that train on a demonstration",
            "share of problems",
            {"problems/demonstration": ""},
            GATE_MEANING,
            True,
        )
    ]
    for curve in [*CURVES[:1], *gate, *CURVES[1:]]:
        name = next(iter(curve.names))
        charts = {}
        for axis in axes:
            found = [across(label, members, name, axis) for label, members in arms.items()]
            series = tuple(replace(each, color=i) for i, each in enumerate(found) if each)
            if series and not (curve.optional and not any(any(each.y) for each in series)):
                charts[axis] = Chart(AXES[axis], curve.unit, series, percent=curve.percent)
        if charts:
            note = BAND if any(each.low for each in next(iter(charts.values())).series) else ""
            yield Figure(curve.key, curve.title, curve.meaning + note + " Lines are smoothed.", charts)


def across(label: str, runs: Sequence[RunData], name: str, axis: str) -> Series | None:
    """One arm's curve over the stretch of the axis that all its seeds cover; None where no seed has the metric."""
    curves = []
    for run in runs:
        points = zip(run.axes[axis], smooth(run.values(name)), strict=True)
        pairs = [(x, y) for x, y in points if math.isfinite(x + y)]
        if pairs:
            curves.append(pairs)
    return together(label, curves)


def together(label: str, curves: Sequence[Sequence[tuple[float, float]]], marks: bool = False) -> Series | None:
    """Several curves as one: the mean at common places, with the lowest and the highest as its band."""
    if not curves:
        return None
    places = sorted({x for curve in curves for x, _ in curve})
    if any([x for x, _ in curve] != places for curve in curves):
        low, high = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
        places = list(np.linspace(low, max(high, low), GRID)) if not marks else [x for x in places if low <= x <= high]
    table = np.array([np.interp(places, [x for x, _ in curve], [y for _, y in curve]) for curve in curves])
    band = (tuple(table.min(axis=0)), tuple(table.max(axis=0))) if len(curves) > 1 else ((), ())
    return Series(label, tuple(places), tuple(table.mean(axis=0)), *band, marks=marks)


def table_of(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """The chart as a table, its other form: a header, and rows at evenly spread places."""
    if chart.kind == "bars":
        return ["", *(each.name for each in chart.series)], [
            [name, *(_cell(chart, each, each.x.index(i) if i in each.x else None) for each in chart.series)]
            for i, name in enumerate(chart.categories)
        ]
    places = sorted({x for each in chart.series for x in each.x})
    if len(places) > MOST_ROWS:
        places = [places[round(i * (len(places) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    rows = [[number(place), *(_read(chart, each, place) for each in chart.series)] for place in places]
    return [chart.x_label, *(each.name or chart.y_label for each in chart.series)], rows


def _read(chart: Chart, series: Series, place: float) -> str:
    """What a curve says at a place: its point there, or between two points what the line between them says."""
    if place in series.x:
        return _cell(chart, series, series.x.index(place))
    if series.marks or not series.x or not series.x[0] < place < series.x[-1]:
        return ""
    return number(float(np.interp(place, series.x, series.y)), chart.percent)


def _cell(chart: Chart, series: Series, at: int | None) -> str:
    if at is None:
        return ""
    text = number((series.raw or series.y)[at], chart.percent)
    if series.low:
        text += f" ({number(series.low[at], chart.percent)} to {number(series.high[at], chart.percent)})"
    return text


def spoken(figure: Figure, chart: Chart) -> str:
    """What a screen reader says in place of the picture."""
    if chart.kind == "bars":
        said = [
            f"{each.name}: "
            + ", ".join(
                f"{chart.categories[int(x)]} {number(y, chart.percent)}" for x, y in zip(each.x, each.y, strict=True)
            )
            for each in chart.series
        ]
    else:
        said = [
            f"{each.name or chart.y_label} from "
            f"{number(each.y[0], chart.percent)} to {number(each.y[-1], chart.percent)}"
            for each in chart.series
            if each.x
        ]
    return f"{figure.title}, over {chart.x_label or 'groups'}. {'; '.join(said)}. The numbers are in the table below."
