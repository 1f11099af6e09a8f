"""Weights shared out over the ranks (FSDP2): a rank keeps its rows of every tensor, a layer is whole while it computes.

All that computes with a model's weights runs `inside` it, in step with the other ranks: the same calls in the same
order, whatever their data. What ranks cannot do in step, such as sampling, runs while the model is `whole`, and needs
nobody then. On a model that is not shared out both change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError

ROOT = "_obverse_root"  # where a model that is shared out keeps what holds it


# torch gives them other names from 2.13 on
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Sharing:
    """How weights are shared out."""

    process_group: ProcessGroup
    reshards: bool = True  # a layer's weights are given back between forward and backward
    offloads: bool = False  # shares wait in the CPU's memory
    mixed: bool = False  # weights are gathered and multiplied in bfloat16, kept and summed in float32


class Root(torch.nn.Module):
    """Holds a model. Called with a function it calls that, with the embedding, the head and all outside layers whole.

    Layers gather their own weights when they are called. The class and the parameter names of `model` stay.
    """

    def __init__(self, model: Any, sharing: Sharing) -> None:
        super().__init__()
        self.model, self.sharing = model, sharing

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()

    def groups(self) -> list[Any]:
        """Every module that is shared out by itself: this one, then the layers."""
        return [module for module in self.modules() if isinstance(module, FSDPModule)]

    def gather(self) -> None:
        """Make the model whole until `rest`."""
        for group in self.groups():
            group.set_reshard_after_forward(False, recurse=False)
            group.unshard()

    def rest(self) -> None:
        """Give back what is whole; what passes were made meanwhile is forgotten, for other ranks made others."""
        root: Any = self
        root.reset_iter_state()
        for group in self.groups():
            group.set_reshard_after_forward(self.sharing.reshards and group is not self, recurse=False)


def root_of(model: Any) -> Root | None:
    """What holds a model that is shared out; None for any other."""
    root: Root | None = vars(model).get(ROOT)
    return root


def inside(model: Any, function: Callable[[], Any]) -> Any:
    """`function()`, which computes with the model's weights; all ranks call this in step."""
    root = root_of(model)
    return function() if root is None else root(function)


@contextmanager
def whole(*models: Any) -> Iterator[None]:
    """Inside, each rank has all of the models' weights and computes without gradient on its own."""
    with ExitStack() as stack:
        for model in models:
            if (root := root_of(model)) is not None:
                stack.callback(root.rest)
                root.gather()
        yield


def settle(model: Any) -> None:
    """Give back what a pass without gradient has left whole: from here on the parameters are the shares."""
    root = root_of(model)
    if root is not None:
        root.rest()


