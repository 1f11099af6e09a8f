"""From a configuration to a run that can step: everything that can be refused is refused here."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from obverse import methods
from obverse.config.resolve import refuse_secrets
from obverse.config.train import TrainConfig
from obverse.data import load_dataset
from obverse.data.epoch_order import wording
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import refuse_misfits, spelled_remark
from obverse.distributed.fsdp import root_of, settle
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.errors import ConfigError, StorageError
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.inference import Sampler, sampling_params
from obverse.inference.build import SamplerContext, check_engine, make_sampler, versions_of
from obverse.inference.hf import HFSampler
from obverse.models.compile import refuse_without_compiler
from obverse.models.context_limits import check_run
from obverse.models.load import check_kind, locate, pick_device
from obverse.models.lora import merged, refuse_unready, remarks
from obverse.models.reward_model import RewardModel
from obverse.models.router_loss import balance_of
from obverse.rewards import unparseable_references, with_weights
from obverse.runtime import branches as history
from obverse.runtime import checkpoint
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.output_dir import with_folder
from obverse.runtime.run_dir import ReadOnlyRunFolder, RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training import input_fingerprints as inputs
from obverse.training.build_models import (
    TrainingModels,
    load_models,
    load_reward_model,
    refuse_unsupported_sharding,
    stage_anchor,
)
from obverse.training.collector import Collector
from obverse.training.cuda_memory_snapshot import refuse_without_card
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.optimizer import Optimizer
from obverse.training.rank_checks import (
    option_facts,
    require_equal,
    set_equal_threads,
    tokenizer_facts,
    version_facts,
    weights_checksum,
)
from obverse.training.resume import layout_of, problems_fingerprint, refuse_changes, restore_run
from obverse.training.start import find_shared_start, initialize_run_folder, note_changes
from obverse.training.state import Run
from obverse.training.train_inference_kl import MismatchCheck
from obverse.training.update import Learner
from obverse.training.validate import check, load_problems
from obverse.training.value_model import Critic
from obverse.types import Problem

MAX_GOLDS_READ = 50  # expected answers that a run tries to read before it starts; obverse data check reads all


def prepare(
    config: TrainConfig,
    watcher: SignalWatcher,
    process_group: ProcessGroup = SINGLE_PROCESS,
    expected: Mapping[str, str] | None = None,
) -> Run:
    """Load and check everything a run needs, and restore it if it is to be resumed.

    Raises ConfigError, DataError, CheckpointError or StorageError, each before the first step.
    """
    watcher.report_phase("load", 0, 1)  # a signal waits for the loop: there is nothing to save yet
    schedule = as_schedule(methods.build(config.method, config.method_options))
    check(schedule, config)
    refuse_secrets(config)
    refuse_unready(config)
    refuse_unsupported_sharding(config, process_group)
    check_engine(config, schedule)
    problems = load_problems(config, schedule)  # before there is a folder: mistakes leave nothing behind
    for model in (config.model, config.anchor_model, config.reward_model):
        locate(model or "embedded")
    if config.reward_model is not None:
        check_kind(config.reward_model, scores=True)
    if all(method.trains_policy for method in schedule.methods):
        check_kind(config.model, scores=False)
    refuse_without_card(config.memory_snapshot, pick_device(config.device))
    if config.torch_compile:
        refuse_without_compiler(pick_device(config.device).partition(":")[0])
    data, held_out = problems_fingerprint(problems), load_held_out(config)
    known = inputs.of_files(config, problems, held_out)
    inputs.refuse_unexpected(expected or {}, known)
    process_group.beat()
    require_equal(process_group, {**option_facts(config), **inputs.fingerprint_facts(known), **version_facts()})
    if process_group.is_first:  # it alone knows whether a folder is free: the others would find what it made
        config = with_folder(config)
    config = config.model_copy(update={"output_dir": Path(process_group.broadcast(str(config.output_dir)))})
    folder = (RunFolder if process_group.is_first else ReadOnlyRunFolder)(config.output_dir or ".")
    folder.create()
    left = folder.lock()
    try:
        if left:
            watcher.note(left)
        if process_group.is_first:
            checkpoint.remove_leftovers(folder.path)
            if branch := history.finish_move(folder.path):
                watcher.note(f"finished what was broken off: {branch} holds what {folder.path} did not go on from")
        return assemble(config, schedule, problems, held_out, data, known, folder, watcher, process_group)
    except BaseException:
        folder.release()
        raise


def assemble(
    config: TrainConfig,
    schedule: TrainingSchedule,
    problems: list[Problem],
    held_out: list[Problem],
    data: str,
    known: inputs.InputFingerprints,
    folder: RunFolder,
    watcher: SignalWatcher,
    process_group: ProcessGroup,
) -> Run:
    """The parts of a run whose folder is its own, restored if it is to be resumed."""
    start = find_shared_start(config, folder, data, known, watcher, process_group)
    networks = load_models(config, schedule, start, process_group)
    known = with_models(config, schedule, data, known, start, watcher, process_group)
    threads = set_equal_threads(
        config, RunFolder(start.resolve().parent) if start else None, networks.policy, process_group
    )
    note_model_remarks(config, schedule, networks, watcher)
    renderer = build_renderer(config, networks, start)
    problems = renderable(problems, renderer, config.max_prompt_length, watcher)
    refuse_misfits(held_out, renderer)
    note_unreadable_answers(problems, watcher)
    total_steps = num_steps(config, len(problems))
    require_equal(
        process_group,
        {**tokenizer_facts(renderer), "weights": weights_checksum(networks.policy.model), "problems": len(problems)},
    )
    note_leaked_problems(problems, held_out, watcher)
    check = watcher.check if process_group.is_alone else lambda: None  # with several ranks, signals wait for the loop
    sampled, note = [*problems, *held_out], watcher.note
    context = SamplerContext(config, networks.policy, sampled, renderer, folder.path, process_group, note, check)
    sampler = make_sampler(context, schedule)
    run = Run(
        config,
        schedule,
        problems,
        held_out,
        build_collector(config, schedule, networks, renderer, sampler, watcher, process_group),
        build_learners(config, schedule, networks, total_steps, process_group),
        folder,
        total_steps,
        watcher,
        GraderErrorLimit(config.max_grader_errors),
        MismatchCheck(config.max_mismatch_kl),
        data=data,
        inputs=known,
        process_group=process_group,
    )
    check_models(run, networks)
    if process_group.is_first:
        refuse_small_disk(run)
    process_group.beat()
    if start:
        restore_run(run, start)
    with storage_errors(folder.path, "make room and start again"):
        initialize_run_folder(run, start, threads, versions_of(sampler))
    return run


def check_models(run: Run, networks: TrainingModels) -> None:
    """Note weights that no model reads, and refuse texts that one of them cannot read."""
    scorer = run.collector.scorer if isinstance(run.collector.scorer, RewardModel) else None
    for remark in networks.unused_weights(scorer):
        run.watcher.note(remark)
    models, renderer = networks.text_models(run.config), run.collector.renderer
    check_run(run.config, run.schedule, run.problems, run.eval_problems, renderer, models, scorer, run.watcher)


def note_model_remarks(
    config: TrainConfig, schedule: TrainingSchedule, networks: TrainingModels, watcher: SignalWatcher
) -> None:
    """Note what is odd about the networks and no mistake."""
    for remark in remarks(config, networks.critic is not None):
        watcher.note(remark)
    apart = config.gradient_checkpointing or config.torch_compile or config.router_aux_loss_coef
    may_share = not (apart or root_of(networks.policy.model))
    if may_share and not networks.policy.shares and any(method.trains_policy for method in schedule.methods):
        watcher.note(
            "prompts are computed once per sample: read from a cache, this model's would differ (docs/models.md)"
        )


def with_models(
    config: TrainConfig,
    schedule: TrainingSchedule,
    data: str,
    known: inputs.InputFingerprints,
    start: Path | None,
    watcher: SignalWatcher,
    process_group: ProcessGroup,
) -> inputs.InputFingerprints:
    """The fingerprints with those of the models that were loaded; refused where ranks or the start have others."""
    models = inputs.of_models(config, schedule)
    process_group.beat()
    require_equal(process_group, inputs.fingerprint_facts(models))
    known = {**known, **models}
    if start and process_group.is_first:
        told = refuse_changes(config, data, start, checkpoint.run_info(start), known)
        note_changes({name: values for name, values in told.items() if name in models}, watcher)
    return known


def refuse_small_disk(run: Run) -> None:
    """Raise StorageError where the disk has no room for one checkpoint: weights, and two moments of what learns."""
    parameters = [each for model in run.models().values() for each in model.parameters()]
    learning = sum(each.numel() for each in parameters if each.requires_grad) * len(run.optimizers())
    needed = sum(each.numel() * each.element_size() for each in parameters) + 2 * 4 * learning
    free = shutil.disk_usage(run.folder.path).free
    if free < needed:
        raise StorageError(
            f"run folder {run.folder.path}: a checkpoint takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free: "
            "make room, or choose --output_dir on another disk"
        )


def note_unreadable_answers(problems: list[Problem], watcher: SignalWatcher) -> None:
    """Note the expected answers that no algebra can read; only the first ones are tried."""
    as_text = unparseable_references(problems, MAX_GOLDS_READ)
    if as_text:
        watcher.note(
            f"{len(as_text)} expected answers can only be compared as text, such as that of {as_text[0].id}: "
            "computer algebra cannot read them (obverse data check lists them)"
        )


def note_leaked_problems(problems: Sequence[Problem], held_out: Sequence[Problem], watcher: SignalWatcher) -> None:
    """Note how many of the problems to evaluate on are trained on."""
    known = {wording(problem) for problem in problems}
    number = sum(wording(problem) in known for problem in held_out)
    if number:
        watcher.note(
            f"LEAK: {number} of the {len(held_out)} problems of eval_dataset are trained on too: what is measured on "
            "them is no generalization"
        )


def build_renderer(config: TrainConfig, networks: TrainingModels, start: Path | None) -> Renderer:
    """How the policy is spoken to: as its run began, if it is resumed."""
    stops = getattr(networks.policy.model, "generation_config", None)
    return Renderer(
        networks.tokenizer,
        layout_of(config, start),
        config.system_prompt,
        stops.eos_token_id if stops else None,
        config.chat_template_kwargs,
        config.parse_special_tokens,
    )


def build_collector(
    config: TrainConfig,
    schedule: TrainingSchedule,
    networks: TrainingModels,
    renderer: Renderer,
    sampler: Sampler,
    watcher: SignalWatcher,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Collector:
    """Who samples and who judges."""
    params = sampling_params(config, renderer.stop_ids)
    initial = None
    if networks.anchor is not None and any(samples_initial(method) for method in schedule.methods):
        anchor = networks.anchor
        initial = HFSampler(anchor.model, config.rollout_batch_size, renderer.decode, anchor.mixed, anchor.scope)
    return Collector(
        sampler,
        renderer,
        params,
        config.seed,
        watcher,
        initial,
        load_reward_model(config, networks.tokenizer, process_group),
        config.format_reward,
        config.verifier_seconds,
    )


def build_learners(
    config: TrainConfig,
    schedule: TrainingSchedule,
    networks: TrainingModels,
    total_steps: int,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> list[Learner]:
    """A learner per lane, with an optimizer of its own unless it shares the first one's."""
    policy = networks.policy
    here = config.sampler == "hf" and not config.async_sampling  # no other program samples, and no older policy
    learners: list[Learner] = []
    gae = next((method.critic for method in schedule.methods if method.critic is not None), None)
    critic = None
    if gae is not None:
        steps = num_updates(
            config, schedule, total_steps, [n for n, each in enumerate(schedule.methods) if each.critic]
        )
        critic = Critic(networks.critic, Optimizer(networks.critic, config, steps, gae.learning_rate))
    for number, stage in enumerate(schedule.stages):
        if number > 0 and stage.shares_optimizer:
            optimizer = learners[0].optimizer
        else:
            mine = [
                n for n, each in enumerate(schedule.stages) if n == number or (number == 0 and each.shares_optimizer)
            ]
            optimizer = Optimizer(
                policy.model, config, num_updates(config, schedule, total_steps, mine), stage.learning_rate
            )
        own = critic if stage.method.critic is not None else None
        anchor = networks.anchor if stage.method.needs("anchor") else None
        params = sampling_params(config, ())
        draws = not samples_initial(stage.method)  # the policy as it is writes what it learns from
        compares = draws and stage.method.trains_policy and stage.method.inputs is None
        learners.append(
            Learner(
                policy,
                anchor,
                stage.method,
                optimizer,
                config.tokens_at_once(policy.device.type),
                own,
                samples_itself=params.is_untruncated and draws and here,
                table=networks.table,
                params=params if compares else None,
                process_group=process_group,
                balance=balance_of(policy.model, config.router_aux_loss_coef),
            )
        )
    return learners


