"""The facts about a run that are printed before it starts: models, data, batch sizes, updates, folder."""

from __future__ import annotations

from typing import Any

import torch

from obverse.config.rate_hint import learning_rate_hint
from obverse.config.train import TrainConfig
from obverse.estimator.method import Method
from obverse.estimator.requests import request_lists
from obverse.models.lora_targets import coverage
from obverse.training.run import Run

# Names in transformers' configurations of the weights of router losses, which its models add if they get labels.
ROUTER_LOSSES = ("router_aux_loss_coef", "aux_loss_alpha", "router_z_loss_coef", "aux_loss_coef")


def facts(run: Run) -> list[tuple[str, str]]:
    """The banner of a run as (title, text) pairs.

    Example: ("batch", "32 problems x (8 completions + 1 demonstrations) = 256 sampled, 32 shown a step")
    """
    config, policy, num = run.config, run.learner.policy, run.config.prompts_per_step
    size = policy.num_parameters
    dtype = str(policy.model.dtype).removeprefix("torch.")
    num_trained = sum(parameter.numel() for parameter in policy.adapter.parameters()) if policy.adapter else size
    trained = f"rank {config.lora_r}, {num_trained / 1e6:,.2f}M of these parameters are trained"
    num_completions = max(
        counts["completions"] for method in run.schedule.methods for counts in samples_per_problem(run, method)
    )
    max_new_tokens = num * config.max_completion_length * num_completions
    stages = range(len(run.schedule.stages))
    batches = [(f"batch of stage {stage}" if len(stages) > 1 else "batch", batch(run, stage)) for stage in stages]
    selector = [("stages", f"{run.schedule.selector}, now stage {run.stage}")] if len(stages) > 1 else []
    epochs = run.total_steps * num / len(run.problems)
    other_rates = [(f"stage {number}", stage.learning_rate) for number, stage in enumerate(run.schedule.stages)]
    other_rates += [("critic", method.critic.learning_rate) for method in run.schedule.methods if method.critic]
    rates = f"{config.learning_rate:g}" + "".join(
        f", {owner} {rate:g}" for owner, rate in other_rates if rate is not None
    )
    at_once = config.tokens_at_once(policy.device.type)
    spent = {"tokens": "tokens are generated plus trained"}.get(config.budget_in, f"{config.budget_in} are spent")
    until = f", until {config.budget:,} {spent}" if config.budget else ""
    ranks = f" on each of {run.process_group.size} ranks" if run.process_group.size > 1 else ""
    device = f"{policy.device}, {torch.get_num_threads()} threads{ranks}"
    return [
        ("method", f"{config.method} {config.method_options or ''}".strip()),
        ("model", f"{config.model} ({size / 1e6:,.1f}M parameters, {dtype}, {device})"),
        *[
            ("router", sentence)
            for sentence in [balancing(policy.model.config, config.router_aux_loss_coef)]
            if sentence
        ],
        *([("adapters", f"{trained}: {coverage(policy)}")] if policy.adapter else []),
        *[("teacher", sentence) for sentence in teachers(run)],
        ("template", run.collector.renderer.describe()),
        ("data", f"{config.dataset} {config.dataset_split}: {len(run.problems):,} problems"),
        *selector,
        *batches,
        ("sampling", f"at most {config.max_completion_length:,} new tokens each, {max_new_tokens:,} a step"),
        ("updates", f"{config.num_iterations} passes x {config.num_mini_batches} mini batches a step"),
        ("training", f"micro batches of {at_once:,} tokens (they do not change the gradient)"),
        ("steps", f"{run.total_steps:,} ({epochs:.1f} epochs), from {run.state.step}{until}"),
        ("rate", f"learning_rate {rates}, {config.lr_scheduler_type}"),
        *[("hint", sentence) for sentence in [learning_rate_hint(config, size)] if sentence],
        ("saves", saves(run.config)),
        ("folder", str(run.folder.path)),
    ]


def teachers(run: Run) -> list[str]:
    """A line for each teacher of the run's methods: its declaration, and the models that it may be."""
    config = run.config
    named = config.teacher_url or ", ".join(f"{value} {name}".strip() for value, name in config.teacher_models.items())
    declared = dict.fromkeys(method.teacher for method in run.schedule.methods if method.teacher is not None)
    return [f"{teacher}{': ' + named if teacher.who == 'model' else ''}" for teacher in declared]


def balancing(model: Any, weight: float) -> str | None:
    """A note on the balancing loss of a mixture of experts; None for other models.

    `model` is the model's configuration, `weight` that of the balancing loss in this run.
    """
    text = model.get_text_config()
    losses = {name: value for name in ROUTER_LOSSES if (value := getattr(text, name, None))}
    if weight:
        return f"experts are balanced: router_aux_loss_coef {weight:g}, over all tokens of an update"
    if not losses:
        return None
    named = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    return f"the model's own balancing loss ({named}) is not used: --router_aux_loss_coef adds one"


def saves(config: TrainConfig) -> str:
    """How often checkpoints are written, and what a kill would lose.

    Example: "every 500 steps or 30 minutes, the newest 2 are kept; a kill loses the steps since the last one"
    """
    steps = f"{config.save_steps:g} steps" if config.save_steps >= 1 else f"{config.save_steps:.0%} of the run"
    often = [steps] * (config.save_steps > 0) + [f"{config.save_minutes:g} minutes"] * (config.save_minutes > 0)
    if not often:
        return "only at the end and when stopped; a kill loses the whole run: give --save_steps or --save_minutes"
    lost = "the steps since the last one"
    return f"every {' or '.join(often)}, the newest {config.save_total_limit} are kept; a kill loses {lost}"


def samples_per_problem(run: Run, method: Method) -> list[dict[str, int]]:
    """The number of samples of each kind that a method requests for a problem; several where it draws one at random."""
    kinds = {"completions": "rollouts", "greedy": "greedy", "demonstrations": "demonstrations", "pairs": "pairs"}
    kinds |= {"labeled responses": "labeled"}
    counts = [
        {name: sum(getattr(request, kind) for request in requests) for name, kind in kinds.items()}
        for requests in request_lists(method, run.problems[:1], [run.progress])
    ]
    return [row for index, row in enumerate(counts) if row not in counts[:index]]


def batch(run: Run, stage: int) -> str:
    """A stage's batch in numbers; later stages of some schedules train on deferred problems."""
    method, alternatives = run.schedule.methods[stage], samples_per_problem(run, run.schedule.methods[stage])
    num = (run.schedule.num_waiting_per_step if stage > 0 else None) or run.config.prompts_per_step
    wanted = " or ".join(" + ".join(f"{n} {kind}" for kind, n in counts.items() if n) for counts in alternatives)
    num_sampled = max(counts["completions"] + counts["greedy"] for counts in alternatives)
    num_labeled = max(counts["labeled responses"] for counts in alternatives)
    num_shown = num_labeled + max(counts["demonstrations"] + 2 * counts["pairs"] for counts in alternatives)
    limit = "at most " if len(alternatives) > 1 else ""
    rounds = f", in up to {method.max_rounds} rounds" if method.max_rounds > 1 else ""
    sampled, shown = f"{limit}{num * num_sampled:,} sampled", f"{limit}{num * num_shown:,} shown"
    return f"{num} problems x ({wanted}) = {sampled}, {shown} a step{rounds}"
