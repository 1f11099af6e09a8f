"""The table of model types: outcomes as stored, and docs/models.md with the same rows."""

from __future__ import annotations

import json

import pytest
from architecture_configs import TWELVE
from architectures import PAGE, TABLE, TYPES, outcome, page

STORED = json.loads(TABLE.read_text(encoding="utf-8"))


def test_the_table_has_every_causal_type() -> None:
    assert STORED.keys() == set(TYPES), "run: python tests/architectures.py TYPE ..."


def test_the_page_has_the_rows_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(STORED), "run: python tests/architectures.py llama"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in TWELVE else [pytest.mark.release]) for kind in TYPES]
)
def test_a_type_agrees_with_plain_forward_passes_or_is_refused_as_stored(kind: str) -> None:
    assert outcome(kind) == STORED[kind]


def test_twelve_types_are_compared_in_every_test_run() -> None:
    assert set(TWELVE) <= {kind for kind in TYPES if STORED[kind]["trains"] == "yes"}