def num_updates(config: TrainConfig, schedule: TrainingSchedule, total_steps: int, stages: Sequence[int]) -> int:
    """The updates that the schedule of an optimizer counts on which steps in the lanes of these numbers."""
    share = sum(map(schedule.selector.span, stages))
    return math.ceil(total_steps * min(share, 1.0)) * config.updates_per_step


def start_stage(run: Run) -> int:
    """The lane whose turn it is; one that begins now may take the policy as it finds it for its initial model."""
    stage = run.stage
    if stage > run.state.lane:
        if run.schedule.selector.fresh_anchor:
            for earlier in run.learners[:stage]:
                earlier.optimizer.free_state()
            learner = run.learners[stage]
            if learner.anchor is not None:
                folder = run.folder.path / f"initial-{stage}"
                checkpoint.save_model(
                    folder, learner.policy.kept, run.collector.renderer.tokenizer_to_save(), run.process_group
                )
                anchor = stage_anchor(run.config, learner.policy, run.process_group, folder)
                run.learners[stage] = replace(learner, anchor=anchor)
            if learner.critic is not None:  # it begins as the policy does, and with it
                settle(learner.policy.model)
                settle(learner.critic.model)
                decoder = learner.policy.model.base_model
                own = merged(learner.policy, decoder) if learner.policy.adapter else decoder.state_dict()
                learner.critic.model.base_model.load_state_dict(own)
        run.state.lane = stage
    return stage


