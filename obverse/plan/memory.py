"""The plan itself: bytes per rank by what they are for, by phase, and at the peak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from obverse import methods
from obverse.config import TrainConfig
from obverse.course import Course, as_course
from obverse.loading import pick_device
from obverse.plan import work as sizes
from obverse.plan.ledger import Ledger
from obverse.plan.phases import sampling, training
from obverse.plan.shadow import Shadows, shadows
from obverse.plan.work import Lengths, Training, Writing
from obverse.sampling import law_of
from obverse.vocabulary import chunk_size

FP32 = 4  # bytes
PREFETCHED = 2  # layers whose weights are whole at a time, where layers are shared out


@dataclass(frozen=True)
class Plan:
    """Bytes on one rank. What lives throughout is in `lasting`; gradients and what follows live in one phase each."""

    device: str
    ranks: int
    lengths: Lengths
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
    course = as_course(methods.build(config.method, config.method_options))
    device = pick_device(config.device)
    kind = torch.device(device).type
    ledger = Ledger()
    with ledger.open():
        nets = shadows(config, course, kind)
        law = law_of(config, ())
        micros = [
            sizes.training(config, each, lengths, kind, nets.policy.shares, ranks) for each in course.methods
        ]
        needs = [training(ledger, nets, *pair) for pair in zip(course.methods, micros, strict=True)]
        rows = sizes.writing(config, course.methods, lengths, ranks)
        cache, written = sampling(ledger, nets.policy, rows, law) if rows else (0, 0)
        gradients = num_bytes(nets.policy.model, learning) + num_bytes(nets.critic, learning)
        most = max(range(len(needs)), key=needs.__getitem__)
        logits = _logits(nets, micros[most], kind)
        share = ranks if config.fsdp else 1
        return Plan(
            device,
            ranks,
            lengths,
            {name: -(-size // share) for name, size in _lasting(nets, course, config).items()},
            gradients=-(-gradients // share),
            activations=max(0, needs[most] - gradients - logits),
            logits=logits,
            cache=cache,
            decoding=max(0, written - cache),
            gathered=_gathered(nets, config, whole=not config.fsdp_reshard_after_forward) if share > 1 else 0,
            gathered_to_sample=_gathered(nets, config, whole=True) if share > 1 else 0,
            micro=micros[most],
            rows=rows,
        )


def learning(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def num_bytes(model: Any, which: Callable[[torch.nn.Parameter], bool] = lambda _: True) -> int:
    """Bytes of a model's parameters; 0 for none."""
    return _sum(model.parameters(), which) if model is not None else 0


def _sum(parameters: Iterable[torch.nn.Parameter], which: Callable[[torch.nn.Parameter], bool]) -> int:
    return sum(each.numel() * each.element_size() for each in parameters if which(each))


def _lasting(nets: Shadows, course: Course, config: TrainConfig) -> dict[str, int]:
    """Weights of all networks, and the moments of what learns: two numbers a weight, for every optimizer."""
    own = [lane for number, lane in enumerate(course.lanes) if number == 0 or not lane.shares_optimizer]
    optimizers = 1 if course.turn.fresh_anchor else len(own)  # a stage that is over gives its moments back
    moments = 2 * optimizers * num_bytes(nets.policy.model, learning) + 2 * num_bytes(nets.critic, learning)
    found = {
        "weights": num_bytes(nets.policy.model),
        "initial model": num_bytes(nets.anchor and nets.anchor.model),
        "critic": num_bytes(nets.critic),
        "reward model": num_bytes(nets.scorer),
        "moments of AdamW": moments,
    }
    return {name: size for name, size in found.items() if size}


def _logits(nets: Shadows, micro: Training, device: str) -> int:
    """Of a chunk of tokens: one buffer, on an accelerator a second for the exponentials."""
    vocabulary = nets.policy.model.config.get_text_config().vocab_size
    if nets.policy.head is None:
        return 0
    size = chunk_size(vocabulary, torch.device(device), lean=nets.policy.checkpointed)
    rows = min(size, micro.num_rows * micro.num_scored)
    return rows * vocabulary * FP32 * (1 if device == "cpu" else 2)


def _gathered(nets: Shadows, config: TrainConfig, whole: bool) -> int:
    """Weights that a rank holds in full beside its share, with their gradients: all, or the root's and two layers'."""
    model = nets.policy.model
    width = 2 if nets.policy.mixed or model.dtype == torch.bfloat16 else model.dtype.itemsize
    number = sum(each.numel() for each in model.parameters())
    if whole:
        return number * width
    layers = [module for module in model.modules() if type(module).__name__.endswith("DecoderLayer")]
    each = max((sum(parameter.numel() for parameter in layer.parameters()) for layer in layers), default=number)
    root = number - each * len(layers)
    return 2 * width * (root + PREFETCHED * each)  # weights and their gradients
