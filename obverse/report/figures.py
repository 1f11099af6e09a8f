"""The figures of training metrics, each with an explanation for readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from obverse.report.load_runs import AXES, RunData
from obverse.report.svg_chart import Chart, Series, number

SMOOTH = 25  # a curve is a running mean over a 25th of its steps
GRID = 120  # common points of runs with different x values
MOST_ROWS = 20  # of the table beside a chart


@dataclass(frozen=True)
class Figure:
    """A chart with its explanation; `charts` has one per axis, or a single one under ""."""

    key: str
    title: str
    meaning: str
    charts: Mapping[str, Chart] = field(default_factory=dict)
    section: str = "curves"

    def chart(self, axis: str) -> Chart:
        """The chart over `axis`, or the first chart if the figure does not have that axis."""
        return self.charts.get(axis) or next(iter(self.charts.values()))


@dataclass(frozen=True)
class Curve:
    """A figure of metrics.jsonl: its metrics with their labels; a page of several runs shows only the first metric."""

    key: str
    title: str
    unit: str
    names: Mapping[str, str]
    meaning: str
    percent: bool = False
    optional: bool = False  # omitted where all values are zero


CURVES = (
    Curve(
        "accuracy",
        "Correct rollouts",
        "share of rollouts",
        {"accuracy": ""},
        "The share of the rollouts that the verifier graded correct. It also varies with the problems of each step; "
        "only held-out problems show progress.",
        percent=True,
    ),
    Curve(
        "reward",
        "Reward",
        "reward",
        {"reward": "mean", "reward_std": "spread within a problem"},
        "The mean reward of rollouts. Pure RL learns from the spread within a problem: where all rollouts of a problem "
        "have the same reward, their advantages are zero.",
    ),
    Curve(
        "signal",
        "Problems without a signal for RL",
        "share of problems",
        {"frac_reward_zero_std": ""},
        "The share of problems with equal rewards of all rollouts, all correct or all wrong. Pure RL learns "
        "nothing from them; methods that use demonstrations may.",
        percent=True,
    ),
    Curve(
        "kl",
        "KL to the initial model",
        "nats per token",
        {"kl": ""},
        "The mean KL divergence of the policy from the initial model per token of its rollouts (k3), whether or not "
        "the loss has it. It grows as the policy leaves the initial model; without an initial model there is no curve.",
    ),
    Curve(
        "teacher",
        "KL to the teacher",
        "nats per token",
        {"teacher/kl": ""},
        "The mean of log pi - log pi_T per token of the rollouts, which estimates the reverse KL of the policy from "
        "the teacher. Distillation lowers it; a single step may be below 0.",
    ),
    Curve(
        "teacher-better",
        "Tokens that the teacher finds likelier",
        "share of tokens",
        {"teacher/better": ""},
        "The share of the rollouts' tokens with a higher log-prob under the teacher than under the policy, which "
        "distillation raises. The others are lowered.",
        percent=True,
    ),
    Curve(
        "divergence",
        "Divergence from the target",
        "nats per token",
        {"divergence": ""},
        "The mean divergence of the policy's distribution over the vocabulary from that of its target, the initial "
        "model or a teacher, on the tokens whose loss has it. Distillation lowers it; held to the initial model, the "
        "policy leaves it slowly.",
    ),
    Curve(
        "entropy",
        "Entropy",
        "nats",
        {"entropy": ""},
        "The entropy of the next token, in nats, on the trained tokens. A fall towards 0 means that rollouts become "
        "alike and that exploration ends.",
    ),
    Curve(
        "nll",
        "Negative log-likelihood of demonstrations",
        "nats per token",
        {"nll": ""},
        "The mean negative log-likelihood of a demonstration's token, in nats, on the demonstrations that trained. "
        "Lower is closer to the demonstrations; a value far below that of held-out problems means memorization.",
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
        "share of rollouts",
        {
            "completions/formatted": "has an answer",
            "completions/clipped_ratio": "cut off",
            "completions/repetition": "repeated",
        },
        "The share of rollouts with an answer in the form that the verifier expects, the share that the length limit "
        "cut off, and the share of runs of four tokens that occurred before in the same completion. A completion that "
        "is cut off cannot be correct: if many are, raise max_completion_length.",
        percent=True,
    ),
    Curve(
        "length",
        "Length of completions",
        "tokens",
        {
            "completions/mean_length": "mean",
            "completions/mean_length_correct": "correct",
            "completions/mean_length_incorrect": "incorrect",
            "completions/max_length": "longest",
        },
        "In tokens, rollouts only.",
    ),
    Curve(
        "gradient",
        "Gradient norm",
        "norm before clipping",
        {"grad_norm": ""},
        "The norm of each update's gradient before clipping. Spikes come from single batches; a norm that keeps "
        "growing often precedes a collapse.",
    ),
    Curve(
        "mask",
        "Masked tokens",
        "share of rollout tokens",
        {"clip_ratio": ""},
        "The share of rollout tokens that the method's mask excludes, because the policy moved away from the policy "
        "that sampled them.",
        percent=True,
        optional=True,
    ),
    Curve(
        "critic",
        "Error of the critic",
        "squared error",
        {"critic/error": ""},
        "The mean squared error of the critic's values against the returns.",
    ),
    Curve(
        "speed",
        "Speed",
        "tokens per second",
        {
            "tokens_per_second": "step",
            "tokens_per_second/sample": "sampling",
            "tokens_per_second/train": "training",
        },
        "Generated plus trained tokens per second of a step, generated ones per second of sampling, and trained ones "
        "per second of training.",
    ),
)
GATE = {
    "problems/demonstration": "a demonstration",
    "problems/rollout": "rollouts",
    "problems/pairs": "pairs",
    "problems/none": "nothing",
}
GATE_MEANING = (
    "The share of each step's problems that trained on a demonstration (SFT), on rollouts (RL), or on nothing. For a "
    "method with a gate, such as HPT, it shows the gate: as more problems are solved, fewer train on a demonstration."
)
TRAINED_MEANING = (
    "The share of the trained tokens by source: demonstrations and other given texts, correct rollouts, or wrong "
    "rollouts. Samples with an advantage of zero count too; the weight of a token is its coefficient."
)
BAND = " Lines are means over seeds, bands reach from the lowest to the highest seed."
SMOOTHED = " Faint: every step; strong: a running mean over {} steps."


def smooth(values: Sequence[float]) -> tuple[float, ...]:
    """A centered running mean of the finite values; NaN where the window has none."""
    half = len(values) // SMOOTH // 2
    windows = (values[max(i - half, 0) : i + half + 1] for i in range(len(values)))
    return tuple(mean([value for value in window if math.isfinite(value)]) for window in windows)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def window(run: RunData) -> int:
    """The number of steps in the window of a run's running mean."""
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
                AXES[axis], curve.unit, tuple(_line(run, x, *metric) for metric in names.items()), percent=curve.percent
            )
            for axis, x in run.axes.items()
        }
        yield Figure(curve.key, curve.title, curve.meaning + note, charts)


