"""Two ranks and one server: each asks for its own problems, the first one gives it the weights, whole ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from house.source import ROOT
from inference.fake_vllm import FakeVLLM, ModelEngine

import runs
from obverse.models.load import load


def written(folder: Path, step: int) -> list[list[int]]:
    lines = (folder / "samples" / f"step-{step:06d}.jsonl").read_text().splitlines()
    return [row["ids"] for row in map(json.loads, lines)]


@pytest.mark.release
@pytest.mark.parametrize("more", [[], ["--fsdp"], ["--async_sampling"]], ids=["whole", "shared out", "ahead"])
def test_two_ranks_and_a_server_write_what_one_process_does(more: list[str], tmp_path: Path) -> None:
    chains = runs.write_problems(tmp_path / "chains.jsonl", difficulty=(2, 4))
    words = ["train", "grpo", "--model", "embedded", "--dataset", str(chains), "--max_steps", "3", "--report", "false"]
    words += ["--prompts_per_step", "3", "--num_generations", "3", "--max_completion_length", "24"]
    process_group = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with FakeVLLM(ModelEngine("embedded"), 256) as server:
        served = ["--sampler", "vllm", "--vllm_url", server.url]
        for name, start, options in (("one", [], []), ("two", process_group, served)):
            ahead = [option for option in more if name == "two" or option == "--async_sampling"]
            command = [sys.executable, *start, "-m", "obverse", *words, *options, *ahead]
            done = subprocess.run(
                [*command, "--output_dir", str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, timeout=500
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert server.paths().count("/collective_rpc") == 3
    for step in (1, 2, 3):
        assert written(tmp_path / "one", step) == written(tmp_path / "two", step)


@pytest.mark.release
def test_two_ranks_and_a_served_teacher_train_as_one_process(tmp_path: Path) -> None:
    """Each rank has its share scored, then all have all; the policy begins with noise on the teacher's weights."""
    policy, tokenizer = load("embedded", dtype="float32", device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in policy.model.parameters():
            value.add_(0.03 * torch.randn(value.shape, generator=generator))
    policy.model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    words = ["train", "opd", "--model", str(tmp_path / "policy"), "--dataset", "arithmetic:2-4", "--max_steps", "3"]
    words += ["--prompts_per_step", "4", "--num_generations", "2", "--max_completion_length", "24", "--report", "false"]
    process_group = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    rows = {}
    with FakeVLLM(ModelEngine("embedded"), 256) as server:
        for name, start in (("one", []), ("two", process_group)):
            command = [
                sys.executable,
                *start,
                "-m",
                "obverse",
                *words,
                "--teacher_url",
                server.url,
                "--temperature",
                "1",
            ]
            done = subprocess.run(
                [*command, "--output_dir", str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, timeout=500
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            rows[name] = [
                (row["teacher/kl"], row["grad_norm"], row["tokens/teacher"]) for row in map(json.loads, lines)
            ]
    assert rows["one"][0][0] > 0.1
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)
