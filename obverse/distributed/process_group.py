"""The ranks of a run and their collectives: sums of tensors, and values as JSON bytes. Nothing is pickled.

Every rank calls the same methods in the same order. With a single process each is the identity, and torch.distributed
is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from obverse.errors import PeerError

BUCKET_BYTES = 2**26  # gradients are flattened into buffers of about this size


class FailureMonitor(Protocol):
    """Receives the progress of the main thread, and detects failures of other ranks (see watchdog.Watchdog)."""

    recovery_advice: Callable[[], str]

    def enter_collective(self, name: str) -> None: ...

    def exit_collective(self) -> None: ...

    def heartbeat(self, phase: str = "", step: int = -1) -> None: ...

    def announce_failure(self, error: BaseException, code: int) -> None: ...

    def failure_reason(self, reason: str) -> str:
        """A sentence about the rank that was lost when a collective failed; waits until it is known."""


@dataclass(frozen=True)
class ProcessGroup:
    """Rank `rank` of `size`, whose tensors are on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    monitor: FailureMonitor | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the run's files."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over the ranks, in place; shapes, types and order are the same on all ranks.

        The results are bitwise equal on all ranks.
        """
        if self.is_alone:
            return
        for bucket in buckets(list(tensors)):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            with self.collective("sum"):
                dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, a new tensor; the same tensor with a single process."""
        if self.is_alone:
            return tensor
        total = tensor.detach().clone()
        self.sum_([total])
        return total

    def gather(self, value: Any) -> list[Any]:
        """The JSON value of every rank, in rank order; floats are exact."""
        if self.is_alone:
            return [value]
        return [_from_bytes(content) for content in self.gather_tensors(_to_bytes(value))]

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """The one-dimensional tensor of every rank, in rank order; lengths may differ, or be 0, types may not."""
        if self.is_alone:
            return [tensor]
        sizes = torch.zeros(self.size, dtype=torch.long, device=tensor.device)
        sizes[self.rank] = len(tensor)
        with self.collective("gather"):
            dist.all_reduce(sizes)
        lengths: list[int] = sizes.tolist()
        if max(lengths) == 0:
            return [tensor.new_zeros(0) for _ in lengths]
        padded = tensor.new_zeros(max(lengths))
        padded[: len(tensor)] = tensor.detach()
        tensors = [torch.empty_like(padded) for _ in lengths]
        with self.collective("gather"):
            dist.all_gather(tensors, padded)
        return [gathered[:length] for gathered, length in zip(tensors, lengths, strict=True)]

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's JSON value, on every rank."""
        if self.is_alone:
            return value
        content = _to_bytes(value) if self.is_first else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([len(content)])
        with self.collective("broadcast"):
            dist.broadcast(size, 0)
        content = content if self.is_first else torch.zeros(int(size), dtype=torch.uint8)
        with self.collective("broadcast"):
            dist.broadcast(content, 0)
        return _from_bytes(content)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if not self.is_alone:
            nothing = torch.zeros(1)
            with self.collective("barrier"):
                dist.all_reduce(nothing)

    def announce_failure(self, error: BaseException, code: int) -> None:
        """Tell the other ranks that this one ends with exit code `code`, for an `error` that is not raised."""
        if self.monitor is not None:
            self.monitor.announce_failure(error, code)

    def set_recovery_advice(self, advice: Callable[[], str]) -> None:
        """Set what the message about a lost rank says about checkpoints and how to resume."""
        if self.monitor is not None:
            self.monitor.recovery_advice = advice

    def heartbeat(self, phase: str = "", step: int = -1) -> None:
        """Report progress of the main thread, and its phase and step, to the ranks that wait for it."""
        if self.monitor is not None:
            self.monitor.heartbeat(phase, step)

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """The context of a collective: if it fails because a rank was lost, raises PeerError, which names the rank."""
        if self.monitor is None:
            yield
            return
        self.monitor.enter_collective(name)
        try:
            yield
        except RuntimeError as error:
            raise PeerError(self.monitor.failure_reason(reason(error))) from None
        finally:
            self.monitor.exit_collective()


SINGLE_PROCESS = ProcessGroup()


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether an error comes from a broken collective of torch, such as FSDP's; gloo has no exception class."""
    return isinstance(error, dist.DistError) or "gloo" in reason(error)


def buckets(tensors: Sequence[Tensor], size: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """The tensors in order, those of one type and device together, up to about `size` bytes."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        bucket = alike.setdefault(key, [])
        if bucket and sum(member.numel() for member in bucket) * tensor.element_size() >= size:
            yield alike.pop(key)
            bucket = alike.setdefault(key, [])
        bucket.append(tensor)
    yield from (bucket for bucket in alike.values() if bucket)


def _to_bytes(value: Any) -> Tensor:
    """JSON bytes as a tensor of uint8."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())