def _line(run: RunData, x: Sequence[float], name: str, label: str) -> Series:
    raw = tuple(run.values(name))
    return Series(label, tuple(x), smooth(raw), raw=raw if window(run) > 1 else ())


def gate_of(run: RunData) -> Iterator[Figure]:
    """The sources that each step's problems trained on: areas if the shares add up to 1, else lines."""
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
    """The sources of the trained tokens, at the steps with completions on the page."""
    steps = [step for step, tokens in trained.items() if sum(tokens.values())]
    names = [name for name in trained[steps[0]] if any(trained[step][name] for step in steps)] if steps else []
    if len(names) < 2:
        return  # a single source needs no figure
    totals = {step: sum(trained[step].values()) for step in steps}
    charts = {
        axis: Chart(
            AXES[axis],
            "share of trained tokens",
            tuple(
                Series(
                    name,
                    tuple(run.axis_value(axis, s) for s in steps),
                    tuple(trained[s][name] / totals[s] for s in steps),
                )
                for name in names
            ),
            kind="areas",
            percent=True,
            bounds=(0.0, 1.0),
        )
        for axis in run.axes
    }
    yield Figure("trained", "Trained tokens by source", TRAINED_MEANING, charts)


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
            lines = [across(label, members, name, axis) for label, members in arms.items()]
            colored = tuple(replace(line, color=i) for i, line in enumerate(lines) if line)
            if colored and not (curve.optional and not any(any(line.y) for line in colored)):
                charts[axis] = Chart(AXES[axis], curve.unit, colored, percent=curve.percent)
        if charts:
            note = BAND if any(series.low for series in next(iter(charts.values())).series) else ""
            yield Figure(curve.key, curve.title, curve.meaning + note + " Lines are smoothed.", charts)


