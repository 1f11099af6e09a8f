"""The plan itself: bytes per rank by what they are for, by phase, and at the peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from obverse import methods
from obverse.config.train import TrainConfig
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.inference import sampling_params
from obverse.memory_plan import batch_shapes as sizes
from obverse.memory_plan.batch_shapes import Lengths, Training, Writing
from obverse.memory_plan.fake_ledger import Ledger
from obverse.memory_plan.meta_models import Shadows, shadows, traits
from obverse.memory_plan.phases import sampling, training
from obverse.models.fused_logprobs import chunk_size
from obverse.models.load import pick_device

FP32 = 4  # bytes
FOUR_BITS = 0.52  # bytes a weight, constants included (QLoRA, 2305.14314, section 3)
PREFETCHED = 2  # layers whose weights are whole at a time, where layers are shared out


@dataclass(frozen=True)
class Plan:
    """Bytes on one rank. What lives throughout is in `lasting`; gradients and what follows live in one phase each."""

    device: str
    ranks: int
    lasting: dict[str, int]
    gradients: int
    activations: int
    logits: int
    cache: int
    decoding: int
    gathered: int  # whole weights of layers that are shared out, while they are computed with
    gathered_to_sample: int
    micro: Training
    rows: Writing | None

    @property
    def training(self) -> int:
        return sum(self.lasting.values()) + self.gradients + self.activations + self.logits + self.gathered

    @property
    def sampling(self) -> int:
        return sum(self.lasting.values()) + self.cache + self.decoding + self.gathered_to_sample if self.rows else 0

    @property
    def peak(self) -> int:
        return max(self.training, self.sampling)


def plan(config: TrainConfig, lengths: Lengths, ranks: int = 1) -> Plan:
    """What the run of `config` will need on each of `ranks`; ConfigError where a model's configuration is missing."""
    schedule = as_schedule(methods.build(config.method, config.method_options))
    device = pick_device(config.device)
    kind = torch.device(device).type
    share = ranks if config.fsdp else 1
    known, ledger = traits(config, schedule), Ledger()
    with ledger.open():
        nets = shadows(config, schedule, kind, share > 1, known)
        micros = [sizes.training(config, each, lengths, kind, nets.policy.shares, ranks) for each in schedule.methods]
        needs = [training(ledger, nets, *pair) for pair in zip(schedule.methods, micros, strict=True)]
        most = max(range(len(needs)), key=needs.__getitem__)
        rows = sizes.writing(config, schedule.methods, lengths, ranks)
        cache, written = sampling(ledger, nets.policy, rows, sampling_params(config, ())) if rows else (0, 0)
        computed = num_bytes(nets.policy.model, learning) + num_bytes(nets.critic, learning)
        gradients = _kept(nets, nets.policy.model, learning) + num_bytes(nets.critic, learning)
        logits = _logits(nets, micros[most], kind)
        return Plan(
            device,
            ranks,
            {name: -(-size // share) for name, size in _lasting(nets, schedule, config).items()},
            gradients=-(-gradients // share),
            activations=max(0, needs[most] - computed - logits),
            logits=logits,
            cache=cache,
            decoding=max(0, written - cache),
            gathered=_gathered(nets, whole=not config.fsdp_reshard_after_forward) if share > 1 else 0,
            gathered_to_sample=_gathered(nets, whole=True) if share > 1 else 0,
            micro=micros[most],
            rows=rows,
        )


def learning(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def num_bytes(model: Any, which: Callable[[torch.nn.Parameter], bool] = lambda _: True) -> int:
    """Bytes of a model's parameters; 0 for none."""
    if model is None:
        return 0
    return sum(each.numel() * each.element_size() for each in model.parameters() if which(each))


def _kept(nets: Shadows, model: Any, which: Callable[[torch.nn.Parameter], bool] = lambda _: True) -> int:
    """The same, in the type that weights are kept in."""
    return num_bytes(model, which) * (2 if nets.kept_wide else 1)


def _lasting(nets: Shadows, schedule: TrainingSchedule, config: TrainConfig) -> dict[str, int]:
    """Weights of all networks, and the moments of what learns: two numbers a weight, for every optimizer."""
    own = [stage for number, stage in enumerate(schedule.stages) if number == 0 or not stage.shares_optimizer]
    optimizers = 1 if schedule.selector.fresh_anchor else len(own)  # a stage that is over gives its moments back
    moments = 2 * optimizers * _kept(nets, nets.policy.model, learning) + 2 * num_bytes(nets.critic, learning)
    weights = _kept(nets, nets.policy.model)
    if config.load_in_4bit:
        weights -= round((1 - FOUR_BITS / nets.policy.model.dtype.itemsize) * _linear(nets.policy.model))
    found = {
        "weights": weights,
        "initial model": _kept(nets, nets.anchor and nets.anchor.model),
        "critic": num_bytes(nets.critic),
        "reward model": num_bytes(nets.scorer),
        "moments of AdamW": moments,
    }
    return {name: size for name, size in found.items() if size}


def _linear(model: Any) -> int:
    """Bytes of the frozen matrices of linear layers, the head apart: what 4 bits make smaller."""
    head = model.get_output_embeddings()
    layers = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    return sum(num_bytes(each, lambda weight: weight.ndim == 2 and not weight.requires_grad) for each in layers)


def _logits(nets: Shadows, micro: Training, device: str) -> int:
    """Of a chunk of tokens: one buffer, on an accelerator a second for the exponentials."""
    vocabulary = nets.policy.model.config.get_text_config().vocab_size
    if nets.policy.head is None:
        return 0
    size = chunk_size(vocabulary, torch.device(device), lean=nets.policy.checkpointed)
    rows = min(size, micro.num_rows * micro.num_scored)
    return rows * vocabulary * FP32 * (1 if device == "cpu" else 2)


def _gathered(nets: Shadows, whole: bool) -> int:
    """Weights that a rank holds in full beside its share: all, or the root's and two layers' with their gradients."""
    model = nets.policy.model
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    largest, total = max(map(num_bytes, layers), default=0), num_bytes(model)
    root = total - sum(map(num_bytes, layers))
    if whole:
        return total + root
    return 2 * (root + PREFETCHED * largest)
