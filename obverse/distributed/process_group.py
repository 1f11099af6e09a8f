"""The ranks of a run and what they tell each other: sums of tensors, and values as JSON bytes. Nothing is pickled.

Every rank calls the same functions in the same order. On a team of one each is the identity and costs nothing, and
torch.distributed is never touched.
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

BUCKET_BYTES = 2**26  # gradients are flattened into buffers of about this size and summed at one go


class Watchdog(Protocol):
    """Who is told where the main thread stands, and knows which rank was lost."""

    def enter(self, what: str) -> None: ...

    def exit(self) -> None: ...

    def beat(self, phase: str = "", step: int = -1) -> None: ...

    kept: Callable[[], str]

    def fail(self, error: BaseException, code: int) -> None: ...

    def lost(self, reason: str) -> str:
        """The sentence about the rank whose loss broke a collective off; waits until it is known."""


@dataclass(frozen=True)
class ProcessGroup:
    """Rank `rank` of `size`; `device` is where tensors that are summed live unless they say otherwise."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    watchdog: Watchdog | None = None

    @property
    def is_first(self) -> bool:
        """Rank 0: it alone writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over the ranks, in place; shapes, types and order are the same on all ranks.

        Every rank ends with the same bits.
        """
        if self.is_alone:
            return
        for bucket in buckets(list(tensors)):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            with self.speaking("sum"):
                dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, a new tensor; the same one on a team of one."""
        if self.is_alone:
            return tensor
        total = tensor.detach().clone()
        self.sum_([total])
        return total

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order; what JSON can say. Floats come back with every bit."""
        if self.is_alone:
            return [value]
        return [_read(each) for each in self.gather_tensors(_written(value))]

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """The one-dimensional tensor of every rank, in rank order; lengths may differ, or be 0, types may not."""
        if self.is_alone:
            return [tensor]
        sizes = torch.zeros(self.size, dtype=torch.long, device=tensor.device)
        sizes[self.rank] = len(tensor)
        with self.speaking("gather"):
            dist.all_reduce(sizes)
        lengths: list[int] = sizes.tolist()
        if max(lengths) == 0:
            return [tensor.new_zeros(0) for _ in lengths]
        padded = tensor.new_zeros(max(lengths))
        padded[: len(tensor)] = tensor.detach()
        found = [torch.empty_like(padded) for _ in lengths]
        with self.speaking("gather"):
            dist.all_gather(found, padded)
        return [each[:length] for each, length in zip(found, lengths, strict=True)]

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value, on every rank; what JSON can say."""
        if self.is_alone:
            return value
        content = _written(value) if self.is_first else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([len(content)])
        with self.speaking("share"):
            dist.broadcast(size, 0)
        content = content if self.is_first else torch.zeros(int(size), dtype=torch.uint8)
        with self.speaking("share"):
            dist.broadcast(content, 0)
        return _read(content)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if not self.is_alone:
            nothing = torch.zeros(1)
            with self.speaking("barrier"):
                dist.all_reduce(nothing)

    def give_up(self, error: BaseException, code: int) -> None:
        """This rank ends with `code` and the others must not wait for it, though `error` goes no further."""
        if self.watchdog is not None:
            self.watchdog.fail(error, code)

    def when_lost(self, kept: Callable[[], str]) -> None:
        """What the last sentence of this rank says of the run, if others are lost: what is left, how it goes on."""
        if self.watchdog is not None:
            self.watchdog.kept = kept

    def beat(self, phase: str = "", step: int = -1) -> None:
        """The main thread is alive, and where it is; peers that wait need to know."""
        if self.watchdog is not None:
            self.watchdog.beat(phase, step)

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Around every collective: what breaks it off is the loss of a rank, and PeerError says of which."""
        if self.watchdog is None:
            yield
            return
        self.watchdog.enter(what)
        try:
            yield
        except RuntimeError as error:
            raise PeerError(self.watchdog.lost(reason(error))) from None
        finally:
            self.watchdog.exit()


SINGLE_PROCESS = ProcessGroup()  # a process by itself


def reason(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether a collective that others than the team call, such as FSDP's, broke off; gloo has no class for it."""
    return isinstance(error, dist.DistError) or "gloo" in reason(error)


def buckets(tensors: Sequence[Tensor], size: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """The tensors in order, those of one type and device together, up to about `size` bytes."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        bucket = alike.setdefault(key, [])
        if bucket and sum(each.numel() for each in bucket) * tensor.element_size() >= size:
            yield alike.pop(key)
            bucket = alike.setdefault(key, [])
        bucket.append(tensor)
    yield from (bucket for bucket in alike.values() if bucket)


def _written(value: Any) -> Tensor:
    """JSON bytes as a tensor of uint8."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _read(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())
