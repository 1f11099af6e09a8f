"""N3: ways to compute one and the same run give the same losses, in float32, and lean to neither side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reliability.traces import parity_reward, sharp

import runs
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

NUM_STEPS = 8
LARGEST, MEAN = 1e-6, 2e-7  # of the differences, per unit of loss; a mean shows what leans to one side

# Small steps: Adam divides by gradients that are rounding and nothing else, and would make weights of it.
PLAIN: dict[str, Any] = {"max_steps": NUM_STEPS, "learning_rate": 1e-6, "micro_batch_tokens": 100_000}
IMPLEMENTATION: dict[str, dict[str, Any]] = {
    "accumulated": {"micro_batch_tokens": 100},
    "prompts in every row": {"gradient_checkpointing": True},
    "in chunks": {},
}


@pytest.mark.parametrize("method", ["hpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sft", "grpo"))])
def test_n3_equal_ways_have_equal_losses(
    method: str, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharp(tmp_path / "sharp")
    options = PLAIN | {"verifier": parity_reward(tmp_path), "log_completions": False}

    def losses(name: str, **other: Any) -> list[float]:
        train(runs.config(method, tmp_path / name, model, problems, **options | other))
        return [row["loss"] for row in RunFolder(tmp_path / name).metrics()]

    plain = losses("plain")
    assert len(plain) == NUM_STEPS and any(plain)
    for way, other in IMPLEMENTATION.items():
        if way == "in chunks":
            monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", 3000)
        found = losses(way, **other)
        apart = [(mine - theirs) / max(1.0, abs(theirs)) for mine, theirs in zip(found, plain, strict=True)]
        assert max(map(abs, apart)) <= LARGEST and abs(sum(apart)) / NUM_STEPS <= MEAN, (way, apart)
