"""Hostile and misleading answers: the expected verdict on each, fast, whatever a model may write."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from obverse.records import Problem
from obverse.verifiers import verifier

SHARED = Path(__file__).parents[2] / "../shared/adversarial_grader.json"
NEEDS_ALGEBRA = {"ok-rationalise", "ok-expand", "ok-set-order", "ok-power-small"}  # right, but not seen to be so yet


def cases(kind):
    if not SHARED.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{SHARED.name} is not beside this checkout"))]
    return [pytest.param(case, id=case["id"]) for case in json.loads(SHARED.read_text())[kind]]


def text_of(case):
    parts = case.get("prediction_parts", [case.get("prediction")])
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def check(kind, case, answer):
    start = time.process_time()
    verdict = verifier(kind)(Problem("p", "q", answer=answer), text_of(case))
    assert time.process_time() - start < 0.5
    assert verdict.reason.isascii()
    assert len(verdict.reason) <= 200
    if not (verdict.correct and case.get("true_is_also_ok")):
        assert verdict.correct == (case["expected"] == "true" and case["id"] not in NEEDS_ALGEBRA), verdict


@pytest.mark.parametrize("case", cases("countdown"))
def test_countdown(case):
    check("countdown", case, {"numbers": case["numbers"], "target": case["target"]})


@pytest.mark.parametrize("case", cases("math"))
def test_math(case):
    check("math", case, case["gold"])
