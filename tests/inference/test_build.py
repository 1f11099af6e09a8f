"""Whole runs by another sampler: a server that has the policy's weights, and completions drawn one update ahead."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inference.fake_vllm import FakeVLLM, ModelEngine, on
from safetensors.torch import load_file

import runs
from obverse import methods
from obverse.cli import main as cli
from obverse.errors import CheckpointError, ConfigError, EngineError
from obverse.estimator.schedule import as_schedule
from obverse.inference.build import HEAD, WEIGHTS, check_engine, write_head
from obverse.models.load import load
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train
from obverse.training.setup import prepare

ROUNDING = 1e-5  # log-probs of one and the same completion, sampled in another batch


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("rows") / "chains.jsonl", difficulty=(2, 4))


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    with FakeVLLM(ModelEngine("embedded"), max_model_len=256) as made:
        yield made


def written(folder: Path, step: int) -> list[dict[str, Any]]:
    lines = (folder / "samples" / f"step-{step:06d}.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "rollout"]


def options(server: FakeVLLM, **more: Any) -> dict[str, Any]:
    return {"sampler": "vllm", "vllm_url": server.url, "vllm_timeout": 60, "report": False, **more}


def embedded(method: str, folder: Path, chains: Path, **more: Any) -> Any:
    return runs.config(
        method, folder, "embedded", chains, **{"max_completion_length": 24, "prompts_per_step": 3, **more}
    )


def kept(folder: Path, step: int) -> dict[str, Any]:
    """sha256 of a checkpoint's weights and moments, and its state without what it says of a file with clocks."""
    hashes = runs.fingerprint(folder, step)
    state = json.loads((folder / f"checkpoint-{step}" / "state.json").read_text())
    return {**hashes, "state.json": {name: value for name, value in state.items() if name != "metrics"}}


# a server


SAME = {"max_steps": 2, "importance_sampling": "none"}  # without a correction both runs are one


