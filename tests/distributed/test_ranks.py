"""N2: several ranks learn what one process learns, whatever part of the work each of them has.

In float64 the parameters agree to 1e-9 after 50 steps. In float32 sums in another order differ in their last bits, and
Adam divides tiny gradients by tiny second moments: the claim is about the loss of every step, within 1e-5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from distributed.teams import Job, Teams
from safetensors.torch import load_file

import runs
from obverse import methods
from obverse.runtime import checkpoint

NUM_STEPS = 50
# Small, so that 50 steps are quick; what others wrote and what is sampled have uneven lengths.
SMALL: dict[str, Any] = {"prompts_per_step": 8, "max_completion_length": 6, "micro_batch_tokens": 1024}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": {"num_generations": 3, "num_mini_batches": 2, "num_iterations": 2},
    "hpt": {"num_generations": 2},
    "ppo": {"num_generations": 2},
    "dpo": {},
}
STYLE = """
def even(completions, **columns):
    return [None if len(text) % 3 == 0 else float(len(text) % 2 == 0) for text in completions]

def short(problem, text):
    return 1.0 / (1 + len(text))
"""
SPLITS = [[4, 4], [3, 5], [8, 0], [2, 2, 2, 2], [1, 3, 0, 4]]


class Pair:
    """A run by one process, and the same by several ranks."""

    def __init__(self, teams: Teams, tiny: Path, problems: Path, root: Path, method: str, **options: Any) -> None:
        self.teams, self.root, self.method = teams, root, method
        self.rest = (str(tiny), str(problems))
        self.options = {**SMALL, "max_steps": NUM_STEPS, **options}
        self.one = self.run([])

    def run(self, split: list[int], **more: Any) -> Path:
        folder = self.root / "-".join(["run", *map(str, split), *more.pop("name", ())])
        job = Job(self.method, str(folder), *self.rest, {**self.options, **more}, max(len(split), 1), split)
        ended = self.teams.run(job)
        assert [each.code for each in ended] == [0] * job.size, "\n".join(each.err for each in ended)
        return folder

    def parameters(self, folder: Path) -> float:
        """The largest difference of a parameter, a critic's included."""
        return max(map(difference, *(self.weights(each) for each in (folder, self.one))))

    def weights(self, folder: Path) -> list[Path]:
        return sorted((folder / f"checkpoint-{self.options['max_steps']}").rglob("model.safetensors"))

    def losses(self, folder: Path) -> list[float]:
        """The difference of the loss, step by step."""
        mine, theirs = runs.figures(folder), runs.figures(self.one)
        assert len(mine) == len(theirs) == self.options["max_steps"]
        return [abs(a["loss"] - b["loss"]) for a, b in zip(mine, theirs, strict=True) if "loss" in a or "loss" in b]

    def samples(self, folder: Path) -> list[bool]:
        """Whether the completions of each step are the same, ids, rewards and all."""
        names = sorted(path.name for path in (self.one / "samples").iterdir())
        return [
            runs.completions(self.one / "samples" / name) == runs.completions(folder / "samples" / name)
            for name in names
        ]


def difference(first: Path, second: Path) -> float:
    mine, theirs = load_file(first), load_file(second)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


@pytest.mark.parametrize(
    ("method", "split", "num_steps"),
    [
        pytest.param("sft", [3, 5], 8, marks=pytest.mark.slow),
        pytest.param("hpt", [4, 4], 4, marks=pytest.mark.slow),
        ("ppo", [3, 5], 3),
        pytest.param("sft", [3, 5], NUM_STEPS, marks=pytest.mark.slow),
    ],
)
def test_n2_float64_parameters(
    method: str, split: list[int], num_steps: int, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, method, dtype="float64", max_steps=num_steps, **METHODS[method])
    several = pair.run(split)
    assert pair.parameters(several) < 1e-9
    assert all(pair.samples(several)) and max(pair.losses(several)) < 1e-9


