"""Teachers at equal budget: distillation and self-distillation beside the methods without a teacher.

    python -m recipes.distillation     # teacher, comparison, its table in docs/results.md; goes on after a stop

The setting is that of recipes/science.py. The teacher of opd and gkd is a model that SFT, then RL trained with half of
the budget and a seed of its own; their runs have the other half. sdft and sdpo are their own teachers and have the
whole budget, which the tokens that a teacher scores are part of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import obverse
from obverse.comparison.export import markdown
from obverse.comparison.standings import standings
from obverse.runtime import checkpoint
from recipes.science import OPTIONS as SCIENCE
from recipes.science import PAGE, arguments, between, data_folder, run, write_data

BUDGET, TEACHER_COST = 400_000, 200_000  # tokens
TEACHER_SEED = 7  # no run of the comparison has it
# gkd samples at 0.9 by its paper; here every method is trained and tested at 1
METHODS = ("sft", "grpo", "sft_then_rl", "hpt", "opd", "gkd,temperature=1", "sdft", "sdpo")
OPTIONS: dict[str, Any] = {
    **SCIENCE,
    "methods": METHODS,
    "baselines": ("sft", "grpo", "sft_then_rl", "hpt"),
    "budget": BUDGET,
    "teacher_cost": TEACHER_COST,
}


def main() -> int:
    options = arguments("distillation")
    page = Path(options.pop("page"))
    teacher = train_teacher(options["output_dir"])
    code, plan = run({**options, "teacher_model": str(teacher)}, OPTIONS)
    if code == 0 and page == PAGE:
        text = page.read_text(encoding="utf-8")
        table = markdown(standings(plan), links=False, sentences=False)
        page.write_text(between(text, "distillation", table), encoding="utf-8")
        print(f"{page}: the table of teachers")
    return code


def train_teacher(output_dir: str) -> Path:
    """Train the teacher, beside the folder of the comparison, unless that is done; its last checkpoint."""
    data, folder = data_folder(output_dir), Path(f"{output_dir}-teacher")
    write_data(data)
    obverse.train(
        "sft_then_rl",
        dataset=str(data / "train.jsonl"),
        output_dir=str(folder),
        budget=TEACHER_COST,
        max_steps=10**7,
        learning_rate=1e-4,  # the best of the three rates at 400,000 tokens
        lr_scheduler_type="constant",
        prompts_per_step=SCIENCE["prompts_per_step"],
        seed=TEACHER_SEED,
        report=False,
        log_completions=False,
        resume_from_checkpoint="auto",
    )
    path = checkpoint.newest(folder)
    if path is None:
        sys.exit(f"{folder}: the teacher was not saved")
    return path


if __name__ == "__main__":
    sys.exit(main())
