"""A tiny model, problems for it, and the seeds that an evaluation samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

import runs
from obverse.inference import SamplingRequest
from obverse.inference.hf import HFSampler


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("evaluate") / "qwen2")


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    return runs.write_problems(tmp_path / "chains.jsonl", num_problems=6)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that are sampled from here on."""
    seeds: list[int] = []
    sample = HFSampler.sample

    def counting(self: HFSampler, requests: Sequence[SamplingRequest], *rest: Any) -> Any:
        seeds.extend(seed for request in requests for seed in request.seeds)
        return sample(self, requests, *rest)

    monkeypatch.setattr(HFSampler, "sample", counting)
    return seeds
