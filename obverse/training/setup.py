"""Set up a run from its configuration: check options and data, lock the folder, load the models, resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from obverse import methods
from obverse.config.train import TrainConfig
from obverse.data import load_dataset
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import check_rendering
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import as_schedule
from obverse.inference import Sampler, sampling_params
from obverse.inference.build import SamplerContext, embedded_sampler, make_sampler, versions_of
from obverse.rewards import with_weights
from obverse.runtime import branches, checkpoint, manifest
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import with_folder
from obverse.runtime.run_dir import ReadOnlyRunFolder, RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training import input_fingerprints as fingerprints
from obverse.training.build_models import TrainingModels, load_models, load_reward_model
from obverse.training.collector import Collector
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.learners import build_learners
from obverse.training.rank_checks import (
    option_facts,
    require_equal,
    set_equal_threads,
    tokenizer_facts,
    version_facts,
    weights_checksum,
)
from obverse.training.resume import problems_fingerprint, prompt_format_of, refuse_changes, restore_run
from obverse.training.run import Run, RunSetup
from obverse.training.served_teacher import of_served_teacher, teacher_versions, with_served_teacher
from obverse.training.start import find_shared_start, initialize_run_folder, note_changes
from obverse.training.startup_checks import (
    check_disk_space,
    check_models,
    check_models_and_device,
    check_options,
    note_leaked_problems,
    note_model_remarks,
    note_unreadable_answers,
    select_renderable,
)
from obverse.training.teacher_checks import fitting_problems, teacher_prompts
from obverse.training.teacher_options import check_teacher_rows
from obverse.training.train_inference_kl import MismatchCheck
from obverse.training.validate import load_problems
from obverse.training.validation_loss import check_held_out
from obverse.types import Problem


def prepare(
    config: TrainConfig,
    watcher: SignalWatcher,
    process_group: ProcessGroup = SINGLE_PROCESS,
    expected: Mapping[str, str] | None = None,
) -> Run:
    """Check and load everything a run needs, and restore its state if it resumes; all ranks call it.

    `expected`: fingerprints by option of the inputs that the run must have. Raises ConfigError, DataError,
    CheckpointError or StorageError, all before the first step.
    """
    watcher.report_phase("load", 0, 0)  # does not raise Interrupted: there is no state to save yet
    schedule = as_schedule(methods.build(config.method, config.method_options))
    check_options(config, schedule, process_group)
    problems = load_problems(config, schedule)  # before the folder is created: errors leave nothing behind
    check_teacher_rows(config, schedule, problems)
    check_models_and_device(config, schedule)
    data, eval_problems = problems_fingerprint(problems), load_eval_problems(config)
    check_held_out(config, schedule, eval_problems)
    inputs = fingerprints.of_files(config, problems, eval_problems)
    fingerprints.refuse_unexpected(expected or {}, inputs)
    process_group.heartbeat()
    require_equal(process_group, {**option_facts(config), **fingerprints.fingerprint_facts(inputs), **version_facts()})
    config, folder = create_run_folder(config, process_group)
    note_of_dead_run = folder.lock()
    try:
        if note_of_dead_run:
            watcher.note(note_of_dead_run)
        if process_group.is_first:
            finish_interrupted_writes(folder, watcher)
        return assemble(
            RunSetup(config, schedule, problems, eval_problems, data, inputs, folder, watcher, process_group)
        )
    except BaseException:
        folder.release()
        raise


def create_run_folder(config: TrainConfig, process_group: ProcessGroup) -> tuple[TrainConfig, RunFolder]:
    """The configuration with its run folder, and that folder, created; ranks other than the first only read it."""
    if process_group.is_first:  # it alone decides whether a folder is free: other ranks would see what it creates
        config = with_folder(config)
    path = Path(process_group.broadcast(str(config.output_dir)))
    config = config.model_copy(update={"output_dir": path})
    folder = (RunFolder if process_group.is_first else ReadOnlyRunFolder)(path)
    folder.create()
    return config, folder


def finish_interrupted_writes(folder: RunFolder, watcher: SignalWatcher) -> None:
    """Remove what an interrupted save left in the folder, and finish an interrupted move of later steps."""
    checkpoint.remove_leftovers(folder.path)
    if branch := branches.finish_move(folder.path):
        watcher.note(f"finished an interrupted move: {branch} holds the steps that {folder.path} did not go on from")


def assemble(setup: RunSetup) -> Run:
    """Load the models of a run, build its parts, and restore its state if it resumes."""
    config, schedule, watcher, process_group = setup.config, setup.schedule, setup.watcher, setup.process_group
    start = find_shared_start(setup)
    models = load_models(config, schedule, start, process_group)
    setup = with_model_fingerprints(setup, fingerprints.of_models(config, schedule), start)
    original = RunFolder(start.resolve().parent) if start else None
    num_threads = set_equal_threads(config, original, models.policy, process_group)
    note_model_remarks(config, schedule, models, watcher)
    renderer = build_renderer(config, models, start)
    prompts = teacher_prompts(config, schedule, renderer, models.teacher_models(schedule))
    setup = with_renderable_problems(replace(setup, teacher_prompts=prompts), renderer)
    setup = with_served_teacher(setup, renderer)
    if setup.scorers:
        setup = with_model_fingerprints(setup, of_served_teacher(setup.scorers), start)
    require_equal_models(setup, renderer, models)
    note_leaked_problems(setup.problems, setup.eval_problems, watcher)
    sampler = build_sampler(setup, models, renderer)
    run = build_run(setup, models, renderer, sampler)
    check_models(run, models)
    if process_group.is_first:
        check_disk_space(run)
    process_group.heartbeat()
    if start:
        restore_run(run, start)
    with storage_errors(setup.folder.path, "make room and start again"):
        initialize_run_folder(run, start, num_threads, {**versions_of(sampler), **teacher_versions(setup.scorers)})
    return run


def with_model_fingerprints(setup: RunSetup, models: Mapping[str, str], start: Path | None) -> RunSetup:
    """Add fingerprints of models; ConfigError if ranks differ, CheckpointError if `start` has others."""
    setup.process_group.heartbeat()
    require_equal(setup.process_group, fingerprints.fingerprint_facts(models))
    inputs = {**setup.inputs, **models}
    if start and setup.process_group.is_first:
        then = manifest.run_info(start)
        later = fingerprints.SERVED & then.inputs.keys() - models.keys()
        changes = refuse_changes(setup.config, setup.data, start, then, inputs, later)
        note_changes({name: values for name, values in changes.items() if name in models}, setup.watcher)
    return replace(setup, inputs=inputs)


def with_renderable_problems(setup: RunSetup, renderer: Renderer) -> RunSetup:
    """Leave out problems whose prompts are too long; DataError for rows that the chat template cannot write."""
    problems = select_renderable(setup.problems, renderer, setup.config.max_prompt_length, setup.watcher)
    check_rendering(setup.eval_problems, renderer)
    if setup.teacher_prompts is not None:
        problems = fitting_problems(problems, setup.schedule, setup.teacher_prompts, setup.config, setup.watcher)
    note_unreadable_answers(problems, setup.watcher)
    return replace(setup, problems=problems)


def require_equal_models(setup: RunSetup, renderer: Renderer, models: TrainingModels) -> None:
    """Raise ConfigError where a rank has another tokenizer, template, policy or number of problems."""
    policy = models.policy.model
    facts = {**tokenizer_facts(renderer), "weights": weights_checksum(policy), "problems": len(setup.problems)}
    for name, teacher in models.teachers.items():
        facts[f"weights of the teacher {name}".strip()] = weights_checksum(teacher.model)
    require_equal(setup.process_group, facts)


def build_renderer(config: TrainConfig, models: TrainingModels, start: Path | None) -> Renderer:
    """The renderer of prompts; a resumed run keeps the chat template that it began with."""
    generation_config = getattr(models.policy.model, "generation_config", None)
    return Renderer(
        models.tokenizer,
        prompt_format_of(config, start),
        config.system_prompt,
        generation_config.eos_token_id if generation_config else None,
        config.chat_template_kwargs,
        config.parse_special_tokens,
    )


def build_sampler(setup: RunSetup, models: TrainingModels, renderer: Renderer) -> Sampler:
    """The sampler of rollouts; with one rank a signal interrupts it while it waits for a server."""
    watcher, process_group = setup.watcher, setup.process_group
    context = SamplerContext(
        config=setup.config,
        policy=models.policy,
        problems=[*setup.problems, *setup.eval_problems],
        renderer=renderer,
        folder=setup.folder.path,
        process_group=process_group,
        note=watcher.note,
        check=watcher.check if process_group.is_alone else lambda: None,
    )
    return make_sampler(context, setup.schedule)


def build_run(setup: RunSetup, models: TrainingModels, renderer: Renderer, sampler: Sampler) -> Run:
    """The run with its collector and learners, at its first step."""
    config, schedule, process_group = setup.config, setup.schedule, setup.process_group
    total_steps = num_steps(config, len(setup.problems))
    return Run(
        config=config,
        schedule=schedule,
        problems=setup.problems,
        eval_problems=setup.eval_problems,
        collector=build_collector(setup, models, renderer, sampler),
        learners=build_learners(config, schedule, models, total_steps, process_group, setup.scorers),
        folder=setup.folder,
        total_steps=total_steps,
        watcher=setup.watcher,
        graders=GraderErrorLimit(config.max_grader_errors),
        mismatch=MismatchCheck(config.max_mismatch_kl),
        data=setup.data,
        inputs=setup.inputs,
        process_group=process_group,
        teacher_prompts=setup.teacher_prompts,
    )


def build_collector(setup: RunSetup, models: TrainingModels, renderer: Renderer, sampler: Sampler) -> Collector:
    """The collector with its samplers and, if the run has one, its reward model."""
    config, anchor = setup.config, models.anchor
    initial = None
    if anchor is not None and any(samples_initial(method) for method in setup.schedule.methods):
        remedy = "choose a method that does not sample the initial model"
        initial = embedded_sampler(anchor, renderer, config.rollout_batch_size, remedy)
    return Collector(
        sampler=sampler,
        renderer=renderer,
        params=sampling_params(config, renderer.stop_ids),
        seed=config.seed,
        watcher=setup.watcher,
        initial=initial,
        scorer=load_reward_model(config, models.tokenizer, setup.process_group),
        format_reward=config.format_reward,
        verifier_seconds=config.verifier_seconds,
    )


def load_eval_problems(config: TrainConfig) -> list[Problem]:
    """The problems to evaluate on while training; [] without an eval_dataset."""
    if config.eval_dataset is None:
        return []
    return load_dataset(
        config.eval_dataset,
        split="heldout",
        num_problems=config.num_eval_problems,
        seed=config.seed,
        verifier=with_weights(config.verifier, config.verifier_weights),
    )


def num_steps(config: TrainConfig, num_problems: int) -> int:
    """The number of steps: max_steps, or as many as num_train_epochs take."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * num_problems / config.prompts_per_step))
