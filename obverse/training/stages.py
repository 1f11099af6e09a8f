"""Changes of stage in a training schedule: fresh optimizers and initial models, and the queue between two stages."""

from __future__ import annotations

from dataclasses import replace

from obverse.distributed.fsdp import reshard
from obverse.models.lora import merged
from obverse.runtime import checkpoint
from obverse.training.build_models import stage_anchor
from obverse.training.learners import Learner
from obverse.training.rollout_phase import Rollouts
from obverse.training.run import Run


def start_stage(run: Run) -> int:
    """The stage of the next step; on the first step of a later stage its initial model and critic are set up."""
    stage = run.stage
    if stage > run.state.stage:
        if run.schedule.selector.fresh_anchor:
            for earlier in run.learners[:stage]:
                earlier.optimizer.free_state()
            if run.learners[stage].anchor is not None:
                _take_policy_as_anchor(run, stage)
            _copy_policy_into_critic(run.learners[stage])
            _restart_average(run.learners[stage])
        run.state.stage = stage
    return stage


def _take_policy_as_anchor(run: Run, stage: int) -> None:
    """Save the current policy as `initial-N` and use it as the initial model of a stage."""
    learner, folder = run.learners[stage], run.folder.path / f"initial-{stage}"
    tokenizer = run.collector.renderer.tokenizer_to_save()
    checkpoint.save_model(folder, learner.policy.savable, tokenizer, run.process_group)
    anchor = stage_anchor(run.config, learner.policy, run.process_group, folder)
    run.learners[stage] = replace(learner, anchor=anchor)


def _copy_policy_into_critic(learner: Learner) -> None:
    """The critic of a stage, if it has one, starts from the policy that the stage starts from."""
    if learner.critic is None:
        return
    reshard(learner.policy.model)
    reshard(learner.critic.model)
    decoder = learner.policy.model.base_model
    weights = merged(learner.policy, decoder) if learner.policy.adapter else decoder.state_dict()
    learner.critic.model.base_model.load_state_dict(weights)


def _restart_average(learner: Learner) -> None:
    """A teacher that is an average begins a stage as the policy that the stage starts from."""
    teacher = learner.method.teacher
    if learner.average is not None and teacher is not None and teacher.who == "average":
        learner.average.restart()


def queue_for_next_stage(run: Run, stage: int, rollouts: Rollouts) -> None:
    """Remove the problems that a step has taken from the queue, and queue those that the first stage failed on."""
    queued: list[str] = []
    if stage == 0:  # a step that crosses an epoch may have a problem twice
        failed = [group.problem.id for group in rollouts.groups if run.schedule.is_waiting(group)]
        queued = list(dict.fromkeys(failed))
    run.state.update_waiting(rollouts.taken_from_queue, queued)


def advance_idle_schedules(run: Run, stage: int) -> None:
    """Advance the learning-rate schedules of the other stages' optimizers, if the stages take turns by queue length.

    How often such a stage steps is not known in advance, so its schedule counts the steps of the whole run.
    """
    if run.schedule.num_waiting_per_step is None:
        return
    active = run.learners[stage].optimizer
    optimizers = {id(learner.optimizer): learner.optimizer for learner in run.learners}.values()
    for optimizer in optimizers:
        if optimizer is not active:
            for _ in range(run.config.updates_per_step):
                optimizer.skip_step()
