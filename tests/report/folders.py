"""Run folders for tests of the page: everything that a report reads, without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from obverse.config.train import EMBEDDED_PRESET

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
HOSTILE += "\x1b[31mred\x00\u202eevil\ud800 & \u2028 end"
LEVELS = ("1", "2", "3", "all")


def write_run(
    path: Path,
    method: str = "hpt",
    num_steps: int = 12,
    seed: int = 1,
    num_problems: int = 3,
    text: str = "7+5=12#12",
    evals: Sequence[int] = (0, 6, 12),
    **options: Any,
) -> Path:
    """A run of `num_steps` with figures that a formula gives: reward (step + seed) / 100."""
    (path / "samples").mkdir(parents=True)
    (path / "eval").mkdir()
    config = {"method": method, "model": "embedded", "dataset": "arithmetic:1-6", "seed": seed, "num_generations": 4}
    config |= {"learning_rate": EMBEDDED_PRESET["learning_rate"], "output_dir": str(path), **options}
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "environment.json").write_text(json.dumps({"python": "3.12.1", "packages": {"torch": "2.13.0"}}))
    write_lines(path / "metrics.jsonl", [metrics_row(step, seed) for step in range(1, num_steps + 1)])
    for step in range(1, num_steps + 1):
        rows = [row for problem in range(num_problems) for row in group(f"problem-{problem}", step + problem, text)]
        write_lines(path / "samples" / f"step-{step:06d}.jsonl", rows)
    for step in evals:
        (path / "eval" / f"step-{step:06d}.json").write_text(json.dumps(summary(step / 20, seed)))
    write_weights(path / "checkpoint-12")
    return path


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # escapes: a lone surrogate is no UTF-8


def metrics_row(step: int, seed: int) -> dict[str, Any]:
    imitated = max(0.0, 0.8 - step / 100)
    return {
        "step": step,
        "num_tokens": 1000 * step,
        "tokens/generated": 600,
        "tokens/trained": 400,
        "step_time": 0.5 + seed / 10,
        "reward": (step + seed) / 100,
        "reward_std": 0.3,
        "accuracy": (step + seed) / 100,
        "problems/demonstration": imitated,
        "problems/rollout": 1 - imitated,
        "problems/none": 0.0,
        "frac_reward_zero_std": 0.5,
        "entropy": 1 / step,
        "nll": None if step == 3 else 2 / step,
        "grad_norm": 1 + math.sin(step),
        "clip_ratio": 0.0,
        "completions/mean_length": 20.0 + step,
        "completions/formatted": 0.9,
        "completions/clipped_ratio": 0.1,
    }


def group(problem: str, number: int, text: str) -> list[dict[str, Any]]:
    """A demonstration and four rollouts, `number` % 5 of them correct; if none is, the demonstration is trained."""
    num_right = number % 5
    shared = {"problem": problem, "prompt": "Q:7+5A:", "answer": "12", "num_hint": 0}
    given = {"kind": "demonstration", "reward": 1.0, "correct": True, "reason": "", "finish": "stop"}
    rows = [{**shared, **given, "text": "7+5=12#12", "ids": [1, 2, 3], "kept": num_right == 0}]
    for i in range(4):
        is_correct = i < num_right
        sampled = {
            "kind": "rollout",
            "reward": float(is_correct),
            "correct": is_correct,
            "reason": "" if is_correct else "13 is wrong",
        }
        sampled |= {"finish": "length" if i == 3 else "stop", "kept": num_right > 0}
        rows.append({**shared, **sampled, "text": text, "ids": list(range(5 + i))})
    return rows


def summary(solved: float, seed: int) -> dict[str, dict[str, Any]]:
    """Held-out figures by difficulty."""
    rows = {}
    for i, level in enumerate(LEVELS):
        value = min(max(solved - i / 50, 0.0) + seed / 1000, 1.0)
        row = {"problems": 10, "avg@8": value, "interval": [max(value - 0.1, 0.0), value + 0.1]}
        rows[level] = row | {"pass@1": value, "pass@8": min(value + 0.3, 1.0), "truncated": 0.0, "ungraded": 0.0}
    return rows


def write_weights(folder: Path) -> None:
    """A safetensors file of 10 x 20 + 50 numbers; without the numbers: a report reads the header only."""
    folder.mkdir()
    shapes = {"a": [10, 20], "b": [50]}
    tensors = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def write_comparison(root: Path, **options: Any) -> Path:
    """Two entries with two seeds each, the standings over two tests, and a run of the search for a rate."""
    for entry, method in (("hpt-gate-1", "hpt"), ("grpo", "grpo")):
        for seed in (1, 2):
            write_run(root / "runs" / entry / f"seed-{seed}", method, seed=seed, **options)
    write_run(root / "grid" / "grpo" / "rate-0.1", "grpo", learning_rate=0.1)
    (root / "comparison.yaml").write_text("seeds: 2\n")
    labels = {"hpt-gate-1": "hpt gate=1", "grpo": "grpo"}
    about = {"steps": [12, 12], "num_tokens": [12000, 12000], "seconds": [6.0, 6.0], "flops": [1e12, 1e12]}
    entries = [
        {"entry": entry, "label": label, "rate": 1e-4, "is_baseline": entry == "grpo", "best_steps": [6, 12], **about,
         "grid": [{"rate": 1e-4, "score": 0.4, "num_tokens": 3000, "seconds": 1.0}], "failed": []}
        for entry, label in labels.items()
    ]  # fmt: skip
    figures = [
        {"entry": entry, "step": step, "test": test, "k": k, "mean": 0.4 + k / 100 + (step == "best") / 10,
         "low": 0.35, "high": 0.45, "samples": f"figures/{entry}/{step}/{test}", "baseline": "grpo",
         "difference": 0.01, "difference_low": -0.01, "difference_high": 0.03,
         "verdict": "not distinguishable" if entry.startswith("hpt") and k == 1 else ""}
        for entry in ("base", *labels)
        for step in ("last", "best")
        for test in ("easy", "hard")
        for k in (1, 8)
    ]  # fmt: skip
    standings = {"budget": 12000, "budget_in": "tokens", "seeds": [1, 2], "k": [1, 8], "num_samples": 8}
    standings |= {"baselines": ["grpo"], "tests": [], "columns": ["easy", "hard"]}
    (root / "standings.json").write_text(json.dumps({**standings, "entries": entries, "figures": figures}))
    return root


def write_analyses(folder: Path) -> Path:
    """A file of every analysis of `obverse analyze`."""
    folder.mkdir(parents=True)
    stage = {"bias": 0.5, "cosine": 0.9, "scale": 1.0, "variance": 3.0, "snr": 0.3, "error": 0.6}
    mass = {"mass": 1.0, "signed": 0.5, "num_tokens": 9, "masked": 0.0, "clipped": 0.0}
    weights = [0.1, -0.2, 0.0]
    shaded = {"tokens": ["7", "<b>", "=12"], "sources": ["rollout"] * 3}
    shaded |= {"coefficients": {"hpt": weights, "grpo": [-weight for weight in weights], "sft": None}}
    ends = {"before": [0.25, 0.5, 0.25], "after": [0.5, 0.0, 0.5]}
    rows = [{"token": "<i>", "change": 0.4, "num": 3}]
    analyses: list[dict[str, Any]] = [
        {"question": "variance", "stages": [{"success": 0.1}, {"success": 0.9}],
         "methods": [{"method": "grpo", "lane": 0, "stages": [stage, stage]}]},
        {"question": "gradients", "stages": [{"name": "step 30",
         "rows": [{"name": "hpt", "part": part, "norm": 2.0} for part in ("demonstrations", "own samples")],
         "cosines": {"names": ["hpt", "grpo"], "values": [[1.0, 0.25], [None, 1.0]]}}]},
        {"question": "coefficients", "about": "one batch", "methods": [{"method": "hpt", "masses": [
            {"by": "source", "name": "rollout", "share": 0.75, **mass},
            {"by": "source", "name": "demonstration", "share": 0.25, **mass}]}],
         "completions": [{"problem": "p", "kind": "rollout", "reward": 1.0, **shaded}]},
        {"question": "shift", "before": "base", "after": "step 12", "kinds": [
            {"kind": "demonstration", "num_tokens": 90, "edges": [0, 0.3, 0.6, 1.0], **ends,
             "entropy": [{"position": i, "before": 0.5, "after": 0.25, "num_tokens": 9} for i in range(3)],
             "raised": rows, "lowered": rows}]},
        {"question": "coverage", "num_problems": 10,
         "policies": [{"name": name, "num_samples": 4, "pass": {"1": value, "4": 0.6}, "interval": {"1": [0.1, 0.5]}}
                      for name, value in (("base", 0.2), ("hpt", 0.4))],
         "against": [{"name": "hpt", "crossover": 4, "gained": ["a"], "lost": ["b", "c"], "able": 9,
                      "forgotten": ["b"]}]},
    ]  # fmt: skip
    for analysis in analyses:
        (folder / f"{analysis['question']}.json").write_text(json.dumps(analysis))
    return folder
