"""Figures and tables of the files that `obverse analyze` wrote into the folder analysis/ beside the runs."""

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
Analysis = Mapping[str, Any]
INTROS = {
    "variance": (
        "Bias and variance",
        "For a policy with so few completions that all of them can be enumerated, the true gradient of the expected "
        "reward is computed exactly. Bias is the distance of a method's mean gradient from it, variance the spread "
        "over batches, both in units of the true gradient. The error combines them: 0 is the true direction, 1 is no "
        "information about it. Methods with a teacher are also compared with the gradient of the reverse KL from it.",
    ),
    "gradients": (
        "Gradients",
        "The norm of the gradient of each method, or each part of it, on the same batch. A part that is many times "
        "larger than the other determines the direction of the update.",
    ),
    "coefficients": (
        "Coefficients",
        "The share of the absolute coefficients by group of tokens. A coefficient is the number by which a method "
        "multiplies the gradient of a token's log-prob; the coefficients determine the update completely.",
    ),
    "shift": (
        "Token probabilities",
        "The probabilities of the same tokens before and after training. Mass that moves from the middle to both ends "
        "is polarization: some tokens became nearly certain, others nearly impossible.",
    ),
    "coverage": (
        "Coverage",
        "pass@k before and after training. Beyond the k at which the curves cross, the trained model solves fewer "
        "problems than the base model with the same number of samples.",
    ),
}


def analysis_sections(folder: Path) -> Iterator[Section]:
    """A section for each analysis in `folder`/analysis, in the order of INTROS."""
    analyses: dict[str, Analysis] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        if path.stem not in INTROS:
            continue
        content = sealing.read_sealed(path)
        if content.get("question") != path.stem:
            raise DataError(f"{path} is not a file of obverse analyze {path.stem}: {schemas.REMEDY}")
        analyses[path.stem] = schemas.check(schemas.ANALYSES[path.stem], content, str(path))
    drawings = {
        "variance": (variance_figures, variance_tables),
        "gradients": (gradient_figures, gradient_tables),
        "coefficients": (coefficient_figures, lambda analysis: iter(())),
        "shift": (shift_figures, shift_tables),
        "coverage": (coverage_figures, coverage_tables),
    }
    for question, (name, intro) in INTROS.items():
        if question in analyses:
            figures, tables = drawings[question]
            analysis = analyses[question]
            shaded = analysis.get("completions", ()) if question == "coefficients" else ()
            yield Section(question, name, intro, list(figures(analysis)), list(tables(analysis)), shades(shaded))


def labeled(methods: Sequence[Analysis]) -> list[tuple[str, Analysis]]:
    """Methods with their labels.

    A stage of a training schedule has its index in the label; so has another objective than the expected reward.
    """
    names = [(method["method"], method.get("objective")) for method in methods]
    return [
        (
            method["method"]
            + (f", stage {method.get('lane', 0)}" if names.count(name) > 1 else "")
            + (f", {method['objective']}" if method.get("objective") else ""),
            method,
        )
        for method, name in zip(methods, names, strict=True)
    ]


def variance_figures(analysis: Analysis) -> Iterator[Figure]:
    x = tuple(float(stage["success"]) for stage in analysis["stages"])
    series = tuple(
        Series(name, x, tuple(as_float(stage["error"]) for stage in method["stages"]), marks=True)
        for name, method in labeled(analysis["methods"])
    )
    chart = Chart("share of correct samples", "error of one batch's gradient", series)
    meaning = "Lower is closer to the true gradient's direction, at several success rates of the policy."
    yield Figure("error", "Error of the gradient", meaning, {"": chart}, "analysis")


def variance_tables(analysis: Analysis) -> Iterator[Table]:
    header = ["method", *(f"{number(stage['success'], True)} correct" for stage in analysis["stages"])]
    rows = [
        [
            name,
            *(
                f"{number(as_float(stage['bias']))} / {number(as_float(stage['variance']))}"
                for stage in method["stages"]
            ),
        ]
        for name, method in labeled(analysis["methods"])
    ]
    yield table("Bias / variance", header, rows, "In units of the true gradient's norm, and of its square.")


def gradient_figures(analysis: Analysis) -> Iterator[Figure]:
    stages = analysis["stages"]
    keys = list(dict.fromkeys((row["name"], row["part"]) for stage in stages for row in stage["rows"]))
    norms = [{(row["name"], row["part"]): row["norm"] for row in stage["rows"]} for stage in stages]
    x = tuple(float(i) for i in range(len(stages)))
    series = tuple(
        Series(f"{name}, {part}", x, tuple(as_float(stage.get((name, part))) for stage in norms)) for name, part in keys
    )
    chart = Chart("", "norm of the gradient", series, "bars", tuple(stage["name"] for stage in stages))
    yield Figure("norms", "Size of gradients", "Each method, or part of it, on one batch.", {"": chart}, "analysis")


def gradient_tables(analysis: Analysis) -> Iterator[Table]:
    for stage in analysis["stages"]:
        names = stage["cosines"]["names"]
        rows = [
            [name, *(number(as_float(value)) for value in values)]
            for name, values in zip(names, stage["cosines"]["values"], strict=True)
        ]
        note = "1: the same direction, 0: orthogonal, below 0: opposed."
        yield table(f"Cosine between gradients, {stage['name']}", ["", *names], rows, note)


