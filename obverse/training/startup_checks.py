"""Checks and notes before a run's first step: its options, its models and its problems."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from obverse.config.resolve import refuse_secrets
from obverse.config.train import TrainConfig
from obverse.data.epoch_order import wording
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import check_rendering, control_token_note
from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError, StorageError
from obverse.estimator.schedule import TrainingSchedule
from obverse.inference.build import check_engine
from obverse.models.compile import refuse_without_compiler
from obverse.models.context_limits import check_run
from obverse.models.load import check_kind, locate, pick_device
from obverse.models.lora import refuse_unready, remarks
from obverse.models.reward_model import RewardModel
from obverse.rewards import unparseable_references
from obverse.runtime.callbacks import Watcher
from obverse.training.build_models import TrainingModels, refuse_unsupported_sharding
from obverse.training.cuda_memory_snapshot import refuse_without_card
from obverse.training.prepared_update import repeats_prompts
from obverse.training.run import Run
from obverse.training.teacher_checks import check_teacher_lengths
from obverse.training.teacher_options import check_teacher_options
from obverse.training.validate import check
from obverse.types import Problem

MAX_ANSWERS_PARSED = 50  # expected answers that are parsed before a run; obverse data check parses all


def check_options(config: TrainConfig, schedule: TrainingSchedule, process_group: ProcessGroup) -> None:
    """Raise ConfigError for options that contradict each other, the method or the installation."""
    check(schedule, config)
    check_teacher_options(config, schedule)
    refuse_secrets(config)
    refuse_unready(config)
    refuse_unsupported_sharding(config, process_group)
    check_engine(config, schedule)


def check_models_and_device(config: TrainConfig, schedule: TrainingSchedule) -> None:
    """Raise ConfigError for models that cannot be found or are of the wrong kind, and for an unfit device."""
    for model in (config.model, config.anchor_model, config.reward_model, *config.teacher_models.values()):
        locate(model or "embedded")
    for teacher in config.teacher_models.values():
        check_kind(teacher, scores=False)
    if config.reward_model is not None:
        check_kind(config.reward_model, scores=True)
    if all(method.trains_policy for method in schedule.methods):
        check_kind(config.model, scores=False)
    refuse_without_card(config.memory_snapshot, pick_device(config.device))
    if config.torch_compile:
        refuse_without_compiler(pick_device(config.device).partition(":")[0])


def check_models(run: Run, models: TrainingModels) -> None:
    """Note weights that no model reads; raise for problems that exceed a model's context."""
    collector = run.collector
    scorer = collector.scorer if isinstance(collector.scorer, RewardModel) else None
    for remark in models.unused_weights(scorer):
        run.watcher.note(remark)
    text_models = models.text_models(run.config)
    check_run(
        run.config, run.schedule, run.problems, run.eval_problems, collector.renderer, text_models, scorer, run.watcher
    )
    if run.teacher_prompts is not None:
        teachers, longest = models.teacher_models(run.schedule), run.config.max_completion_length
        check_teacher_lengths(run.problems, run.schedule, run.teacher_prompts, teachers, longest, run.watcher)


def check_disk_space(run: Run) -> None:
    """Raise StorageError without disk space for one checkpoint: weights, and two moments per trained parameter."""
    parameters = [parameter for model in run.models().values() for parameter in model.parameters()]
    num_trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad) * len(run.optimizers())
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters) + 2 * 4 * num_trained
    free = shutil.disk_usage(run.folder.path).free
    if free < needed:
        raise StorageError(
            f"run folder {run.folder.path}: a checkpoint takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free: "
            "make room, or choose --output_dir on another disk"
        )


def note_model_remarks(
    config: TrainConfig, schedule: TrainingSchedule, models: TrainingModels, watcher: Watcher
) -> None:
    """Note properties of the models that slow a run down or surprise, and are no errors."""
    for remark in remarks(config, models.critic is not None):
        watcher.note(remark)
    never_shares = config.gradient_checkpointing or config.torch_compile or config.router_aux_loss_coef
    if not models.policy.unshared or never_shares or is_sharded(models.policy.model):
        return
    if any(repeats_prompts(method) for method in schedule.methods):
        watcher.note(f"prompts are computed for each sample: {models.policy.unshared} (docs/models.md)")


def select_renderable(
    problems: list[Problem], renderer: Renderer, max_prompt_length: int | None, watcher: Watcher
) -> list[Problem]:
    """The problems whose prompts have at most `max_prompt_length` tokens; notes how many do not.

    Raises DataError for rows that the chat template would write only in part, ConfigError if no prompt is short enough.
    """
    check_rendering(problems, renderer)
    problems = select_short(problems, renderer, max_prompt_length, watcher)
    if sentence := control_token_note(problems, renderer):
        watcher.note(sentence)
    if renderer.portable() is None:
        watcher.note(
            "no portable chat template writes these prompts: other programs cannot prompt the checkpoints alike; "
            "obverse eval can"
        )
    return problems


def select_short(
    problems: list[Problem], renderer: Renderer, max_prompt_length: int | None, watcher: Watcher
) -> list[Problem]:
    """The problems whose prompts have at most `max_prompt_length` tokens (None: all); ConfigError if there are none."""
    if max_prompt_length is None:
        return problems
    short = [problem for problem in problems if len(renderer.prompt(problem)) <= max_prompt_length]
    if not short:
        raise ConfigError(f"no prompt has at most {max_prompt_length} tokens: raise --max_prompt_length")
    if len(short) < len(problems):
        watcher.note(f"{len(problems) - len(short)} of {len(problems)} problems left out by --max_prompt_length")
    return short


def note_unreadable_answers(problems: list[Problem], watcher: Watcher) -> None:
    """Note expected answers that computer algebra cannot parse; only the first ones are tried."""
    as_text = unparseable_references(problems, MAX_ANSWERS_PARSED)
    if as_text:
        watcher.note(
            f"{len(as_text)} expected answers can only be compared as text, such as that of {as_text[0].id}: "
            "computer algebra cannot read them (obverse data check lists them)"
        )


def note_leaked_problems(problems: Sequence[Problem], eval_problems: Sequence[Problem], watcher: Watcher) -> None:
    """Note how many of the evaluation problems are also trained on."""
    trained = {wording(problem) for problem in problems}
    number = sum(wording(problem) in trained for problem in eval_problems)
    if number:
        watcher.note(
            f"LEAK: {number} of the {len(eval_problems)} problems of eval_dataset are trained on too: accuracy on them "
            "does not measure generalization"
        )