def across(label: str, runs: Sequence[RunData], name: str, axis: str) -> Series | None:
    """One arm's curve over the part of the axis that all its seeds cover; None if no seed has the metric."""
    curves = []
    for run in runs:
        points = zip(run.axes[axis], smooth(run.values(name)), strict=True)
        pairs = [(x, y) for x, y in points if math.isfinite(x + y)]
        if pairs:
            curves.append(pairs)
    return together(label, curves)


def together(label: str, curves: Sequence[Sequence[tuple[float, float]]], marks: bool = False) -> Series | None:
    """Several curves as one: the mean at common x values, with the lowest and the highest value as its band."""
    if not curves:
        return None
    common = sorted({x for curve in curves for x, _ in curve})
    if any([x for x, _ in curve] != common for curve in curves):
        low, high = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
        common = list(np.linspace(low, max(high, low), GRID)) if not marks else [x for x in common if low <= x <= high]
    table = np.array([np.interp(common, [x for x, _ in curve], [y for _, y in curve]) for curve in curves])
    band = (tuple(table.min(axis=0)), tuple(table.max(axis=0))) if len(curves) > 1 else ((), ())
    return Series(label, tuple(common), tuple(table.mean(axis=0)), *band, marks=marks)


def table_of(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """The chart as a table: a header, and rows at evenly spaced x values."""
    if chart.kind == "bars":
        return ["", *(series.name for series in chart.series)], [
            [name, *(_cell(chart, series, series.x.index(i) if i in series.x else None) for series in chart.series)]
            for i, name in enumerate(chart.categories)
        ]
    xs = sorted({x for series in chart.series for x in series.x})
    if len(xs) > MOST_ROWS:
        xs = [xs[round(i * (len(xs) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    rows = [[number(x), *(_value_at(chart, series, x) for series in chart.series)] for x in xs]
    return [chart.x_label, *(series.name or chart.y_label for series in chart.series)], rows


def _value_at(chart: Chart, series: Series, x: float) -> str:
    """The value of a curve at `x` as text: its point, or the interpolation between two points."""
    if x in series.x:
        return _cell(chart, series, series.x.index(x))
    if series.marks or not series.x or not series.x[0] < x < series.x[-1]:
        return ""
    return number(float(np.interp(x, series.x, series.y)), chart.percent)


def _cell(chart: Chart, series: Series, index: int | None) -> str:
    if index is None:
        return ""
    text = number((series.raw or series.y)[index], chart.percent)
    if series.low:
        text += f" ({number(series.low[index], chart.percent)} to {number(series.high[index], chart.percent)})"
    return text


def spoken(figure: Figure, chart: Chart) -> str:
    """The description of the chart for screen readers."""
    if chart.kind == "bars":
        descriptions = []
        for series in chart.series:
            pairs = zip(series.x, series.y, strict=True)
            bars = (f"{chart.categories[int(x)]} {number(y, chart.percent)}" for x, y in pairs)
            descriptions.append(f"{series.name}: {', '.join(bars)}")
    else:
        descriptions = [
            f"{series.name or chart.y_label} from "
            f"{number(series.y[0], chart.percent)} to {number(series.y[-1], chart.percent)}"
            for series in chart.series
            if series.x
        ]
    text = "; ".join(descriptions)
    return f"{figure.title}, over {chart.x_label or 'groups'}. {text}. The numbers are in the table below."
