"""Pictures of what `obverse analyze` found: files of JSON in the folder analysis/ beside the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from obverse.errors import DataError
from obverse.report import schemas
from obverse.report.figures import Figure
from obverse.report.page import Section
from obverse.report.svg_chart import Chart, Series, number
from obverse.report.tables import Table, table
from obverse.runtime import integrity as sealing

FOLDER = "analysis"
Answer = Mapping[str, Any]
INTROS = {
    "variance": (
        "Bias and variance",
        "On a policy so small that every completion can be counted, the true gradient of expected reward is known. "
        "Bias is how far a method's mean gradient lies from it, variance how much one batch differs from the next, "
        "both in units of the true gradient. The error joins them: 0 knows the true direction, 1 knows nothing of it.",
    ),
    "gradients": (
        "Gradients",
        "The size of the gradient that each method, or each part of it, would take on the same batch. A part that is "
        "many times larger than the other decides alone where the policy goes.",
    ),
    "coefficients": (
        "Coefficients",
        "Who pushed: the share of the absolute coefficients by where the tokens came from. A coefficient is the one "
        "number by which a method weighs a token; all that a method is lies in them.",
    ),
    "shift": (
        "Token probabilities",
        "What training did to the probabilities that the model gives to the same tokens. Mass that leaves the middle "
        "for both ends is polarization: the model became surer of some tokens and gave others up.",
    ),
    "coverage": (
        "Coverage",
        "pass@k of the model before training against after it. Where the curves cross, the trained model solves fewer "
        "problems than the base would with as many tries.",
    ),
}


def analysis_sections(folder: Path) -> Iterator[Section]:
    """A section for each answer in `folder`/analysis, in the order in which they are explained above."""
    found: dict[str, Answer] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        if path.stem not in INTROS:
            continue
        read = sealing.read_sealed(path)
        if read.get("question") != path.stem:
            raise DataError(f"{path} is no answer of obverse analyze {path.stem}: {schemas.REMEDY}")
        found[path.stem] = schemas.check(schemas.ANSWERS[path.stem], read, str(path))
    draws = {
        "variance": (variance_figures, variance_tables),
        "gradients": (gradient_figures, gradient_tables),
        "coefficients": (coefficient_figures, lambda answer: iter(())),
        "shift": (shift_figures, shift_tables),
        "coverage": (coverage_figures, coverage_tables),
    }
    for question, (name, intro) in INTROS.items():
        if question in found:
            figures, tables = draws[question]
            answer = found[question]
            shaded = answer.get("completions", ()) if question == "coefficients" else ()
            yield Section(question, name, intro, list(figures(answer)), list(tables(answer)), shades(shaded))


def named(methods: Sequence[Answer]) -> list[tuple[str, Answer]]:
    """Methods by name; a lane of a course has its number."""
    names = [each["method"] for each in methods]
    return [
        (each["method"] + (f", lane {each.get('lane', 0)}" if names.count(each["method"]) > 1 else ""), each)
        for each in methods
    ]


def variance_figures(answer: Answer) -> Iterator[Figure]:
    x = tuple(float(stage["success"]) for stage in answer["stages"])
    series = tuple(
        Series(name, x, tuple(known(stage["error"]) for stage in each["stages"]), marks=True)
        for name, each in named(answer["methods"])
    )
    chart = Chart("share of samples that are right", "error of one batch's gradient", series)
    meaning = "The lower, the more of the true gradient's direction one batch gives, at four stages of learning."
    yield Figure("error", "Error of the gradient", meaning, {"": chart}, "analysis")


def variance_tables(answer: Answer) -> Iterator[Table]:
    header = ["method", *(f"{number(stage['success'], True)} right" for stage in answer["stages"])]
    rows = [
        [name, *(f"{number(known(s['bias']))} / {number(known(s['variance']))}" for s in each["stages"])]
        for name, each in named(answer["methods"])
    ]
    yield table("Bias / variance", header, rows, "In units of the true gradient's norm, and of its square.")


def gradient_figures(answer: Answer) -> Iterator[Figure]:
    stages = answer["stages"]
    keys = list(dict.fromkeys((row["name"], row["part"]) for stage in stages for row in stage["rows"]))
    norms = [{(row["name"], row["part"]): row["norm"] for row in stage["rows"]} for stage in stages]
    x = tuple(float(i) for i in range(len(stages)))
    series = tuple(
        Series(f"{name}, {part}", x, tuple(known(stage.get((name, part))) for stage in norms)) for name, part in keys
    )
    chart = Chart("", "norm of the gradient", series, "bars", tuple(stage["name"] for stage in stages))
    yield Figure("norms", "Size of gradients", "Each method, or part of it, on one batch.", {"": chart}, "analysis")


def gradient_tables(answer: Answer) -> Iterator[Table]:
    for stage in answer["stages"]:
        names = stage["cosines"]["names"]
        rows = [
            [name, *(number(known(value)) for value in values)]
            for name, values in zip(names, stage["cosines"]["values"], strict=True)
        ]
        note = "1: the same direction, 0: nothing in common, below 0: one undoes the other."
        yield table(f"Cosine between gradients, {stage['name']}", ["", *names], rows, note)


def coefficient_figures(answer: Answer) -> Iterator[Figure]:
    methods = answer["methods"]
    kinds = list(dict.fromkeys(mass["by"] for each in methods for mass in each["masses"]))
    for kind in kinds:
        shares = {
            each["method"]: {m["name"]: m["share"] for m in each["masses"] if m["by"] == kind} for each in methods
        }
        names = list(dict.fromkeys(name for each in shares.values() for name in each))
        x = tuple(float(i) for i in range(len(names)))
        series = tuple(
            Series(method, x, tuple(known(found.get(name)) for name in names)) for method, found in shares.items()
        )
        chart = Chart(kind, "share of the absolute coefficients", series, "bars", tuple(names), percent=True)
        meaning = f"One update ({answer.get('about', 'one batch')}), divided by {kind}."
        yield Figure(f"mass-{kind}", f"Who pushed, by {kind}", meaning, {"": chart}, "analysis")


def shift_figures(answer: Answer) -> Iterator[Figure]:
    names = {side: str(answer.get(side, side)) for side in ("before", "after")}
    for each in answer["kinds"]:
        kind, edges = each["kind"], each["edges"]
        categories = tuple(number(low) for low in edges[:-1])
        x = tuple(float(i) for i in range(len(categories)))
        series = tuple(Series(name, x, tuple(map(float, each[side]))) for side, name in names.items())
        chart = Chart("probability, from", "share of tokens", series, "bars", categories, percent=True)
        meaning = (
            f"{number(float(each['num_tokens']))} tokens of {kind}s, by the probability that the model gives them."
        )
        yield Figure(f"shift-{kind}", f"Probability of {kind} tokens", meaning, {"": chart}, "analysis")
        rows = each.get("entropy") or []
        if rows:
            place = tuple(float(row["position"]) for row in rows)
            lines = tuple(
                Series(name, place, tuple(known(row[side]) for row in rows), marks=True) for side, name in names.items()
            )
            chart = Chart("position in the completion", "nats", lines)
            meaning = "How undecided the model is at each position: where a completion still branches."
            yield Figure(f"entropy-{kind}", f"Entropy by position, {kind}s", meaning, {"": chart}, "analysis")


def shift_tables(answer: Answer) -> Iterator[Table]:
    for each in answer["kinds"]:
        for side in ("raised", "lowered"):
            rows = [[str(row["token"]), number(known(row["change"])), str(row["num"])] for row in each.get(side) or []]
            if rows:
                yield table(f"Most {side} tokens of {each['kind']}s", ["token", "mean change", "times"], rows)


def coverage_figures(answer: Answer) -> Iterator[Figure]:
    series = []
    for each in answer["policies"]:
        points = sorted((int(k), float(value)) for k, value in each["pass"].items())
        ends = [(each.get("interval") or {}).get(str(k)) or (value, value) for k, value in points]
        low, high = zip(*ends, strict=True)
        x, y = zip(*points, strict=True)
        series.append(Series(each["name"], tuple(map(float, x)), y, low, high))
    chart = Chart("k", "pass@k", tuple(series), percent=True, log_x=True)
    meaning = f"On {answer['num_problems']} problems. Bands are 95 % intervals over problems."
    yield Figure("coverage", "pass@k before and after", meaning, {"": chart}, "analysis")


def coverage_tables(answer: Answer) -> Iterator[Table]:
    rows = [
        [
            each["name"],
            "none" if each.get("crossover") is None else str(each["crossover"]),
            str(len(each["gained"])),
            str(len(each["lost"])),
            f"{len(each['forgotten'])} of {each['able']}",
        ]
        for each in answer["against"]
    ]
    header = ["policy", "falls behind the base at k", "gained", "lost", "forgotten"]
    note = "Problems: solved by one of the two only, and forgotten of those that the base was able to solve."
    yield table("Against the base", header, rows, note)


LEVELS = 6  # of shade to either side of zero


def shades(completions: Sequence[Answer]) -> list[dict[str, Any]]:
    """Completions with the shade of every token under each method: -6 (most lowered) to 6 (most raised)."""
    found = []
    for each in completions:
        shaded = []
        for method, weights in each["coefficients"].items():
            if weights is None:
                continue  # it did not train under this method
            most = max(map(abs, weights), default=0.0) or 1.0
            tokens = [
                (text, math.copysign(math.ceil(LEVELS * (abs(weight) / most)), weight), weight)
                for text, weight in zip(each["tokens"], weights, strict=True)
            ]
            shaded.append((method, tokens))
        about = f"{each['problem']}: {each['kind']}, reward {number(known(each['reward']))}"
        found.append({"about": about, "methods": shaded})
    return found


def known(value: Any) -> float:
    """A number of an answer; NaN where it is null, for undefined."""
    return math.nan if value is None else float(value)
