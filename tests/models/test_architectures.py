"""The table of model types: as obverse does with each now, and as docs/models.md tells."""

from __future__ import annotations

import json

import pytest
from architectures import PAGE, TABLE, TYPES, outcome, page

KNOWN = json.loads(TABLE.read_text(encoding="utf-8"))


def test_every_causal_type_stands_in_the_table() -> None:
    assert KNOWN.keys() == set(TYPES), "run: python tests/architectures.py TYPE ..."


def test_the_page_tells_what_the_table_has() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(KNOWN), "run: python tests/architectures.py llama"


@pytest.mark.release
@pytest.mark.parametrize("kind", TYPES)
def test_a_type_is_right_or_refused_as_before(kind: str) -> None:
    assert outcome(kind) == KNOWN[kind]