def test_n2_a_rank_without_work_changes_no_bit(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, "grpo", **{**METHODS["grpo"], "max_steps": 3})
    several = pair.run([8, 0])
    assert pair.parameters(several) == 0 and runs.figures(several) == runs.figures(pair.one)


@pytest.mark.parametrize("num_steps", [8, pytest.param(NUM_STEPS, marks=pytest.mark.slow)])
def test_n2_float32_losses(num_steps: int, teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, "sft", max_steps=num_steps)
    assert max(pair.losses(pair.run([3, 5]))) < 1e-5


@pytest.mark.release
@pytest.mark.parametrize("method", METHODS)
def test_n2_every_split(
    method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dtype in ("float64", "float32"):
        pair = Pair(teams, tiny, problems, tmp_path / dtype, method, dtype=dtype, **METHODS[method])
        for split in SPLITS:
            several = pair.run(split)
            worst, losses, same = pair.parameters(several), pair.losses(several), pair.samples(several)
            with capsys.disabled():
                print(f"\n{method} {dtype} {split}: parameters {worst:.1e}, loss {max(losses):.1e}, ", end="")
                print(f"{sum(same)} of {len(same)} steps with the same completions")
            if 0 in split and len(split) == 2:
                assert worst == 0
            if dtype == "float64":
                assert worst < 1e-9 and all(same)
            assert max(losses) < 1e-5


@pytest.mark.release
@pytest.mark.parametrize("method", methods.names())
def test_n2_every_method_with_a_split_of_its_own(
    method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """All that a method may keep or ask for: memories, courses, rounds, hints, the initial model's samples."""
    options = {"max_steps": 4, "dtype": "float64", "prompts_per_step": 6}
    pair = Pair(teams, tiny, problems, tmp_path, method, **options)
    several = pair.run([1, 2])
    assert pair.parameters(several) < 1e-9 and all(pair.samples(several))


@pytest.mark.parametrize(
    "method",
    [pytest.param("discriminative", marks=pytest.mark.slow), "relift", pytest.param("dapo", marks=pytest.mark.slow)],
)
def test_memories_rounds_and_courses_are_those_of_one_process(
    method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """With the product's own dealing, by costs; each problem comes again in every step."""
    # of dapo's gradient many numbers are nearly zero: Adam makes steps of their rounding, in proportion to the rate
    more = {"relift": {"num_waiting": 3}, "dapo": {"learning_rate": 1e-4}}.get(method, {})
    pair = Pair(teams, tiny, problems, tmp_path, method, dtype="float64", max_steps=3, num_problems=8, **more)
    job = Job(method, str(tmp_path / "two"), *pair.rest, pair.options, 2)
    ended = teams.run(job)
    assert [each.code for each in ended] == [0, 0], ended
    assert pair.parameters(tmp_path / "two") < 1e-9 and all(pair.samples(tmp_path / "two"))
    mine, theirs = (json.loads((f / "checkpoint-3" / "state.json").read_text()) for f in (tmp_path / "two", pair.one))
    assert mine["memory"] == pytest.approx(theirs["memory"], abs=1e-9)
    assert all(mine[name] == theirs[name] for name in ("cursor", "num_tokens", "waiting", "optimizers"))


@pytest.mark.slow
def test_rewards_kept_apart_are_those_of_one_process(teams: Teams, tiny: Path, problems: Path, tmp_path: Path) -> None:
    """Three verifiers grade the completions of each rank; one of them does not apply to every completion."""
    (tmp_path / "style.py").write_text(STYLE)
    verifier = f"math,{tmp_path}/style.py:even,{tmp_path}/style.py:short"
    options = {**SMALL, "max_steps": 3, "dtype": "float64", "verifier": verifier, "verifier_weights": [1, 0.5, 0.2]}
    for size in (1, 2):
        job = Job("gdpo", str(tmp_path / f"ranks-{size}"), str(tiny), str(problems), options, size, lucky=False)
        ended = teams.run(job)
        assert [rank.code for rank in ended] == [0] * size, ended
    weights = [tmp_path / f"ranks-{size}" / "checkpoint-3" / "model.safetensors" for size in (1, 2)]
    assert difference(*weights) < 1e-9 and difference(weights[0], tiny / "model.safetensors") > 1e-6
    lines = (tmp_path / "ranks-2" / "samples" / "step-000001.jsonl").read_text().splitlines()
    rewards = [json.loads(line)["rewards"] for line in lines]
    assert set().union(*rewards) == {"math", "even", "short"} and any("even" not in row for row in rewards)


def killed(teams: Teams, pair: Pair, name: str, size: int, rank: int, phase: str, after: int) -> Path:
    """A run by `size` ranks of which one is killed; its folder."""
    folder = pair.root / name
    fault = {"rank": rank, "phase": phase, "after": after, "kind": "kill"}
    options = {**pair.options, "save_steps": 1}
    ended = teams.run(Job(pair.method, str(folder), *pair.rest, options, size, fault=fault))
    assert ended[rank].code == -9 and {each.code for each in ended if each is not ended[rank]} <= {8}, ended
    return folder


def goes_on(teams: Teams, pair: Pair, folder: Path, size: int) -> None:
    """The run goes on by `size` ranks, and is the run that one process made without a stop."""
    options = {**pair.options, "save_steps": 1, "resume_from_checkpoint": "auto"}
    ended = teams.run(Job(pair.method, str(folder), *pair.rest, options, size))
    assert [each.code for each in ended] == [0] * size, "\n".join(each.err for each in ended)
    assert all(pair.samples(folder)) and pair.parameters(folder) < 1e-9
    assert [row["step"] for row in runs.figures(folder)] == list(range(1, pair.options["max_steps"] + 1))


@pytest.mark.slow
def test_a_run_of_two_ranks_that_was_killed_goes_on_by_one(
    teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, "hpt", dtype="float64", max_steps=3, num_generations=2)
    folder = killed(teams, pair, "two", 2, rank=1, phase="train", after=1)
    goes_on(teams, pair, folder, 1)


@pytest.mark.slow
def test_two_ranks_go_back_to_a_checkpoint_and_begin_a_run_of_their_own(
    teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """The first rank moves and the others wait; all save in step, also each its own pieces."""
    options = {**SMALL, "dtype": "float64", "max_steps": 3, "save_steps": 0, "save_minutes": 1e-9}
    start = {"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-2")}
    pieces = {"fsdp": True, "fsdp_state_dict_type": "sharded"}
    for name, more in (("run", {}), ("run", start), ("fork", start | pieces)):
        job = Job("sft", str(tmp_path / name), str(tiny), str(problems), {**options, **more}, 2)
        ended = teams.run(job)
        assert [each.code for each in ended] == [0, 0], "\n".join(each.err for each in ended)
    assert [row["step"] for row in runs.figures(tmp_path / "run")] == [1, 2, 3]
    assert [row["step"] for row in runs.figures(tmp_path / "run" / "set_aside" / "branch-1")] == [3]
    assert [row["step"] for row in runs.figures(tmp_path / "fork")] == [3]
    saved = [path.name for path in checkpoint.folders(tmp_path / "fork")]
    assert saved == ["checkpoint-2", "checkpoint-3"] and not (tmp_path / "fork" / "set_aside").exists()
    assert len(list((tmp_path / "fork" / "checkpoint-2" / "optimizer").iterdir())) == 2


@pytest.mark.release
@pytest.mark.parametrize("method", ["grpo", "ppo", "relift"])
@pytest.mark.parametrize(("before", "then"), [(2, 1), (1, 2), (2, 4)])
def test_a_run_that_was_killed_goes_on_by_any_number_of_ranks(
    before: int, then: int, method: str, teams: Teams, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    pair = Pair(teams, tiny, problems, tmp_path, method, dtype="float64", max_steps=7)
    for number, (phase, after) in enumerate([("sample", 2), ("train", 3), ("save", 4)]):
        folder = killed(teams, pair, f"{number}", before, rank=number % before, phase=phase, after=after)
        goes_on(teams, pair, folder, then)
