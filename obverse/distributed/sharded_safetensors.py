"""Tensors in pieces: a safetensors file per rank with its rows, laid out as torch.distributed.checkpoint lays them out.

`HuggingFaceStorageReader` of torch reads such a folder. It is written and read here without it, for what torch's own
planner tells from rank to rank it pickles.
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

from obverse.distributed.fsdp import is_share, own, rows
from obverse.distributed.process_group import ProcessGroup

NAME = "shard-{rank:05}-model-00001-of-00001.safetensors"
PATTERN = "shard-*-model-*.safetensors"
OFFSETS = "DCP_SHARDING_INFO"


def write(folder: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> list[Path]:
    """Write this rank's rows into a file of its own; returns it. What is not shared out rank 0 writes.

    A tensor under two names is written under the first.
    """
    mine: dict[str, Tensor] = {}
    offsets: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if id(tensor) in seen or not (is_share(tensor) or process_group.is_first):
            continue
        seen.add(id(tensor))
        start, stop = rows(tensor)
        if start < stop or not is_share(tensor):
            mine[name] = own(tensor).detach().cpu().contiguous()
            offsets[name] = {"saved_offsets": [start, *[0] * (tensor.ndim - 1)] if tensor.ndim else []}
    if not mine and not process_group.is_first:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME.format(rank=process_group.rank + 1)
    save_file(mine, path, {OFFSETS: json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"})
    return [path]


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor in a file, from row `start` of the whole tensor on; `name` is theirs in the file."""

    path: Path
    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + (self.shape[0] if self.shape else 1)

    def read(self, first: int, last: int) -> Tensor:
        """The rows from `first` to before `last` of the whole tensor, which must be inside."""
        with safe_open(self.path, framework="pt") as file:
            if not self.shape or (first, last) == (self.start, self.stop):
                tensor: Tensor = file.get_tensor(self.name)
                return tensor
            part: Tensor = file.get_slice(self.name)[first - self.start : last - self.start]
            return part


class Pieces(Mapping[str, Tensor]):
    """The tensors of some safetensors files, by name; read when they are asked for, whole or some rows of them."""

    def __init__(self, pieces: Mapping[str, Sequence[Piece]]) -> None:
        self._pieces = pieces

    @classmethod
    def of(cls, files: Sequence[Path]) -> Pieces:
        """Those of files that hold whole tensors, or ranks' rows; raises SafetensorError where one is no such file."""
        found: dict[str, list[Piece]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                offsets = json.loads((file.metadata() or {}).get(OFFSETS, "{}"))
                for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                    shape = tuple(file.get_slice(name).get_shape())
                    start = offsets[name]["saved_offsets"][0] if offsets and shape else 0
                    found.setdefault(name, []).append(Piece(path, name, start, shape))
        return cls({name: sorted(pieces, key=lambda piece: piece.start) for name, pieces in found.items()})

    def under(self, prefix: str) -> Pieces:
        """Those whose names begin so, by the rest of their names."""
        return Pieces(
            {name.removeprefix(prefix): each for name, each in self._pieces.items() if name.startswith(prefix)}
        )

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to before `last` of a tensor; no other is read."""
        pieces = self._pieces[name]
        inside = [each for each in pieces if each.start < last and each.stop > first]
        parts = [each.read(max(first, each.start), min(last, each.stop)) for each in inside]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else pieces[0].read(pieces[0].start, pieces[0].stop)[:0]

    def __getitem__(self, name: str) -> Tensor:
        pieces = self._pieces[name]
        return self.rows(name, pieces[0].start, pieces[-1].stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def files_of(folder: Path) -> list[Path]:
    """The files in a folder that hold ranks' rows, in the order of ranks."""
    return sorted(folder.glob(PATTERN))