@pytest.fixture(scope="module")
def own(chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps by itself."""
    folder = tmp_path_factory.mktemp("own")
    train(embedded("grpo", folder, chains, **SAME))
    return folder


def assert_same_samples(served: Path, own: Path) -> None:
    for step in (1, 2):
        expected, rows = written(own, step), written(served, step)
        assert [row["ids"] for row in rows] == [row["ids"] for row in expected]
        assert {row["weights"] for row in rows} == {row["weights"] for row in expected} == {step - 1}
    assert all(row["sampler_gap"] < ROUNDING for row in RunFolder(served).metrics() if "sampler_gap" in row)


def test_a_run_by_a_server_writes_what_a_run_by_itself_would(
    own: Path, server: FakeVLLM, chains: Path, tmp_path: Path
) -> None:
    """The server gets each step's weights."""
    train(embedded("grpo", tmp_path, chains, **SAME, **options(server)))
    assert_same_samples(tmp_path, own)
    assert json.loads((tmp_path / "environment.json").read_text())["sampler"] == "vllm 0.32.0"
    assert json.loads((own / "environment.json").read_text())["sampler"] == "hf"
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.slow
def test_a_run_with_demonstrations_by_a_server(server: FakeVLLM, chains: Path, tmp_path: Path) -> None:
    for name, more in (("own", {}), ("served", options(server))):
        train(embedded("hpt", tmp_path / name, chains, **SAME, **more))
    assert_same_samples(tmp_path / "served", tmp_path / "own")


def test_a_server_with_coarser_numbers_is_measured_and_corrected(chains: Path, tmp_path: Path) -> None:
    with FakeVLLM(ModelEngine("embedded", "bfloat16"), 256) as server:
        config = embedded("grpo", tmp_path / "run", chains, max_steps=1, beta=0.0, **options(server))
        assert config.method_options["importance_sampling"] == "token_truncate"
        train(config)
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert 1e-4 < row["sampler_gap"] < 0.1


def test_a_server_that_keeps_old_weights_shows_in_the_gap(server: FakeVLLM, chains: Path, tmp_path: Path) -> None:
    server.faults.append(on("/collective_rpc", 200, {"results": [None]}))
    train(embedded("grpo", tmp_path, chains, max_steps=2, **options(server)))
    assert RunFolder(tmp_path).metrics()[-1]["sampler_gap"] > 1e-4 > ROUNDING


@pytest.mark.slow
@pytest.mark.slow
def test_a_server_that_is_started_again_in_mid_run_changes_nothing(
    own: Path, server: FakeVLLM, chains: Path, tmp_path: Path
) -> None:
    class Watch(Silent):
        num_asked = 0

        def step(self, step: int, total_steps: int, metrics: Any) -> None:
            if step == 1:
                self.num_asked = len(server.asked())
                server.kill()
                server.engine = ModelEngine("embedded")  # it knows nothing of what it was given
                threading.Timer(0.3, server.start).start()

    watch = Watch()
    train(embedded("grpo", tmp_path, chains, **SAME, **options(server)), watch)
    assert len(server.asked()) >= 2 * watch.num_asked > 0
    assert_same_samples(tmp_path, own)


def test_a_server_that_stays_away_leaves_a_checkpoint_and_says_how_to_go_on(
    server: FakeVLLM, chains: Path, tmp_path: Path
) -> None:
    class Watch(Silent):
        def step(self, step: int, total_steps: int, metrics: Any) -> None:
            if step == 1:
                server.kill()

    given = options(server, vllm_timeout=2)
    with pytest.raises(EngineError, match=r"step 2: no vLLM server .*checkpoint-1"):
        train(embedded("grpo", tmp_path / "run", chains, max_steps=2, **given), Watch())
    server.start()
    outcome = train(
        embedded("grpo", tmp_path / "run", chains, max_steps=2, resume_from_checkpoint="auto", **options(server))
    )
    assert outcome.step == 2 and len(RunFolder(tmp_path / "run").metrics()) == 2


def test_evaluations_are_the_servers_too(server: FakeVLLM, chains: Path, tmp_path: Path) -> None:
    more = {"eval_dataset": str(chains), "num_eval_problems": 2, "num_generations_eval": 1, "eval_steps": 1}
    train(embedded("grpo", tmp_path / "run", chains, max_steps=1, **options(server), **more))
    assert len(server.asked()) == 3 * 3 + 2 * 2
    assert server.version.endswith("-1")  # the last evaluation is of the weights after the last step


def test_a_server_of_another_model_is_refused_before_the_first_step(chains: Path, tmp_path: Path, tiny: Path) -> None:
    with FakeVLLM(ModelEngine(tiny), 256) as server, pytest.raises(ConfigError, match="another tokenizer"):
        train(embedded("grpo", tmp_path / "run", chains, max_steps=1, **options(server)))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_tiny

    return save_tiny("qwen2", tmp_path_factory.mktemp("tiny") / "qwen2")


def test_a_head_that_is_the_embedding_is_written_too(tiny: Path, tmp_path: Path) -> None:
    model = load(str(tiny), dtype="float32")[0].model
    model.save_pretrained(tmp_path)
    write_head(model, model.state_dict(), tmp_path)
    found = load_file(tmp_path / HEAD)
    assert set(found) == {"lm_head.weight"} and found["lm_head.weight"].equal(model.get_input_embeddings().weight)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_a_server_gets_adapters_added_to_their_base(server: FakeVLLM, chains: Path, tmp_path: Path) -> None:
    given = options(server, use_peft=True, lora_r=4, learning_rate=3e-3)
    train(embedded("grpo", tmp_path / "run", chains, max_steps=2, **given))
    rows = RunFolder(tmp_path / "run").metrics()
    assert all(row["sampler_gap"] < ROUNDING for row in rows) and rows[-1]["grad_norm"] > 0


# one update ahead


AHEAD = {"async_sampling": True, "report": False}


@pytest.fixture(scope="module")
def ahead(chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("ahead")
    train(embedded("grpo", folder, chains, max_steps=3, **AHEAD))
    return folder


def assert_same_run(folder: Path, expected: Path) -> None:
    assert kept(folder, 3) == kept(expected, 3)
    assert runs.figures(folder) == runs.figures(expected)


def test_a_run_ahead_learns_from_the_weights_before(ahead: Path) -> None:
    assert [row["staleness"] for row in RunFolder(ahead).metrics()] == [0, 1, 1]
    assert [{row["weights"] for row in written(ahead, step)} for step in (1, 2, 3)] == [{0}, {0}, {1}]


def test_a_run_ahead_that_is_resumed_equals_one_that_was_not(ahead: Path, chains: Path, tmp_path: Path) -> None:
    train(embedded("grpo", tmp_path, chains, max_steps=2, **AHEAD))
    train(embedded("grpo", tmp_path, chains, max_steps=3, resume_from_checkpoint="auto", **AHEAD))
    assert_same_run(tmp_path, ahead)


@pytest.mark.slow
def test_a_run_ahead_with_demonstrations_is_resumed(chains: Path, tmp_path: Path) -> None:
    train(embedded("hpt", tmp_path / "whole", chains, max_steps=3, **AHEAD))
    train(embedded("hpt", tmp_path / "parts", chains, max_steps=2, **AHEAD))
    train(embedded("hpt", tmp_path / "parts", chains, max_steps=3, resume_from_checkpoint="auto", **AHEAD))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_run_ahead_that_a_signal_ends_goes_on_as_if_nothing_was(ahead: Path, chains: Path, tmp_path: Path) -> None:
    class Watch(Silent):
        num_steps = 0

        def step(self, step: int, total_steps: int, metrics: Any) -> None:
            self.num_steps = step

        def phase(self, phase: Any, done: int, total: int) -> None:
            if phase == "train" and self.num_steps == 1:
                signal.raise_signal(signal.SIGTERM)
                self.num_steps = 0

    outcome = train(embedded("grpo", tmp_path, chains, max_steps=3, **AHEAD), Watch())
    assert outcome.exit_code == 143 and outcome.step == 1
    train(embedded("grpo", tmp_path, chains, max_steps=3, resume_from_checkpoint="auto", **AHEAD))
    assert_same_run(tmp_path, ahead)


@pytest.mark.slow
def test_a_server_draws_ahead_what_the_policy_would(
    ahead: Path, server: FakeVLLM, chains: Path, tmp_path: Path
) -> None:
    train(embedded("grpo", tmp_path, chains, max_steps=3, async_sampling=True, **options(server)))
    for step in (1, 2, 3):
        expected, served = written(ahead, step), written(tmp_path, step)
        assert [row["ids"] for row in served] == [row["ids"] for row in expected]
        assert {row["weights"] for row in served} == {max(step - 2, 0)}


def test_the_policy_that_trains_is_the_old_one_of_the_ratio(chains: Path, tmp_path: Path) -> None:
    """Behavior is recomputed, so that the first update of a step has ratio 1, and the staleness is in the weight."""
    train(embedded("grpo", tmp_path / "run", chains, max_steps=3, async_sampling=True, learning_rate=3e-3))
    rows = RunFolder(tmp_path / "run").metrics()
    assert rows[0]["sampler_gap"] < ROUNDING < 1e-3 < rows[2]["sampler_gap"]
    assert all(row["clip_ratio"] == 0.0 for row in rows)


def test_older_tokens_are_not_taken_for_the_policys_own(chains: Path, tmp_path: Path) -> None:
    for name, more in (("now", {}), ("ahead", {"async_sampling": True})):
        config = embedded("grpo", tmp_path / name, chains, importance_sampling="none", **more)
        assert prepare(config, SignalWatcher(Silent())).learner.samples_itself is (name == "now")


# what goes with what


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("sft", {"sampler": "vllm"}, "--async_sampling|--sampler"),
        ("sft", {"async_sampling": True}, "--async_sampling|--sampler"),
        ("dapo", {"async_sampling": True}, "--async_sampling"),
        ("sft_then_rl", {"async_sampling": True}, "--async_sampling"),
        ("reward_model", {"sampler": "vllm"}, "--sampler vllm"),
        ("grpo", {"sampler": "vllm", "max_sampling_seconds": 3.0}, "--max_sampling_seconds"),
        ("grpo", {"sampler": "vllm", "top_p": 0.9, "min_p": 0.1}, "--min_p and --top_p"),
        ("grpo", {"sampler": "vllm", "temperature": 0.001}, "vLLM samples at 0 or from 0.01 on"),
    ],
)
def test_what_does_not_go_together_is_refused(
    method: str, given: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    config = runs.config(method, tmp_path, "embedded", **given)
    with pytest.raises(ConfigError, match=sentence):
        check_engine(config, as_schedule(methods.build(method, config.method_options)))


@pytest.mark.parametrize(
    ("method", "given", "wanted"),
    [
        ("grpo", {}, "none"),
        ("grpo", {"sampler": "vllm"}, "token_truncate"),
        ("grpo", {"async_sampling": True}, "token_truncate"),
        ("hpt", {"sampler": "vllm"}, "token_truncate"),
        ("grpo", {"sampler": "vllm", "importance_sampling": "none"}, "none"),
        ("grpo", {"sampler": "vllm", "importance_sampling": "sequence_mask"}, "sequence_mask"),
        ("sft", {"sampler": "vllm", "eval_dataset": "arithmetic"}, "none"),
    ],
)
def test_the_correction_is_on_where_it_is_needed(
    method: str, given: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    config = runs.config(method, tmp_path, "embedded", **given)
    assert config.method_options.get("importance_sampling", "none") == wanted
    if wanted == "token_truncate":
        assert config.origin("importance_sampling") == "sampler"


def test_ahead_is_no_option_to_change_on_the_way(chains: Path, tmp_path: Path) -> None:
    train(embedded("grpo", tmp_path / "run", chains, max_steps=1, report=False))
    with pytest.raises(CheckpointError, match="async_sampling"):
        train(
            embedded("grpo", tmp_path / "run", chains, max_steps=2, resume_from_checkpoint="auto", async_sampling=True)
        )


# obverse serve-vllm


def test_the_command_has_what_a_run_needs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve-vllm", "embedded", "--port", "8123", "--dtype", "float32", "--vllm_args=--enforce-eager -x 'a b'"]
    assert cli.main([*words, "--max_model_len", "512", "--dry-run"]) == 0
    found = shlex.split(capsys.readouterr().out)
    assert found[0] == "VLLM_SERVER_DEV_MODE=1" and found[2:4] == ["vllm", "serve"]
    for name, value in {
        "--port": "8123",
        "--host": "127.0.0.1",
        "--dtype": "float32",
        "--max-model-len": "512",
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
    }.items():
        assert found[found.index(name) + 1] == value
    assert "--enable-scale-out" in found and found[-3:] == ["--enforce-eager", "-x", "a b"]


def test_it_becomes_that_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    made: list[Any] = []
    monkeypatch.setattr("obverse.inference.serve_vllm.os.execvpe", lambda *words: made.append(words))
    assert cli.main(["serve-vllm", "some/model", "--program", str(program)]) == 0
    ((called, words, environment),) = made
    assert called == str(program) and words[1:3] == ["serve", "some/model"]
    assert environment["VLLM_SERVER_DEV_MODE"] == "1" and environment["PATH"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["embedded", "--program", "no-such-vllm"], "no-such-vllm is not found or cannot be run: install vLLM"),
        (["embedded", "--vllm_args='"], "--vllm_args"),
        ([], "MODEL"),
    ],
)
def test_a_server_that_cannot_be_started_is_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve-vllm", *words]) == 2
    assert sentence in capsys.readouterr().err
