"""Weights that are shared out over ranks (FSDP2) learn what whole ones learn, and are saved so that any ranks go on.

The one process that they are compared with computes prompts once per sample, as shares do: its sums are in the same
order then, where a tiny model's float32 norms would round differently otherwise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.teams import Job, Teams
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from transformers import AutoModelForCausalLM

import runs
from obverse.api.export import export
from obverse.config.commands import ExportConfig
from obverse.distributed.fsdp import ShardingOptions
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.distributed.sharded_safetensors import OFFSETS, ShardedTensors, shard_files, write
from obverse.errors import CheckpointError, ConfigError
from obverse.runtime import checkpoint
from obverse.training.build_models import refuse_unsupported_sharding

SMALL: dict[str, Any] = {"prompts_per_step": 8, "max_completion_length": 6, "dtype": "float64", "max_steps": 3}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": {"num_generations": 3, "num_mini_batches": 2, "num_iterations": 2},
    "hpt": {"num_generations": 2},
    "ppo": {"num_generations": 2},
    "dpo": {},
    "reward_model": {},
    "ift": {},  # reads a frozen copy of the embeddings
    "sft_then_rl": {"num_generations": 2, "beta": 0.1},  # its second stage has an initial model of its own
    "relift": {"num_waiting": 3, "num_generations": 2},
    "reinforce": {"num_generations": 2},
}
SHARDED = {"fsdp_state_dict_type": "sharded", "fsdp_reshard_after_forward": False, "gradient_checkpointing": True}


class Runs:
    """Runs of one method, which differ in their ranks and in how these hold the weights."""

    def __init__(self, teams: Teams, tiny: Path, problems: Path, root: Path, method: str, **options: Any) -> None:
        self.teams, self.root, self.method = teams, root, method
        self.rest = (str(tiny), str(problems))
        self.options = {**SMALL, **METHODS.get(method, {}), **options}
        root.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, split: list[int] | int, codes: set[int | None] = frozenset({0}), **more: Any) -> Path:  # type: ignore[assignment]
        """The folder of a run by one rank, or so many, each with its part of the work; their exit codes are checked."""
        size, parts = (split, []) if isinstance(split, int) else (len(split), split)
        fault = more.pop("fault", {})
        folder = self.root / name
        job = Job(self.method, str(folder), *self.rest, {**self.options, **more}, size, parts, fault=fault)
        ended = self.teams.run(job)
        assert {each.code for each in ended} <= {*codes}, "\n".join(each.err for each in ended)
        return folder

    def alone(self, **more: Any) -> Path:
        return self.start("alone", 1, gradient_checkpointing=True, **more)

    def last(self, folder: Path) -> Path:
        return folder / f"checkpoint-{self.options['max_steps']}"

    def differ(self, first: Path, second: Path) -> float:
        """By how much two runs' weights and moments differ at most; their completions must be the same."""
        for name in sorted(path.name for path in (first / "samples").iterdir()):
            assert runs.completions(first / "samples" / name) == runs.completions(second / "samples" / name)
        for mine, theirs in zip(runs.figures(first), runs.figures(second), strict=True):
            assert mine["step"] == theirs["step"]
            assert mine.get("grad_norm", 0.0) == pytest.approx(theirs.get("grad_norm", 0.0), rel=1e-6)
        return max(
            apart(mine, theirs)
            for mine, theirs in zip(stored(self.last(first)), stored(self.last(second)), strict=True)
        )


def stored(place: Path) -> list[ShardedTensors]:
    """What a checkpoint holds: the policy's weights, a critic's, the moments; whole or in pieces."""
    weights = [folder for folder in (place, place / "critic", place / "teacher") if folder.is_dir()]
    found = [ShardedTensors.of(shard_files(folder) or [folder / "model.safetensors"]) for folder in weights]
    return [*found, checkpoint.load(place).tensors]


