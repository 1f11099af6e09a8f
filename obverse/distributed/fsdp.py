"""Weights sharded over the ranks (FSDP2): a rank keeps its rows of every tensor, and layers are unsharded to compute.

All computations with a model's weights run in `fsdp_forward`, in the same order on all ranks, whatever their data.
What ranks cannot do in the same order, such as sampling, runs in `unsharded`, without communication. On a model that is
not sharded both do nothing.
"""

from __future__ import annotations

import weakref
from collections import Counter
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

# torch renamed them in 2.13
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class ShardingOptions:
    """How weights are sharded."""

    process_group: ProcessGroup
    reshards: bool = True  # layers are resharded between forward and backward
    offloads: bool = False  # shards are kept in the CPU's memory
    mixed: bool = False  # weights are gathered and multiplied in bfloat16, stored and summed in float32


class FSDPRoot(torch.nn.Module):
    """The FSDP root of a model, which keeps its own class and parameter names.

    Called with a function, it returns `function()`, run as FSDP's forward: with the embedding, the head and everything
    else outside the layers unsharded. Layers are unsharded when they are called.
    """

    def __init__(self, model: Any, options: ShardingOptions) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()

    def groups(self) -> list[Any]:
        """The modules of FSDP's communication groups: this one, then the layers."""
        return [module for module in self.modules() if isinstance(module, FSDPModule)]

    def unshard_all(self) -> None:
        """Unshard the whole model, until `reshard_all`."""
        for group in self.groups():
            group.set_reshard_after_forward(False, recurse=False)
            group.unshard()

    def reshard_all(self) -> None:
        """Reshard, and reset FSDP's record of the forward passes since, which differ between ranks."""
        root: Any = self
        root.reset_iter_state()
        for group in self.groups():
            group.set_reshard_after_forward(self.options.reshards and group is not self, recurse=False)


# The root of each sharded model. A strong reference would keep the model, which the root holds, alive for ever; torch's
# state of the layers holds the root as long as they exist.
_roots: weakref.WeakKeyDictionary[torch.nn.Module, weakref.ref[FSDPRoot]] = weakref.WeakKeyDictionary()


def fsdp_root(model: Any) -> FSDPRoot | None:
    """The FSDP root of a model; None if it is not sharded."""
    reference = _roots.get(model)
    if reference is None:
        return None
    root = reference()
    if root is None:
        raise RuntimeError(f"the FSDP state of {type(model).__name__} is gone: its layers were replaced")
    return root


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are sharded over the ranks."""
    return fsdp_root(model) is not None


def fsdp_forward(model: Any, function: Callable[[], Any]) -> Any:
    """Return `function()`, which computes with the model's weights; all ranks call this in the same order."""
    root = fsdp_root(model)
    return function() if root is None else root(function)


@contextmanager
def unsharded(*models: Any) -> Iterator[None]:
    """Unshard the models in the context; each rank computes independently, without gradients."""
    with ExitStack() as stack:
        for model in models:
            if (root := fsdp_root(model)) is not None:
                stack.callback(root.reshard_all)
                root.unshard_all()
        yield


def reshard(model: Any) -> None:
    """Reshard what a forward pass without gradient left unsharded: the parameters are shards afterwards."""
    root = fsdp_root(model)
    if root is not None:
        root.reshard_all()


