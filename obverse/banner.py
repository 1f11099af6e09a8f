"""What a user wants to see before anything runs, the batch arithmetic above all."""

from __future__ import annotations

import torch

from obverse.prepare import Run


def facts(run: Run) -> list[tuple[str, str]]:
    """The banner of a run as (title, text) pairs.

    Example: ("batch", "32 problems x (8 completions + 1 demonstrations) = 256 sampled, 32 shown a step")
    """
    config, policy, num = run.config, run.learner.policy, run.config.prompts_per_step
    wishes = run.method.ask(run.problems[0], run.progress)
    rollouts, shown = (sum(getattr(wish, kind) for wish in wishes) for kind in ("rollouts", "demonstrations"))
    asked = {"completions": rollouts, "demonstrations": shown}
    wanted = " + ".join(f"{count} {kind}" for kind, count in asked.items() if count)
    size = sum(parameter.numel() for parameter in policy.model.parameters())
    dtype = str(policy.model.dtype).removeprefix("torch.")
    most = num * rollouts * config.max_completion_length
    epochs = run.total_steps * num / len(run.problems)
    until = f", until {config.budget:,} tokens are generated plus trained" if config.budget else ""
    where = f"{policy.device}, {torch.get_num_threads()} threads"
    return [
        ("method", f"{config.method} {config.method_options or ''}".strip()),
        ("model", f"{config.model} ({size / 1e6:,.1f}M parameters, {dtype}, {where})"),
        ("template", run.collector.renderer.describe()),
        ("data", f"{config.dataset} {config.dataset_split}: {len(run.problems):,} problems"),
        ("batch", f"{num} problems x ({wanted}) = {num * rollouts:,} sampled, {num * shown:,} shown a step"),
        ("sampling", f"at most {config.max_completion_length:,} new tokens each, {most:,} a step"),
        ("updates", f"{config.num_iterations} passes x {config.num_mini_batches} mini batches a step"),
        ("training", f"micro batches of {config.micro_batch_tokens:,} tokens (they do not change the gradient)"),
        ("steps", f"{run.total_steps:,} ({epochs:.1f} epochs), from {run.state.step}{until}"),
        ("rate", f"learning_rate {config.learning_rate:g}, {config.lr_scheduler_type}"),
        ("folder", str(run.folder.path)),
    ]
