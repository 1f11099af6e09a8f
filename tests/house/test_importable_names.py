"""The folder of tests is on the import path: nothing in it may be taken for an installed library.

A folder `vllm` was: TRL looks whether `vllm` can be imported, found the tests, and none of its trainers loaded.
"""

from __future__ import annotations

import re

from house.source import ROOT

# What transformers, TRL, PEFT and accelerate look for and constraints.txt does not have.
OPTIONAL = {
    "apex", "bitsandbytes", "deepspeed", "fastapi", "flash_attn", "jax", "kernels", "liger_kernel", "mergekit",
    "mlx", "optimum", "requests", "scipy", "sglang", "tensorboard", "torchaudio", "torchvision", "trackio", "trl",
    "unsloth", "uvicorn", "vllm", "wandb",
}  # fmt: skip


def test_no_test_has_the_name_of_a_library() -> None:
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    libraries = OPTIONAL | {name.lower().replace("-", "_") for name in pinned}
    assert len(pinned) > 40
    names = {path.stem for path in (ROOT / "tests").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not names & libraries