def shard(model: Any, sharing: Sharing) -> None:
    """Share a model out in place. Rank 0 has its weights, on the CPU; elsewhere they are meta tensors, and are filled.

    A rank holds at most one layer more than its share on the way. Raises ConfigError for a model without layers.
    """
    layers = layers_of(model)
    if not layers:
        raise ConfigError(f"--fsdp: {type(model).__name__} has no layers that could be shared out: leave --fsdp out")
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(f"--fsdp needs torch 2.13, this is {torch.__version__}: install that, or leave --fsdp out")
    process_group = sharing.process_group
    how: dict[str, Any] = {
        "mesh": init_device_mesh(process_group.device.type, (process_group.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if sharing.mixed
        else MixedPrecisionPolicy(cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if sharing.offloads else OffloadPolicy(),
    }
    for layer in layers:
        fill(layer, process_group)
        fully_shard(layer, reshard_after_forward=sharing.reshards, **how)
    fill(model, process_group)
    root = Root(model, sharing)
    # between forward and backward of the outermost part there is nothing that its memory would be free for
    fully_shard(root, reshard_after_forward=False, **how)
    for group in root.groups():
        group.set_gradient_divide_factor(1.0)  # gradients are sums over the whole update
        group.set_force_sum_reduction_for_comms(True)
        group.set_custom_all_gather(AllGather(process_group))
        group.set_custom_reduce_scatter(ReduceScatter(process_group))
    vars(model)[ROOT] = root
    root(lambda: None)  # the first call decides who is outermost
    root.rest()


@dataclass(frozen=True)
class FSDPCollectives:
    """How shares travel: as FSDP2 sends them itself, but so that the loss of a rank is noticed where it is met."""

    process_group: ProcessGroup

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class AllGather(FSDPCollectives):
    """Every rank's shares, on every rank."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        with self.process_group.speaking("weights"):
            return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class ReduceScatter(FSDPCollectives):
    """The sum of all ranks' gradients, of its share on every rank."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        with self.process_group.speaking("gradients"):
            return _reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def layers_of(model: Any) -> list[Any]:
    """The model's layers, none inside another."""
    names = getattr(model, "_no_split_modules", None) or ()
    found: list[Any] = []
    for module in model.modules():
        is_layer = isinstance(module, GradientCheckpointingLayer) or type(module).__name__ in names
        if is_layer and not any(module is inner for outer in found for inner in outer.modules()):
            found.append(module)
    return found


def fill(module: torch.nn.Module, process_group: ProcessGroup) -> None:
    """Give a module rank 0's weights and buffers, but for those that are shared out already; tied ones stay tied."""
    made: dict[int, tuple[Any, Any]] = {}  # both are kept: a number is a tensor's only as long as it lives
    for each in module.modules():
        for store in (each._parameters, each._buffers):
            for name, tensor in store.items():
                if tensor is None or isinstance(tensor, DTensor):
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = tensor, real(tensor)
                    _broadcast(made[id(tensor)][1], process_group)
                store[name] = made[id(tensor)][1]


def real(tensor: Tensor) -> Tensor:
    """The tensor itself, or for a meta tensor one with memory in its place."""
    if not tensor.is_meta:
        return tensor
    empty = torch.empty_like(tensor, device="cpu")
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty


def _broadcast(tensor: Tensor, process_group: ProcessGroup) -> None:
    if process_group.is_alone:
        return
    with process_group.speaking("weights"):
        moved = tensor.detach().to(process_group.device)
        dist.broadcast(moved, 0)
    if not process_group.is_first:
        tensor.detach().copy_(moved)


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is shared out over the ranks."""
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor that is shared out, the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows(tensor: Tensor) -> tuple[int, int]:
    """The first row that this rank has of a tensor that is shared out, and the first behind; all of any other."""
    total = tensor.shape[0] if tensor.ndim else 1
    if not isinstance(tensor, DTensor):
        return 0, total
    each = -(-total // tensor.device_mesh.size())  # as torch.chunk deals them: the last ranks may have fewer, or none
    start = min(tensor.device_mesh.get_rank() * each, total)
    return start, min(start + each, total)


def like(share: Tensor, mine: Tensor) -> Tensor:
    """A tensor shared out as `share` is, of this rank's rows `mine`; on a tensor that is not, `mine` itself."""
    mine = mine.to(own(share).device)
    if not isinstance(share, DTensor):
        return mine
    return DTensor.from_local(
        mine, share.device_mesh, share.placements, run_check=False, shape=share.shape, stride=share.stride()
    )


def assembled(tensor: Tensor) -> Tensor:
    """A tensor with the rows of all ranks, on the CPU; all ranks call this in step."""
    found: Any = tensor.detach()
    if isinstance(tensor, DTensor):
        found = found.to(tensor.device_mesh.device_type).full_tensor()
    whole: Tensor = found.cpu()
    return whole


def gathered(tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> dict[str, Tensor]:
    """All of the tensors, each whole, on rank 0; nothing elsewhere. What is one tensor stays one.

    Elsewhere a single tensor is whole at a time.
    """
    made: dict[int, Tensor | None] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in made:
            with process_group.speaking("shares"):
                each = assembled(tensor)
            made[id(tensor)] = each if process_group.is_first else None
        kept = made[id(tensor)]
        if kept is not None:
            found[name] = kept
    return found


def state_of(model: Any) -> dict[str, Tensor]:
    """The model's weights and buffers by the names of its checkpoints; shares, where it is shared out."""
    settle(model)
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return state
