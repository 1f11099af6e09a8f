"""Notes before a run's first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from obverse.config.resolve import resolve
from obverse.estimator.schedule import as_schedule
from obverse.methods import build, find
from obverse.models.policy import Policy
from obverse.runtime.callbacks import Silent
from obverse.training.startup_checks import note_model_remarks

REASON = "its states cannot be continued"


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize(
    ("method", "options", "is_noted"),
    [
        ("grpo", {}, True),
        ("dpo", {}, True),
        ("hpt", {}, True),
        ("sft", {}, False),  # one sample per prompt
        ("ppo", {}, False),  # its critic reads whole rows
        ("grpo", {"gradient_checkpointing": True}, False),
    ],
)
def test_a_run_notes_that_prompts_are_computed_for_each_sample(
    method: str, options: dict[str, Any], is_noted: bool
) -> None:
    config = resolve(method, find(method), {"model": "embedded", "learning_rate": 1e-5, **options})
    watcher, policy = Notes(), Policy(torch.nn.Linear(1, 1), None, unshared=REASON)
    models: Any = SimpleNamespace(policy=policy, critic=None)
    note_model_remarks(config, as_schedule(build(config.method, config.method_options)), models, watcher)
    assert any(REASON in text for text in watcher.texts) == is_noted
