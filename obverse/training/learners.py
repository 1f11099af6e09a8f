"""The learners of a run: for every stage its method, the models that it reads and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from obverse.config.train import TrainConfig
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import TrainingSchedule
from obverse.inference import SamplingParams, sampling_params
from obverse.inference.scoring import TokenScorer
from obverse.models.policy import Policy
from obverse.models.router_loss import Balance, balance_of
from obverse.training.build_models import TrainingModels
from obverse.training.optimizer import Optimizer
from obverse.training.value_model import Critic
from obverse.training.weight_average import WeightAverage


@dataclass(frozen=True)
class Learner:
    """What an update needs: the method, the models that it reads, the optimizer.

    For a method that trains a reward model `policy` is that model: it has a scalar head and no log-probs.
    """

    policy: Policy
    anchor: Policy | None  # the frozen initial model
    method: Method
    optimizer: Optimizer
    micro_batch_tokens: int
    critic: Critic | None = None
    samples_itself: bool = False  # rollouts come from the policy itself, and no sampling parameter excludes tokens
    table: torch.nn.Module | None = None  # the initial model's embeddings, for a method that mixes its inputs
    params: SamplingParams | None = None  # of the rollouts, to compare sampler and trainer; None: not compared
    process_group: ProcessGroup = SINGLE_PROCESS  # the ranks that share each update
    balance: Balance | None = None  # the load-balancing loss of a mixture of experts
    teachers: Mapping[str, Policy] = field(default_factory=dict)  # other models, by the field's value; "": the only one
    scorers: Mapping[str, TokenScorer] = field(default_factory=dict)  # in place of the teachers', e.g. of a server
    average: WeightAverage | None = None  # the moving average of the policy's weights

    @property
    def teacher(self) -> Policy | None:
        """The one model that the method's teacher is; None without a teacher in this process, or with several."""
        if self.method.teacher is None:
            return None
        models = {
            "policy": self.policy,
            "initial": self.anchor,
            "average": None if self.average is None else self.average.teacher,
            "model": next(iter(self.teachers.values())) if len(self.teachers) == 1 else None,
        }
        return models[self.method.teacher.who]


def policy_for(method: Method, policy: Policy) -> Policy:
    """The policy as it computes the entropies that the method reads."""
    return policy if method.entropy_top_k is None else replace(policy, entropy_top_k=method.entropy_top_k)


def build_learners(
    config: TrainConfig,
    schedule: TrainingSchedule,
    models: TrainingModels,
    total_steps: int,
    process_group: ProcessGroup = SINGLE_PROCESS,
    scorers: Mapping[str, TokenScorer] | None = None,
) -> list[Learner]:
    """A learner per stage, each with its own optimizer unless the stage shares the first one's.

    `scorers` take the place of teachers that are other models.
    """
    critic = _critic(config, schedule, models, total_steps)
    average = _average(schedule, models)
    params = sampling_params(config, ())
    is_same_policy = config.sampler == "hf" and not config.async_sampling  # no server samples, and no older policy
    learners: list[Learner] = []
    for number, stage in enumerate(schedule.stages):
        method = stage.method
        if number > 0 and stage.shares_optimizer:
            optimizer = learners[0].optimizer
        else:
            num = num_updates(config, schedule, total_steps, _stages_of_optimizer(schedule, number))
            optimizer = Optimizer(models.policy.model, config, num, stage.learning_rate)
        samples_policy = not samples_initial(method)  # the rollouts it trains on come from the current policy
        is_comparable = samples_policy and method.trains_policy and method.inputs is None
        learners.append(
            Learner(
                policy=policy_for(method, models.policy),
                anchor=models.anchor if method.reads_anchor else None,
                method=method,
                optimizer=optimizer,
                micro_batch_tokens=config.tokens_at_once(models.policy.device.type),
                critic=critic if method.critic is not None else None,
                samples_itself=params.is_untruncated and samples_policy and is_same_policy,
                table=models.table,
                params=params if is_comparable else None,
                process_group=process_group,
                balance=balance_of(models.policy.model, config.router_aux_loss_coef),
                teachers=models.teachers if method.teacher is not None and method.teacher.who == "model" else {},
                scorers=scorers or {} if method.teacher is not None and method.teacher.who == "model" else {},
                average=average,
            )
        )
    return learners


def _critic(config: TrainConfig, schedule: TrainingSchedule, models: TrainingModels, total_steps: int) -> Critic | None:
    """The value model with its optimizer, which all stages that have a critic share."""
    gae = next((method.critic for method in schedule.methods if method.critic is not None), None)
    if gae is None:
        return None
    stages = [number for number, method in enumerate(schedule.methods) if method.critic is not None]
    num = num_updates(config, schedule, total_steps, stages)
    return Critic(models.critic, Optimizer(models.critic, config, num, gae.learning_rate))


def _average(schedule: TrainingSchedule, models: TrainingModels) -> WeightAverage | None:
    """The moving average of the policy's weights, which all stages that step the policy move."""
    rates = [m.teacher.rate for m in schedule.methods if m.teacher is not None and m.teacher.who == "average"]
    return WeightAverage(models.policy, models.average, rates[0]) if rates and models.average is not None else None


def _stages_of_optimizer(schedule: TrainingSchedule, number: int) -> list[int]:
    """The stages that step with the optimizer of stage `number`."""
    return [
        other
        for other, stage in enumerate(schedule.stages)
        if other == number or (number == 0 and stage.shares_optimizer)
    ]


def num_updates(config: TrainConfig, schedule: TrainingSchedule, total_steps: int, stages: Sequence[int]) -> int:
    """The number of updates of the given stages: the length of the learning-rate schedule of their optimizer."""
    span = sum(map(schedule.selector.span, stages))
    return math.ceil(total_steps * min(span, 1.0)) * config.updates_per_step
