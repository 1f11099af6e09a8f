"""The cases of the benchmark, and the options of its peers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Work = Literal["own", "shown", "sample"]  # a step on rollouts, a step on demonstrations, sampling only


@dataclass(frozen=True)
class Shape:
    """A model with random weights; a vocabulary of `num_tokens`, and eos is one of them."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    num_tokens: int
    tied: bool = True
    spread: float = 0.02  # standard deviation of the initial weights
    kind: str = "qwen2"  # the model type; other types take the remaining options from bench.material.HYBRID


@dataclass(frozen=True)
class Case:
    """A workload of both programs.

    `shape` None is the embedded base. `reward`: "graded" by the verifiers of the problems, or "uneven", a number that
    depends on the text only, so that every group has a gradient.
    """

    name: str
    title: str
    work: Work
    shape: Shape | None
    prompts: int
    generations: int
    max_new: int
    prompt_tokens: int = 0  # 0: the embedded tasks' own prompts
    reward: Literal["graded", "uneven"] = "graded"
    method: str = "grpo"
    options: Mapping[str, Any] = field(default_factory=dict)  # of obverse, beyond the defaults
    peers: tuple[str, ...] = ()
    pairs: int = 7
    is_long: bool = False  # steps are long enough to measure memory and time together
    needs_cuda: bool = False

    def plain(self) -> dict[str, Any]:
        """The case for JSON."""
        return asdict(self)

    @staticmethod
    def of(text: str) -> Case:
        """The case of a name or of a JSON text."""
        if not text.startswith("{"):
            return CASES[text]
        row = json.loads(text)
        return Case(**row | {"shape": Shape(**row["shape"]) if row["shape"] else None, "peers": tuple(row["peers"])})


# Qwen2.5-0.5B with 4 of its 24 layers, and Qwen2.5-1.5B.
HALF = Shape(width=896, layers=4, heads=14, kv_heads=2, inner=4864, num_tokens=151_936)
LARGE = Shape(width=1536, layers=28, heads=12, kv_heads=2, inner=8960, num_tokens=151_936)
# The embedded base's size, nearly even over 100 tokens, one of which is eos: lengths are geometric with mean 100.
GEOMETRIC = Shape(width=128, layers=4, heads=4, kv_heads=4, inner=480, num_tokens=100, tied=False, spread=0.01)
# Types whose layers keep states, with 4 layers.
HYBRID = Shape(width=256, layers=4, heads=4, kv_heads=2, inner=512, num_tokens=2_000, kind="qwen3_5_text")
KINDS = ("qwen3_next", "lfm2", "falcon_h1", "mamba2", "jamba")

RATE = 1e-6  # learning rate: small, so that lengths of completions do not change
NO_KL: dict[str, Any] = {"beta": 0.0}
CASES = {
    case.name: case
    for case in (
        Case("A", "GRPO, embedded base, 32 x 8, up to 96 new tokens", "own", None, 32, 8, 96, options=NO_KL,
             peers=("fast", "default"), pairs=9),
        Case("A-uneven", "the same, every group has a gradient", "own", None, 32, 8, 96, reward="uneven",
             options=NO_KL, peers=("fast",), pairs=9),
        Case("B", "GRPO, 0.5B shape with 4 layers, 4 x 128 tokens x 8, 128 new tokens", "own", HALF, 4, 8, 128, 128,
             reward="uneven", options=NO_KL, peers=("fast", "default"), pairs=3, is_long=True),
        Case("C", "SFT, 0.5B shape with 4 layers, 8 x 512 tokens", "shown", HALF, 8, 1, 511, 1, method="sft",
             peers=("fast", "lean", "default"), pairs=4, is_long=True),
        Case("C-lean", "C in little memory: gradient checkpointing, a row at a time", "shown", HALF, 8, 1, 511, 1,
             method="sft", options={"gradient_checkpointing": True, "micro_batch_tokens": 512},
             peers=("fast", "lean"), pairs=2, is_long=True),
        Case("D", "sampling alone, geometric lengths 1..512, 256 completions", "sample", GEOMETRIC, 32, 8, 512, 16,
             peers=("generate",), pairs=3),
        Case("hybrid", "sampling alone, Qwen3.5 with 4 layers, 16 x 64 tokens x 8, 128 new tokens", "sample", HYBRID,
             16, 8, 128, 64, peers=("generate",), pairs=5),
        *(Case(f"hybrid-{kind}", f"the same, {kind}", "sample", replace(HYBRID, kind=kind), 16, 8, 128, 64,
               peers=("generate",), pairs=3) for kind in KINDS),
        Case("E", "HPT, embedded base, 32 x 8, up to 96 new tokens", "own", None, 32, 8, 96, method="hpt", pairs=7),
        Case("F", "GRPO, 1.5B shape, 64 x 128 tokens x 8, 512 new tokens, bfloat16", "own", LARGE, 64, 8, 512, 128,
             reward="uneven", options=NO_KL | {"rollout_batch_size": 512}, peers=("fast",), pairs=3, is_long=True,
             needs_cuda=True),
    )
}  # fmt: skip


def trl_options(peer: str, case: Case) -> dict[str, Any]:
    """The options of TRL's trainer: `fast` is the fastest, `lean` uses the least memory, `default` has its defaults."""
    rows = case.prompts * case.generations
    at_once = {"fast": rows, "default": 8, "lean": 1}[peer]
    if (peer, case.name) in AT_ONCE:
        at_once = AT_ONCE[peer, case.name]
    options: dict[str, Any] = {
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
    }
    if peer == "fast":
        options["gradient_checkpointing"] = False
    return options


# Rows per forward pass where fewer than all of them are faster, or all of them do not fit.
AT_ONCE: dict[tuple[str, str], int] = {("fast", "F"): 16}
