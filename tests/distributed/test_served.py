"""Two ranks and one server: each asks for its own problems, the first one gives it the weights, whole ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from house.source import ROOT
from inference.fake_vllm import FakeVLLM, ModelEngine

import runs


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