def apart(mine: ShardedTensors, theirs: ShardedTensors) -> float:
    assert mine.keys() == theirs.keys()
    assert all(mine[name].dtype == theirs[name].dtype for name in mine)
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


@pytest.mark.slow
def test_shares_learn_what_one_process_learns(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    """With one micro batch whose last pass has no gradient (a law that cuts): the step must not leave it whole."""
    params = {"top_k": 50, "micro_batch_tokens": 4096}
    found = Runs(teams, tiny, problems, tmp_path, "hpt", eval_dataset=str(problems), num_eval_problems=4, **params)
    one, two = found.alone(), found.start("two", [3, 5], fsdp=True)
    assert found.differ(one, two) < 1e-9
    for name in ("config.json", "generation_config.json", "tokenizer.json"):  # a folder like any other
        assert (found.last(one) / name).read_bytes() == (found.last(two) / name).read_bytes()
    assert {path.name for path in found.last(one).iterdir()} == {path.name for path in found.last(two).iterdir()}


def test_a_sharded_run_that_was_killed_goes_on_by_one_process(
    teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """PPO with a critic in shares, a rank without work, pieces that neither rank has whole."""
    found = Runs(teams, tiny, problems, tmp_path, "ppo", save_steps=1)
    one, fault = found.alone(), {"rank": 0, "phase": "train", "after": 2, "kind": "kill"}
    two = found.start("two", [8, 0], {-9, 8}, fault=fault, fsdp=True, **SHARDED)
    place = two / "checkpoint-2"
    assert len(shard_files(place)) == len(shard_files(place / "critic")) == len(shard_files(place / "optimizer")) == 2
    assert not (place / "model.safetensors").exists()
    read_by_torch(place)
    damaged(place, tmp_path)
    exported(place, tmp_path / "out")
    found.start("two", 1, resume_from_checkpoint="auto", gradient_checkpointing=True)
    assert found.differ(one, two) < 1e-9


def read_by_torch(place: Path) -> None:
    """The pieces are those of torch.distributed.checkpoint."""
    ours = ShardedTensors.of(shard_files(place))
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in ours.items()}
    load(state, storage_reader=HuggingFaceStorageReader(str(place)), no_dist=True)
    assert all(torch.equal(state[name], ours[name]) for name in ours)


def exported(place: Path, out: Path) -> None:
    """One folder that transformers loads, of the same weights."""
    export(ExportConfig(model=str(place), output=str(out)))
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    ours = ShardedTensors.of(shard_files(place))
    for name, weight in model.named_parameters():
        assert torch.equal(ours[name], weight.detach())
    assert model.lm_head.weight is model.model.embed_tokens.weight and not shard_files(out)


def damaged(place: Path, root: Path) -> None:
    """A rank's file that is gone or another is named."""
    for change in (lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?")):
        copy = root / "copy" / place.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        change(copy / "optimizer" / shard_files(copy / "optimizer")[1].name)
        with pytest.raises(CheckpointError, match="optimizer/shard-00002"):
            checkpoint.load(copy)


def test_pieces_are_read_by_rows(tmp_path: Path) -> None:
    table, number = torch.arange(12.0).reshape(6, 2), torch.tensor(3.0)
    tied = {"a/table": table, "a/tied": table, "b/number": number}
    (path,) = write(tmp_path, tied, SINGLE_PROCESS)
    found = ShardedTensors.of([path])
    assert set(found) == {"a/table", "b/number"} and torch.equal(found["b/number"], number)
    assert torch.equal(found.rows("a/table", 2, 5), table[2:5]) and found.rows("a/table", 6, 6).shape == (0, 2)
    assert set(found.with_prefix("a/")) == {"table"} and len(found) == 2
    parts = {"shard-2": (4, table[4:]), "shard-1": (0, table[:4])}  # in whatever order the files come
    for name, (start, part) in parts.items():
        save_file({"table": part}, tmp_path / name, {OFFSETS: json.dumps({"table": {"saved_offsets": [start, 0]}})})
    two = ShardedTensors.of([tmp_path / name for name in parts])
    assert torch.equal(two["table"], table) and torch.equal(two.rows("table", 3, 5), table[3:5])
    assert torch.equal(two.rows("table", 4, 6), table[4:]) and two.rows("table", 6, 6).shape == (0, 2)
    assert write(tmp_path, tied, ProcessGroup(rank=1, size=2)) == []  # rank 0 writes what nobody has a share of


def test_one_process_has_nobody_to_share_with(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    found = Runs(teams, tiny, problems, tmp_path, "sft", max_steps=2)
    plain, alone = found.start("plain", 1), found.start("fsdp", 1, fsdp=True, fsdp_state_dict_type="sharded")
    mine, theirs = runs.fingerprint(plain, 2), runs.fingerprint(alone, 2)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert mine[name] == theirs[name]


def test_what_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    process_group = ProcessGroup(rank=0, size=2)
    refuse_unsupported_sharding(runs.config("sft", tmp_path, "embedded", fsdp=True), process_group)
    for options, sentence in (
        ({"fsdp_offload_params": True}, "--fsdp_offload_params: on a CPU"),
        ({"use_peft": True}, "--fsdp does not support --use_peft"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            refuse_unsupported_sharding(runs.config("sft", tmp_path, "embedded", fsdp=True, **options), process_group)
    assert ShardingOptions(process_group).reshards


@pytest.mark.release
@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_share_is_one_process(
    method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Runs(teams, tiny, problems, tmp_path, method, max_steps=6)
    plain = {} if method == "reward_model" else {"gradient_checkpointing": True}
    for split in ([4, 4], [3, 5], [8, 0], [1, 3, 0, 4]):
        whole = found.start(f"whole-{'-'.join(map(str, split))}", split, **plain)
        for more in ({}, SHARDED, {"fsdp_reshard_after_forward": False}):
            shared = found.start(f"shares-{'-'.join(map(str, split))}-{len(more)}", split, fsdp=True, **more)
            worst = found.differ(whole, shared)
            with capsys.disabled():
                print(f"\n{method} {split} {more}: {worst:.1e}", end="")
            assert worst < 1e-9


@pytest.mark.release
def test_products_in_bfloat16_are_close(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    found = Runs(teams, tiny, problems, tmp_path, "sft", max_steps=6)
    exact = found.start("exact", 1, dtype="float32")
    mixed = found.start("mixed", [3, 5], fsdp=True, dtype="mixed")
    for mine, theirs in zip(runs.figures(mixed), runs.figures(exact), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert stored(found.last(mixed))[0]["model.norm.weight"].dtype == torch.float32


@pytest.mark.release
@pytest.mark.parametrize("method", ["grpo", "ppo", "sft_then_rl"])
def test_shares_go_on_by_any_number_of_ranks(
    method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    found = Runs(teams, tiny, problems, tmp_path, method, max_steps=6, save_steps=1, gradient_checkpointing=True)
    one = found.start("one", 1)
    kinds: dict[str, dict[str, Any]] = {
        "full": {"fsdp": True},
        "sharded": {"fsdp": True, "fsdp_state_dict_type": "sharded"},
        "plain": {},
    }
    for before, first, after, second in (
        (2, "sharded", 4, "sharded"),
        (4, "sharded", 2, "full"),
        (2, "sharded", 2, "plain"),
        (2, "full", 4, "sharded"),
        (1, "plain", 2, "sharded"),
    ):
        name = f"{before}-{first}-{after}-{second}"
        fault = {"rank": before - 1, "phase": "train", "after": 3, "kind": "kill"}
        folder = found.start(name, before, {-9, 8}, fault=fault, **kinds[first])
        found.start(name, after, resume_from_checkpoint="auto", **kinds[second])
        assert found.differ(one, folder) < 1e-6, name  # four ranks and one round in another order
