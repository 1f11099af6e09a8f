"""The check that `make bench` begins with: both programs make the same gradient of a case's batch."""

from __future__ import annotations

import pytest

REASON = "make test-parity installs TRL"
pytest.importorskip("trl", reason=REASON)

from bench.cases import CASES  # noqa: E402
from bench.check import apart, batch, both  # noqa: E402

TOLERANCE = 2e-5  # float32, relative to the largest number


def test_case_a() -> None:
    case = CASES["A"]
    assert 0 < apart(*both(case, batch(case))) < TOLERANCE
