"""Sharded tensors: a safetensors file per rank with its rows, in the format of torch.distributed.checkpoint.

torch's `HuggingFaceStorageReader` reads such a folder. This module does not use it, because torch's planner sends
pickled objects from rank to rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from obverse.distributed.fsdp import is_sharded_tensor, local_rows, row_range
from obverse.distributed.process_group import ProcessGroup

NAME = "shard-{rank:05}-model-00001-of-00001.safetensors"
PATTERN = "shard-*-model-*.safetensors"
OFFSETS = "DCP_SHARDING_INFO"


def write(folder: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> list[Path]:
    """Write this rank's rows into a file and return its path; rank 0 writes the tensors that are not sharded.

    A tensor with two names is written under the first.
    """
    local: dict[str, Tensor] = {}
    offsets: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if id(tensor) in seen or not (is_sharded_tensor(tensor) or process_group.is_first):
            continue
        seen.add(id(tensor))
        start, stop = row_range(tensor)
        if start < stop or not is_sharded_tensor(tensor):
            local[name] = local_rows(tensor).detach().cpu().contiguous()
            offsets[name] = {"saved_offsets": [start, *[0] * (tensor.ndim - 1)] if tensor.ndim else []}
    if not local and not process_group.is_first:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME.format(rank=process_group.rank + 1)
    save_file(local, path, {OFFSETS: json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"})
    return [path]


@dataclass(frozen=True)
class TensorRows:
    """Rows of a tensor in a file: those from row `start` of the full tensor on, under `name`."""

    path: Path
    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + (self.shape[0] if self.shape else 1)

    def read(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (exclusive) of the full tensor; the file must have them."""
        with safe_open(self.path, framework="pt") as file:
            if not self.shape or (first, last) == (self.start, self.stop):
                tensor: Tensor = file.get_tensor(self.name)
                return tensor
            part: Tensor = file.get_slice(self.name)[first - self.start : last - self.start]
            return part


class ShardedTensors(Mapping[str, Tensor]):
    """The full tensors of some safetensors files, by name; each is read on access, also by rows."""

    def __init__(self, parts: Mapping[str, Sequence[TensorRows]]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, files: Sequence[Path]) -> ShardedTensors:
        """The tensors of files with full tensors or ranks' rows; SafetensorError for a file of another format."""
        parts: dict[str, list[TensorRows]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                offsets = json.loads((file.metadata() or {}).get(OFFSETS, "{}"))
                for name in file.keys():  # noqa: SIM118  (it is not a dictionary)
                    shape = tuple(file.get_slice(name).get_shape())
                    start = offsets[name]["saved_offsets"][0] if offsets and shape else 0
                    parts.setdefault(name, []).append(TensorRows(path, name, start, shape))
        return cls({name: sorted(tensor_parts, key=lambda part: part.start) for name, tensor_parts in parts.items()})

    def with_prefix(self, prefix: str) -> ShardedTensors:
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return ShardedTensors(
            {name.removeprefix(prefix): parts for name, parts in self._parts.items() if name.startswith(prefix)}
        )

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (exclusive) of a tensor; no others are read."""
        parts = self._parts[name]
        tensors = [
            part.read(max(first, part.start), min(last, part.stop))
            for part in parts
            if part.start < last and part.stop > first
        ]
        if len(tensors) == 1:
            return tensors[0]
        return torch.cat(tensors) if tensors else parts[0].read(parts[0].start, parts[0].stop)[:0]

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts[name]
        return self.rows(name, parts[0].start, parts[-1].stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def shard_files(folder: Path) -> list[Path]:
    """The files of ranks' rows in a folder, in the order of ranks."""
    return sorted(folder.glob(PATTERN))
