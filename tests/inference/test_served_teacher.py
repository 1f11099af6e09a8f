"""Runs whose teacher is behind a server: they are those of the same teacher in the process."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from inference.fake_vllm import COMPLETIONS, FakeVLLM, ModelEngine, on, once

import runs
from obverse.errors import CheckpointError, ConfigError, EngineError
from obverse.models.load import load
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

METHOD = '''
from dataclasses import dataclass

from obverse.estimator import Method, Teacher, Term
from obverse.estimator.parts import PerToken, Request
from obverse.estimator.parts.interfaces import Part
from obverse.types import Source


@dataclass(frozen=True)
class TeacherMinusBehavior(Part):
    needs = frozenset({"teacher", "behavior"})

    def __call__(self, inputs):
        return inputs.tokens.teacher - inputs.tokens.behavior


def distill(num_generations: int = 2) -> Method:
    """DISTILL: the teacher's log-prob minus the policy's.

    Options
        num_generations: rollouts per problem
    """
    term = Term(Source.ROLLOUT, TeacherMinusBehavior(), normalizer=PerToken())
    return Method(ask=Request(rollouts=num_generations), terms=(term,), teacher=Teacher())
'''


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with other weights."""
    folder = tmp_path_factory.mktemp("teacher")
    policy, tokenizer = load("embedded", dtype="float32", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def server(teacher: Path) -> Iterator[FakeVLLM]:
    with FakeVLLM(ModelEngine(teacher), max_model_len=256) as fake:
        yield fake


def config(folder: Path, **options: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "distill.py").write_text(METHOD)
    given = {"max_completion_length": 24, "prompts_per_step": 3, "num_generations": 2, "report": False, "max_steps": 2}
    return runs.config(
        f"{folder / 'distill.py'}:distill", folder / "run", "embedded", "arithmetic:1-2", **given | options
    )


def rows(folder: Path) -> list[dict[str, float]]:
    return [dict(row) for row in RunFolder(folder / "run").metrics()]


def test_the_servers_log_probs_are_the_column(server: FakeVLLM, tmp_path: Path) -> None:
    train(config(tmp_path, teacher_url=f"{server.url}/v1/", max_steps=1, prompts_per_step=2))
    lines = (tmp_path / "run" / "samples" / "step-000001.jsonl").read_text().splitlines()
    prompts = [body["prompt"] for path, body in server.hits if path == COMPLETIONS]
    for row in map(json.loads, lines):
        ids = next(prompt for prompt in prompts if prompt[-len(row["ids"]) :] == row["ids"])
        assert row["teacher"] == pytest.approx(server.engine.scores(ids)[-len(row["ids"]) :], abs=1e-5)
    assert len(lines) == 4 and RunFolder(tmp_path / "run").environment()["teacher"] == "served"


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_served_model(server: FakeVLLM, tmp_path: Path) -> None:
    options = {"teacher_url": server.url, "max_steps": 1}
    train(config(tmp_path, **options))
    resumed = {**options, "resume_from_checkpoint": "auto"}
    assert train(config(tmp_path, **resumed, teacher_name="served")).step == 1
    server.faults.append(on("/v1/models", 200, {"data": [{"id": "another", "max_model_len": 256}]}))
    with pytest.raises(CheckpointError, match=r"teacher_name: .*served.* then, .*another.* now"):
        train(config(tmp_path, **resumed))
    assert train(config(tmp_path, **resumed, allow_config_change=["teacher_name"])).step == 1


@pytest.mark.slow
def test_a_served_teacher_trains_as_the_same_one_in_the_process(
    server: FakeVLLM, teacher: Path, tmp_path: Path
) -> None:
    train(config(tmp_path / "served", teacher_url=f"{server.url}/v1/"))
    train(config(tmp_path / "loaded", teacher_model=str(teacher)))
    served, loaded = rows(tmp_path / "served"), rows(tmp_path / "loaded")
    for row, expected in zip(served, loaded, strict=True):
        for name in ("loss", "grad_norm", "tokens/teacher", "entropy"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
        assert row["grad_norm"] > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher_url": "http://127.0.0.1:1", "temperature": 0.7}, "--teacher_url: .* temperature 1, .*0.7"),
        ({}, "--teacher_model, or --teacher_url"),
        (
            {"teacher_url": "http://127.0.0.1:1/v1", "sampler": "vllm", "vllm_url": "http://127.0.0.1:1/"},
            "--teacher_url: .* another one",
        ),
        ({"teacher_url": "127.0.0.1:1"}, "--teacher_url: .* is not an address"),
        ({"teacher_url": "http://127.0.0.1:1/?key=1"}, "TEACHER_API_KEY|a key in an address"),
    ],
)
def test_options_that_do_not_fit_a_server_are_refused(options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        train(config(tmp_path, **options))


def test_two_places_of_one_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher_url and teacher_model"):
        config(tmp_path, teacher_url="http://127.0.0.1:1", teacher_model="embedded")
    with pytest.raises(ConfigError, match="teacher_name"):
        config(tmp_path, teacher_name="large")


def test_a_context_that_is_too_short_is_refused_before_the_run(server: FakeVLLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes 256 tokens, .*--max_completion_length"):
        train(config(tmp_path, teacher_url=server.url, max_completion_length=250))


@pytest.mark.slow
def test_a_run_goes_on_when_the_server_is_back_and_stops_with_a_checkpoint_when_not(
    server: FakeVLLM, tmp_path: Path
) -> None:
    server.faults.append(once(on(COMPLETIONS, 503)))
    train(config(tmp_path / "back", teacher_url=server.url))
    assert len(rows(tmp_path / "back")) == 2

    class Watch(Silent):
        def step(self, step: int, total_steps: int, metrics: Any) -> None:
            server.kill()

    with pytest.raises(EngineError, match="no teacher server answers"):
        train(config(tmp_path / "away", teacher_url=server.url, vllm_timeout=0.3), Watch())
    assert len(rows(tmp_path / "away")) == 1 and (tmp_path / "away" / "run" / "checkpoint-1").is_dir()


@pytest.mark.slow
def test_a_signal_while_the_teacher_is_silent_ends_the_run(
    server: FakeVLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obverse.inference.request_rounds.PROGRESS_SECONDS", 0.05)
    gate = threading.Event()

    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> None:
        if path == COMPLETIONS and fake.paths().count(COMPLETIONS) == 2:  # the first one is the check at the start
            os.kill(os.getpid(), signal.SIGINT)
            gate.wait(20)

    server.faults.append(fault)
    outcome = train(config(tmp_path, teacher_url=server.url))
    gate.set()
    assert (outcome.exit_code, outcome.step) == (130, 0) and (tmp_path / "run" / "checkpoint-0").is_dir()
