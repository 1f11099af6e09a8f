"""The memory plan: bytes per rank by purpose, by phase, and at the peak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from obverse import methods
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.inference import sampling_params
from obverse.inference.decode_paths import DecodePath
from obverse.memory_plan import batch_shapes as sizes
from obverse.memory_plan.batch_shapes import DecodingShape, Lengths, TrainingShape
from obverse.memory_plan.memory_tracker import MemoryTracker
from obverse.memory_plan.meta_models import MetaModels, build_meta_models, policy_capabilities, policy_decode_path
from obverse.memory_plan.phases import sampling, scoring, training
from obverse.models.conformance import Capabilities, first_line
from obverse.models.decoder_layers import decoder_layers
from obverse.models.fused_logprobs import chunk_size
from obverse.models.load import pick_device

FP32 = 4  # bytes
FOUR_BITS = 0.52  # bytes per weight, with quantization constants (QLoRA, 2305.14314, section 3)
PREFETCHED = 2  # layers gathered at a time under FSDP


class RowsTooLong(ConfigError):
    """The model cannot read rows as long as the planned ones, which a run may not reach."""


@dataclass(frozen=True)
class Plan:
    """Bytes on one rank: `lasting` for the whole run, the other fields for one phase each."""

    device: str
    ranks: int
    lasting: dict[str, int]
    gradients: int
    activations: int
    logits: int
    cache: int
    decoding: int
    gathered: int  # gathered weights of FSDP layers while training
    gathered_to_sample: int
    micro: TrainingShape
    rows: DecodingShape | None
    scored: int = 0  # the forward passes by which a teacher scores samples

    @property
    def training(self) -> int:
        return sum(self.lasting.values()) + self.gradients + self.activations + self.logits + self.gathered

    @property
    def sampling(self) -> int:
        return sum(self.lasting.values()) + self.cache + self.decoding + self.gathered_to_sample if self.rows else 0

    @property
    def scoring(self) -> int:
        return sum(self.lasting.values()) + self.scored + self.gathered if self.scored else 0

    @property
    def peak(self) -> int:
        return max(self.training, self.sampling, self.scoring)


def plan(config: TrainConfig, lengths: Lengths, ranks: int = 1) -> Plan:
    """The memory that the run of `config` needs on each of `ranks`.

    Raises RowsTooLong for a model that cannot read rows of these lengths, ConfigError for one that no run could load.
    """
    schedule = as_schedule(methods.build(config.method, config.method_options))
    capabilities = policy_capabilities(config, schedule)
    path = policy_decode_path(config) if sizes.decoding_shape(config, schedule.methods, lengths, ranks) else None
    try:
        return _planned(config, schedule, lengths, ranks, capabilities, path)
    except (RuntimeError, IndexError) as error:  # of a forward pass over the planned rows
        longest = max(lengths.prompt + lengths.response, lengths.prompt + lengths.completion)
        raise RowsTooLong(
            f"a forward pass over rows of {longest:,} tokens fails ({first_line(error)}): the model may have fewer "
            "positions (--max_prompt_length, --max_completion_length)"
        ) from None


def _planned(
    config: TrainConfig,
    schedule: TrainingSchedule,
    lengths: Lengths,
    ranks: int,
    capabilities: Mapping[str, Capabilities],
    path: DecodePath | None,
) -> Plan:
    """The plan, from one run of the code of each phase with fake tensors."""
    device = pick_device(config.device)
    kind = torch.device(device).type
    share = ranks if config.fsdp else 1
    rows, tracker = sizes.decoding_shape(config, schedule.methods, lengths, ranks), MemoryTracker()
    with tracker.open():
        nets = build_meta_models(config, schedule, kind, share > 1, capabilities)
        micros = [
            sizes.training(config, method, lengths, kind, nets.policy.shares, ranks) for method in schedule.methods
        ]
        needs = [training(tracker, nets, *pair) for pair in zip(schedule.methods, micros, strict=True)]
        most = max(range(len(needs)), key=needs.__getitem__)
        cache, sampling_peak = 0, 0
        if rows and path:
            cache, sampling_peak = sampling(tracker, nets.policy, rows, sampling_params(config, ()), path)
        computed = num_bytes(nets.policy.model, learning) + num_bytes(nets.critic, learning)
        gradients = _stored_bytes(nets, nets.policy.model, learning) + num_bytes(nets.critic, learning)
        logits = _logits(nets, micros[most], kind)
        return Plan(
            device,
            ranks,
            {name: -(-size // share) for name, size in _lasting(nets, schedule, config).items()},
            gradients=-(-gradients // share),
            activations=max(0, needs[most] - computed - logits),
            logits=logits,
            cache=cache,
            decoding=max(0, sampling_peak - cache),
            gathered=_gathered(nets, whole=not config.fsdp_reshard_after_forward) if share > 1 else 0,
            gathered_to_sample=_gathered(nets, whole=True) if share > 1 else 0,
            micro=micros[most],
            rows=rows,
            scored=max(
                (_scored(tracker, nets, config, method, lengths, kind) for method in schedule.methods), default=0
            ),
        )


def _scored(
    tracker: MemoryTracker, nets: MetaModels, config: TrainConfig, method: Method, lengths: Lengths, device: str
) -> int:
    """Peak bytes of the scoring pass of a method's teacher; 0 where this process scores nothing."""
    peaks = []
    for teacher in nets.teachers_of(method):
        work = sizes.scoring_shape(config, method, lengths, device, teacher.shares)
        peaks.append(0 if work is None else scoring(tracker, teacher, work))
    return max(peaks, default=0)