def coefficient_figures(analysis: Analysis) -> Iterator[Figure]:
    methods = analysis["methods"]
    kinds = list(dict.fromkeys(mass["by"] for method in methods for mass in method["masses"]))
    for kind in kinds:
        shares = {
            method["method"]: {mass["name"]: mass["share"] for mass in method["masses"] if mass["by"] == kind}
            for method in methods
        }
        names = list(dict.fromkeys(name for share_of in shares.values() for name in share_of))
        x = tuple(float(i) for i in range(len(names)))
        series = tuple(
            Series(method, x, tuple(as_float(share_of.get(name)) for name in names))
            for method, share_of in shares.items()
        )
        chart = Chart(kind, "share of the absolute coefficients", series, "bars", tuple(names), percent=True)
        meaning = f"One update ({analysis.get('about', 'one batch')}), divided by {kind}."
        yield Figure(f"mass-{kind}", f"Coefficients by {kind}", meaning, {"": chart}, "analysis")


def shift_figures(analysis: Analysis) -> Iterator[Figure]:
    names = {side: str(analysis.get(side, side)) for side in ("before", "after")}
    for texts in analysis["kinds"]:
        kind, edges = texts["kind"], texts["edges"]
        categories = tuple(number(low) for low in edges[:-1])
        x = tuple(float(i) for i in range(len(categories)))
        series = tuple(Series(name, x, tuple(map(float, texts[side]))) for side, name in names.items())
        chart = Chart("probability, from", "share of tokens", series, "bars", categories, percent=True)
        meaning = (
            f"{number(float(texts['num_tokens']))} tokens of {kind}s, by the probability that the model gives them."
        )
        yield Figure(f"shift-{kind}", f"Probability of {kind} tokens", meaning, {"": chart}, "analysis")
        rows = texts.get("entropy") or []
        if rows:
            positions = tuple(float(row["position"]) for row in rows)
            lines = tuple(
                Series(name, positions, tuple(as_float(row[side]) for row in rows), marks=True)
                for side, name in names.items()
            )
            chart = Chart("position in the completion", "nats", lines)
            meaning = "The entropy of the next token at each position of the completion."
            yield Figure(f"entropy-{kind}", f"Entropy by position, {kind}s", meaning, {"": chart}, "analysis")


def shift_tables(analysis: Analysis) -> Iterator[Table]:
    for texts in analysis["kinds"]:
        for side in ("raised", "lowered"):
            rows = [
                [str(row["token"]), number(as_float(row["change"])), str(row["num"])] for row in texts.get(side) or []
            ]
            if rows:
                yield table(f"Most {side} tokens of {texts['kind']}s", ["token", "mean change", "times"], rows)


def coverage_figures(analysis: Analysis) -> Iterator[Figure]:
    series = []
    for policy in analysis["policies"]:
        points = sorted((int(k), float(value)) for k, value in policy["pass"].items())
        ends = [(policy.get("interval") or {}).get(str(k)) or (value, value) for k, value in points]
        low, high = zip(*ends, strict=True)
        x, y = zip(*points, strict=True)
        series.append(Series(policy["name"], tuple(map(float, x)), y, low, high))
    chart = Chart("k", "pass@k", tuple(series), percent=True, log_x=True)
    meaning = f"On {analysis['num_problems']} problems. Bands are 95 % intervals over problems."
    yield Figure("coverage", "pass@k before and after", meaning, {"": chart}, "analysis")


def coverage_tables(analysis: Analysis) -> Iterator[Table]:
    rows = [
        [
            policy["name"],
            "none" if policy.get("crossover") is None else str(policy["crossover"]),
            str(len(policy["gained"])),
            str(len(policy["lost"])),
            f"{len(policy['forgotten'])} of {policy['able']}",
        ]
        for policy in analysis["against"]
    ]
    header = ["policy", "falls behind the base at k", "gained", "lost", "forgotten"]
    note = (
        "Gained and lost: problems solved by one of the two only. Forgotten: of the problems that the base could solve."
    )
    yield table("Against the base", header, rows, note)


LEVELS = 6  # of shade to either side of zero


def shades(completions: Sequence[Analysis]) -> list[dict[str, Any]]:
    """Completions with the shade of every token under each method: -6 (most lowered) to 6 (most raised)."""
    entries = []
    for completion in completions:
        shaded = []
        for method, weights in completion["coefficients"].items():
            if weights is None:
                continue  # the sample is not in this method's batch
            most = max(map(abs, weights), default=0.0) or 1.0
            tokens = [
                (text, math.copysign(math.ceil(LEVELS * (abs(weight) / most)), weight), weight)
                for text, weight in zip(completion["tokens"], weights, strict=True)
            ]
            shaded.append((method, tokens))
        about = f"{completion['problem']}: {completion['kind']}, reward {number(as_float(completion['reward']))}"
        entries.append({"about": about, "methods": shaded})
    return entries


def as_float(value: Any) -> float:
    """A number of a file; NaN for null, which means undefined."""
    return math.nan if value is None else float(value)