def load_held_out(config: TrainConfig) -> list[Problem]:
    """The problems to evaluate on while training; none without an eval_dataset."""
    if config.eval_dataset is None:
        return []
    return load_dataset(
        config.eval_dataset,
        split="heldout",
        num_problems=config.num_eval_problems,
        seed=config.seed,
        verifier=with_weights(config.verifier, config.verifier_weights),
    )


def renderable(
    problems: list[Problem], renderer: Renderer, max_prompt_length: int | None, watcher: SignalWatcher
) -> list[Problem]:
    """The problems whose prompts fit; rows that the template would leave parts out of are refused, the rest is said."""
    refuse_misfits(problems, renderer)
    problems = short_enough(problems, renderer, max_prompt_length, watcher)
    if sentence := spelled_remark(problems, renderer):
        watcher.note(sentence)
    if renderer.portable() is None:
        watcher.note("no chat template can be stored that writes these prompts elsewhere: obverse eval alone will")
    return problems


def short_enough(
    problems: list[Problem], renderer: Renderer, max_prompt_length: int | None, watcher: SignalWatcher
) -> list[Problem]:
    """The problems whose prompts fit; how many do not is said, and none at all is a ConfigError."""
    if max_prompt_length is None:
        return problems
    fitting = [problem for problem in problems if len(renderer.prompt(problem)) <= max_prompt_length]
    if not fitting:
        raise ConfigError(f"no prompt has at most {max_prompt_length} tokens: raise --max_prompt_length")
    if len(fitting) < len(problems):
        watcher.note(f"{len(problems) - len(fitting)} of {len(problems)} problems left out by --max_prompt_length")
    return fitting


def num_steps(config: TrainConfig, num_problems: int) -> int:
    """max_steps, or as many as num_train_epochs take."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * num_problems / config.prompts_per_step))