def shard(model: Any, options: ShardingOptions) -> None:
    """Shard a model in place. Rank 0 has its weights, on the CPU; on other ranks they are meta tensors.

    A rank holds at most one layer more than its shards meanwhile. Raises ConfigError for a model without layers, or
    with weights that several layers share.
    """
    layers = layers_of(model)
    if not layers:
        raise ConfigError(f"--fsdp: {type(model).__name__} has no layers to shard: leave --fsdp out")
    if max(Counter(id(weight) for layer in layers for weight in layer.parameters()).values()) > 1:
        raise ConfigError(
            f"--fsdp: layers of {type(model).__name__} share weights, which cannot be sharded: leave --fsdp out"
        )
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(f"--fsdp needs torch 2.13, this is {torch.__version__}: install that, or leave --fsdp out")
    process_group = options.process_group
    fsdp: dict[str, Any] = {
        "mesh": init_device_mesh(process_group.device.type, (process_group.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if options.mixed
        else MixedPrecisionPolicy(cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if options.offloads else OffloadPolicy(),
    }
    for layer in layers:
        broadcast_weights(layer, process_group)
        fully_shard(layer, reshard_after_forward=options.reshards, **fsdp)
    broadcast_weights(model, process_group)
    root = FSDPRoot(model, options)
    # resharding it between its forward and backward would free no memory at the peak
    fully_shard(root, reshard_after_forward=False, **fsdp)
    for group in root.groups():
        group.set_gradient_divide_factor(1.0)  # gradients are sums over the whole update
        group.set_force_sum_reduction_for_comms(True)
        group.set_custom_all_gather(AllGather(process_group))
        group.set_custom_reduce_scatter(ReduceScatter(process_group))
    root(lambda: None)  # the first call makes it FSDP's root
    root.reshard_all()
    _roots[model] = weakref.ref(root)


@dataclass(frozen=True)
class FSDPCollectives:
    """FSDP2's own collectives, inside `ProcessGroup.collective`, which reports a lost rank."""

    process_group: ProcessGroup

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class AllGather(FSDPCollectives):
    """Gathers the shards of all ranks on every rank."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        with self.process_group.collective("weights"):
            return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class ReduceScatter(FSDPCollectives):
    """Sums the gradients of all ranks; each rank gets those of its shards."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        with self.process_group.collective("gradients"):
            return _reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def layers_of(model: Any) -> list[Any]:
    """The model's layers; none contains another."""
    names = getattr(model, "_no_split_modules", None) or ()
    return outermost(
        model, lambda module: isinstance(module, GradientCheckpointingLayer) or type(module).__name__ in names
    )


def outermost(model: Any, is_layer: Callable[[Any], bool]) -> list[Any]:
    """The modules that are layers, in order; a layer inside another one is part of that one."""
    layers: list[Any] = []
    inner: set[int] = set()
    for module in model.modules():
        if is_layer(module) and id(module) not in inner:
            layers.append(module)
            inner |= {id(part) for part in module.modules()}
    return layers


def broadcast_weights(module: torch.nn.Module, process_group: ProcessGroup) -> None:
    """Give a module rank 0's weights and buffers, except sharded ones; tied tensors stay tied."""
    received: dict[int, tuple[Any, Any]] = {}  # id -> the tensor, whose id is unique while it exists, and the new one
    for submodule in module.modules():
        for tensors in (submodule._parameters, submodule._buffers):
            for name, tensor in tensors.items():
                if tensor is None or isinstance(tensor, DTensor):
                    continue
                if id(tensor) not in received:
                    received[id(tensor)] = tensor, materialized(tensor)
                    _broadcast(received[id(tensor)][1], process_group)
                tensors[name] = received[id(tensor)][1]


def materialized(tensor: Tensor) -> Tensor:
    """The tensor itself, or an empty tensor on the CPU for a meta tensor."""
    if not tensor.is_meta:
        return tensor
    empty = torch.empty_like(tensor, device="cpu")
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty


def _broadcast(tensor: Tensor, process_group: ProcessGroup) -> None:
    if process_group.is_alone:
        return
    with process_group.collective("weights"):
        values = tensor.detach().to(process_group.device)
        dist.broadcast(values, 0)
    if not process_group.is_first:
        tensor.detach().copy_(values)


def is_sharded_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over the ranks."""
    return isinstance(tensor, DTensor)


def local_rows(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, without a copy; another tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def row_range(tensor: Tensor) -> tuple[int, int]:
    """Start and stop of this rank's rows of a sharded tensor; all rows of another tensor."""
    total = tensor.shape[0] if tensor.ndim else 1
    if not isinstance(tensor, DTensor):
        return 0, total
    num_rows = -(-total // tensor.device_mesh.size())  # as by torch.chunk: the last ranks may have fewer, or none
    start = min(tensor.device_mesh.get_rank() * num_rows, total)
    return start, min(start + num_rows, total)


def from_local_rows(like: Tensor, local: Tensor) -> Tensor:
    """A tensor that is sharded as `like` is, with this rank's rows `local`; `local` itself if `like` is not sharded."""
    local = local.to(local_rows(like).device)
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with the rows of all ranks, on the CPU; all ranks call this in the same order."""
    full: Any = tensor.detach()
    if isinstance(tensor, DTensor):
        full = full.to(tensor.device_mesh.device_type).full_tensor()
    return full.cpu()


def full_tensors(tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> dict[str, Tensor]:
    """The full tensors on rank 0, {} on other ranks, which hold one full tensor at a time. Tied tensors stay tied."""
    by_id: dict[int, Tensor | None] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in by_id:
            with process_group.collective("shares"):
                full = full_tensor(tensor)
            by_id[id(tensor)] = full if process_group.is_first else None
        value = by_id[id(tensor)]
        if value is not None:
            state[name] = value
    return state


def model_state(model: Any) -> dict[str, Tensor]:
    """The model's weights and buffers by their names in checkpoints; shards, if it is sharded."""
    reshard(model)
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return state
