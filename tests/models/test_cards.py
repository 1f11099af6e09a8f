"""What is for GPUs, as far as a CPU shows it: compiled layers, the record of a card's memory, other positions."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from obverse.cli.main import main
from obverse.errors import ConfigError
from obverse.memory_plan.phases import micro_batch
from obverse.models import compile as compiling
from obverse.models.load import load, load_scalar
from obverse.models.policy import logprobs, with_checkpoints, with_compiled_layers
from obverse.training.cuda_memory_snapshot import NAME, recorded

TRAIN = ["train", "sft", "--max_steps", "1", "--report", "false", "--output_dir", "run", "--device", "cpu"]


def test_layers_run_their_compiled_forward_for_their_policy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: lambda *a, **k: called.append(1) or forward(*a, **k))
    monkeypatch.setattr(compiling, "refuse_without_compiler", lambda device: None)
    policy = load("embedded", device="cpu")[0]
    names, before = list(policy.model.state_dict()), policy.model(input_ids=torch.arange(4)[None]).logits
    compiled = with_compiled_layers(policy)
    assert list(policy.model.state_dict()) == names
    assert policy.shares and not compiled.shares
    logprobs(policy, micro_batch(1, 4, 4))
    assert not called
    logprobs(compiled, micro_batch(1, 4, 4))
    assert len(called) == policy.model.config.num_hidden_layers
    policy.model(input_ids=torch.zeros(1, 4, dtype=torch.long))  # as a sampler calls it
    assert len(called) == policy.model.config.num_hidden_layers
    with torch.no_grad():
        copy = deepcopy(policy.model)  # as for a frozen reference model: its layers run on weights of its own
        for parameter in policy.model.parameters():
            parameter.zero_()
        with compiled.compiled():
            assert torch.equal(copy(input_ids=torch.arange(4)[None]).logits, before)
    assert len(called) == 2 * policy.model.config.num_hidden_layers


def test_without_a_compiler_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main([*TRAIN, "--torch_compile"]) == 2
    assert capsys.readouterr().err.startswith("error: --torch_compile: a CPU needs a C++ compiler")
    assert not Path("run").exists()
    with pytest.raises(ConfigError, match="nothing compiles for mps"):
        compiling.refuse_without_compiler("mps")


@pytest.mark.release
@pytest.mark.skipif(not any(map(shutil.which, compiling.COMPILERS)), reason="no C++ compiler here")
def test_compiled_layers_give_the_same_gradients_for_every_shape() -> None:
    policy = replace(load("embedded", device="cpu")[0], shares=False)
    compiled = with_compiled_layers(policy)

    def gradient(of: Any, rows: int, width: int) -> torch.Tensor:
        made = micro_batch(rows, width, width)
        ids = torch.randint(0, 100, (rows, width), generator=torch.Generator().manual_seed(width))
        places = torch.arange(width).repeat(rows)
        owners = torch.arange(rows).repeat_interleave(width)
        made = replace(made, input_ids=ids, position=places, row=owners, temperature=torch.ones(rows * width))
        policy.model.zero_grad()
        logprobs(of, made)[0].sum().backward()
        return torch.cat([each.grad.flatten() for each in policy.model.parameters() if each.grad is not None])

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for shape in ((3, 20), (4, 33), (7, 11)):
        plain, fast = gradient(policy, *shape), gradient(compiled, *shape)
        assert float((plain - fast).norm() / plain.norm()) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # one code for all layers and shapes
    plain, fast = gradient(policy, 3, 20), gradient(with_checkpoints(compiled), 3, 20)
    assert float((plain - fast).norm() / plain.norm()) < 1e-5


def test_a_card_that_is_not_there_has_no_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--memory_snapshot", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: --memory_snapshot: torch records the memory of CUDA devices")


def test_the_record_is_json_and_is_written_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch's three functions are stood in for: no card is needed."""
    told: list[Any] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: told.append(options))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": [{"address": 1}], "device_traces": [[]]})
    with recorded(tmp_path, is_due=False):
        pass
    assert not told and not (tmp_path / NAME).exists()
    with pytest.raises(torch.OutOfMemoryError), recorded(tmp_path, is_due=True):
        raise torch.OutOfMemoryError("no room")
    assert json.loads((tmp_path / NAME).read_text())["segments"] == [{"address": 1}]
    assert told[-1] == {"enabled": None}


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_positions_are_read_and_saved_as_given(tiny_dir: Path, tmp_path: Path) -> None:
    ids = torch.arange(40)[None]
    own = load(str(tiny_dir))[0].model
    given = {"rope_theta": 123.0, "max_position_embeddings": 4096}
    made = load(str(tiny_dir), positions=given)[0].model
    with torch.no_grad():
        assert not torch.allclose(own(input_ids=ids).logits, made(input_ids=ids).logits, atol=1e-4)
    made.save_pretrained(tmp_path / "saved")
    unwanted = shutil.ignore_patterns("config.json", "*.safetensors")
    shutil.copytree(tiny_dir, tmp_path / "saved", dirs_exist_ok=True, ignore=unwanted)
    again = load(str(tmp_path / "saved"))[0].model
    assert again.config.rope_parameters["rope_theta"] == 123 and again.config.max_position_embeddings == 4096
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, made(input_ids=ids).logits)
    critic = load_scalar(str(tiny_dir), positions=given)[0]
    assert critic.config.rope_parameters["rope_theta"] == 123 and critic.config.num_labels == 1
