"""Coefficients of handmade samples under the embedded model, as literal numbers."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from obverse import methods
from obverse.analysis.coefficients import (
    Completion,
    Mass,
    completions_table,
    largest_completions,
    masses,
    position_class,
    shaded,
    weighed,
)
from obverse.analysis.context import Context, load_context, with_run_options
from obverse.config.analyze import CoefficientsConfig
from obverse.estimator import Divergence, Term
from obverse.estimator.formula import Stream
from obverse.estimator.method import Method
from obverse.estimator.parts import PerToken, Request
from obverse.types import GradeResult, Group, Problem, Sample, Source


@pytest.fixture(scope="module")
def context() -> Context:
    return load_context(with_run_options(CoefficientsConfig(model="embedded", methods="sft")), "embedded", "embedded")


def response(context: Context, text: str, kind: str, right: bool, behavior: float = 0.0) -> Sample:
    ids = context.tokenizer.encode(text, add_special_tokens=False)
    source = Source.DEMONSTRATION if kind == "demonstration" else Source.ROLLOUT
    grade = GradeResult.passed() if right else GradeResult.failed("no")
    return Sample(kind, context.renderer.prompt(PROBLEM), ids, [source] * len(ids), [behavior] * len(ids), text,
                  grade=grade)  # fmt: skip


STREAMS: tuple[tuple[float, Stream], ...] = ((1.0, "logp"), (0.5, "divergence"))
PROBLEM = Problem("p", "1+1", answer="2", demonstration=("1+1=2#2",), verifier="math", meta={"difficulty": 1})


def group(context: Context, behavior: float = 0.0) -> Group:
    rollouts = [response(context, text, "rollout", text == "1+1=2#2", behavior) for text in ("1+1=2#2", "1+1=3#3")]
    return Group(PROBLEM, [response(context, "1+1=2#2", "demonstration", True), *rollouts])


def masses_of(context: Context, method: Method, behavior: float | None = None) -> dict[tuple[str, str], Mass]:
    learner = context.learner(method, samples_itself=behavior is None)
    table = weighed(method, [group(context, behavior or 0.0)], learner, 0.0)
    return {(mass.by, mass.name.partition(":")[0]): mass for mass in masses(table, method)}


def test_a_divergence_is_a_row_by_term_and_a_column_of_its_own(context: Context) -> None:
    terms = tuple(Term(Source.DEMONSTRATION, normalizer=PerToken(), weight=w, on=on) for w, on in STREAMS)
    method = Method(Request(demonstrations=1), terms, divergence=Divergence("anchor", beta=0.0))
    table = weighed(method, [group(context)], context.learner(method), 0.0)
    assert table.total().tolist() == pytest.approx([1 / 7] * 7 + [0.0] * (len(table.sample) - 7))
    assert table.total("divergence").tolist() == pytest.approx([0.5 / 7] * 7 + [0.0] * (len(table.sample) - 7))
    by_term = [mass.mass for mass in masses(table, method) if mass.by == "term"]
    assert by_term == pytest.approx([1.0, 0.5])


def test_imitation(context: Context) -> None:
    rows = masses_of(context, methods.build("sft"))
    demonstration = rows["source", "demonstration"]
    assert (demonstration.num_tokens, demonstration.share, demonstration.zero) == (7, 1, 0)
    assert demonstration.mass == demonstration.signed == pytest.approx(1)  # a token mean
    assert rows["position", "0-3"].mass == pytest.approx(4 / 7) and rows["position", "4-15"].num_tokens == 3
    assert rows["difficulty", "1"].num_tokens == 7
    assert ("source", "rollout") not in rows


def test_right_against_wrong(context: Context) -> None:
    rows = masses_of(context, methods.build("dr_grpo", {"num_generations": 2, "max_completion_length": 10}))
    # A = +-1/2, divided by 2 samples of length 10, for 7 tokens each
    assert rows["outcome", "right"].signed == pytest.approx(7 * 0.5 / 20)
    assert rows["outcome", "wrong"].signed == pytest.approx(-7 * 0.5 / 20)
    assert rows["source", "rollout"].signed == pytest.approx(0, abs=1e-9)
    assert rows["source", "rollout"].masked == 0


def test_the_clip_is_seen(context: Context) -> None:
    """Behind the policy by e^5, every token of the right sample has a ratio above the clip; of the wrong one none."""
    rows = masses_of(context, methods.build("dr_grpo", {"num_generations": 2, "epsilon": 0.2}), behavior=-30.0)
    assert (rows["outcome", "right"].masked, rows["outcome", "right"].clipped) == (1, 1)
    assert rows["outcome", "right"].zero == 1 and rows["outcome", "wrong"].masked == 0


def test_a_gate_drops_the_demonstration(context: Context) -> None:
    rows = masses_of(context, methods.build("hpt", {"num_generations": 2, "entropy_coef": 0.0}))
    assert ("source", "demonstration") not in rows and rows["source", "rollout"].num_tokens == 14


def test_another_stream_is_no_push_of_a_log_prob(context: Context) -> None:
    rows = masses_of(context, methods.build("sft", {"entropy_coef": 0.5}))
    assert rows["source", "demonstration"].mass == pytest.approx(1)
    assert rows["term", "demonstration entropy"].mass == pytest.approx(0.5)
    assert rows["term", "demonstration"].share == pytest.approx(2 / 3)


def test_side_by_side(context: Context) -> None:
    tables = {}
    for name in ("hpt", "sft"):
        method = methods.build(name)
        tables[name] = weighed(method, [group(context)], context.learner(method), 0.0)
    completions = largest_completions(tables, context, 2)
    assert [completion.kind for completion in completions] == ["demonstration", "rollout"]
    assert "".join(completions[0].tokens) == "1+1=2#2"
    assert completions[0].coefficients["sft"] == pytest.approx([1 / 7] * 7)
    assert completions[0].coefficients["hpt"] == [0] * 7  # the gate trains on what was solved
    assert largest_completions(tables, context, 0) == []


def test_shades() -> None:
    text = shaded(["a", "b", "c"], [0.5, -0.25, 0.0])
    assert text.plain == "abc"
    assert [(span.start, str(span.style)) for span in text.spans] == [
        (0, "white on #00b428"),
        (1, "white on #6e0028"),
    ]
    assert shaded(["a"], None).plain == "-"
    assert shaded(["\n\x1b"], [1.0]).plain == "\\n\\x1b"
    completion = Completion("p", "rollout", 1.0, ["x"], ["rollout"], {"one": [1.0], "two": None})
    console = Console(width=60, record=True, file=StringIO())
    console.print(completions_table([completion], ["one", "two"]))
    assert "reward 1" in console.export_text()


def test_classes_of_places() -> None:
    assert [position_class(position) for position in (0, 3, 4, 63, 64, 1023, 1024, 9999)] == [
        "0-3",
        "0-3",
        "4-15",
        "16-63",
        "64-255",
        "256-1023",
        "1024 and on",
        "1024 and on",
    ]
