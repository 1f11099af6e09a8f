"""Hints on learning rates: only where none was given, only with a source, and never a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obverse.config.rate_hint import learning_rate_hint
from obverse.config.resolve import resolve
from obverse.methods import find, names
from obverse.methods._learning_rates import PUBLISHED

HALF, SEVEN, EIGHT = 494_000_000, 7_600_000_000, 8_030_000_000


def hint(method: str, size: int | None, **options: Any) -> str | None:
    config = resolve(method, find(method), {"model": "m", **options})
    rate = config.learning_rate
    text = learning_rate_hint(config, size)
    assert config.learning_rate == rate
    return text


@pytest.mark.parametrize(
    ("method", "size", "options", "part"),
    [
        ("sft", HALF, {"use_peft": True}, "0.0002 with LoRA"),
        ("grpo", SEVEN, {"use_peft": True}, "1e-05 with LoRA"),
        ("hpt", SEVEN, {"use_peft": True}, "5e-05"),  # no published rate: ten times that of full training
        ("hpt", None, {"use_peft": True}, "5e-05"),
        ("dft", EIGHT, {}, "2e-05 at 8B"),
        ("sft", SEVEN, {}, "5e-05 at 1.5B to 7.6B"),
        ("grpo", 1_035_136, {}, "1.0M"),
    ],
)
def test_a_default_that_is_far_from_published_rates_is_named(
    method: str, size: int | None, options: dict[str, Any], part: str
) -> None:
    text = hint(method, size, **options)
    assert text is not None and part in text and ("--learning_rate" in text or "doi:" in text)


@pytest.mark.parametrize(
    ("method", "size", "options"),
    [
        ("sft", HALF, {}),
        ("dft", SEVEN, {}),
        ("hpt", SEVEN, {}),
        ("sft", 70_000_000_000, {}),  # a larger rate of smaller models is no advice
        ("dpo", HALF, {}),  # twice the published rate is near
        ("rloo", SEVEN, {}),
        ("grpo", SEVEN, {"use_peft": True, "learning_rate": 1e-3}),  # given
        ("grpo", 1_035_136, {"model": "embedded"}),  # the preset's
    ],
)
def test_a_near_given_or_preset_rate_is_not(method: str, size: int | None, options: dict[str, Any]) -> None:
    assert hint(method, size, **options) is None


def test_every_published_rate_is_of_a_method_and_has_a_source() -> None:
    assert set(PUBLISHED) <= set(names())
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert all(f"| {name} | {row.text} |" in page for name, rows in PUBLISHED.items() for row in rows)
    for rows in PUBLISHED.values():
        assert all(row.source and row.smallest <= row.largest and 1e-8 < row.rate < 1e-2 for row in rows)