def learning(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def num_bytes(model: Any, which: Callable[[torch.nn.Parameter], bool] = lambda _: True) -> int:
    """Bytes of a model's parameters; 0 for none."""
    if model is None:
        return 0
    return sum(weight.numel() * weight.element_size() for weight in model.parameters() if which(weight))


def _stored_bytes(nets: MetaModels, model: Any, which: Callable[[torch.nn.Parameter], bool] = lambda _: True) -> int:
    """Bytes of a model's parameters in the type in which a rank stores them."""
    return num_bytes(model, which) * (2 if nets.stores_float32 else 1)


def _lasting(nets: MetaModels, schedule: TrainingSchedule, config: TrainConfig) -> dict[str, int]:
    """Bytes of all models, and of two moments per trained weight for every optimizer."""
    stages = [stage for number, stage in enumerate(schedule.stages) if number == 0 or not stage.shares_optimizer]
    optimizers = 1 if schedule.selector.fresh_anchor else len(stages)  # a finished stage frees its moments
    moments = 2 * optimizers * _stored_bytes(nets, nets.policy.model, learning) + 2 * num_bytes(nets.critic, learning)
    weights = _stored_bytes(nets, nets.policy.model)
    if config.load_in_4bit:
        weights -= round((1 - FOUR_BITS / nets.policy.model.dtype.itemsize) * _linear(nets.policy.model))
    sizes_by_use = {
        "weights": weights,
        "initial model": _stored_bytes(nets, nets.anchor and nets.anchor.model),
        "critic": num_bytes(nets.critic),
        "reward model": num_bytes(nets.scorer),
        "teacher": sum(num_bytes(teacher.model) for teacher in nets.teachers) + _average_bytes(nets, schedule),
        "moments of AdamW": moments,
    }
    return {name: size for name, size in sizes_by_use.items() if size}


def _average_bytes(nets: MetaModels, schedule: TrainingSchedule) -> int:
    """Bytes of the moving average of what the policy trains: whole weights, or an adapter."""
    if not any(method.teacher is not None and method.teacher.who == "average" for method in schedule.methods):
        return 0
    if nets.average is not None:
        return _stored_bytes(nets, nets.average.model)
    return num_bytes(nets.policy.model, learning)


def _linear(model: Any) -> int:
    """Bytes of the frozen matrices of linear layers without the head, which 4-bit loading quantizes."""
    head = model.get_output_embeddings()
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    return sum(num_bytes(layer, lambda weight: weight.ndim == 2 and not weight.requires_grad) for layer in layers)


def _logits(nets: MetaModels, micro: TrainingShape, device: str) -> int:
    """Bytes of the logits of a chunk of tokens; on an accelerator twice, for the exponentials."""
    vocabulary = nets.policy.model.config.get_text_config().vocab_size
    if nets.policy.head is None:
        return 0
    size = chunk_size(vocabulary, torch.device(device), lean=nets.policy.checkpointed)
    rows = min(size, micro.num_rows * micro.num_scored)
    return rows * vocabulary * FP32 * (1 if device == "cpu" else 2)


def _gathered(nets: MetaModels, whole: bool) -> int:
    """Bytes of gathered weights: all with `whole`, else the root's and two layers' with their gradients."""
    model = nets.policy.model
    layers = decoder_layers(model)
    largest, total = max(map(num_bytes, layers), default=0), num_bytes(model)
    root = total - sum(map(num_bytes, layers))
    if whole:
        return total + root
    return 2 * (root + PREFETCHED * largest)
