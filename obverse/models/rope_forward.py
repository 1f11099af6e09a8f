"""One micro batch through a model, so that each row is computed as it would be alone: in one forward or in several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.models.batch import Micro


@dataclass(frozen=True)
class Rows:
    """Which rows may stand in one padded batch; see `obverse.models.conformance.Traits`."""

    pads: bool = True
    switches: tuple[int, ...] = ()
    limit: int | None = None

    def check(self, micro: Micro) -> None:
        """ConfigError for a row that is too long."""
        if self.limit is not None and max(micro.lengths, default=0) > self.limit:
            raise ConfigError(
                f"a prompt and its response have {max(micro.lengths)} tokens together, and beyond {self.limit} this "
                "model's rotary frequencies (dynamic RoPE) depend on what it read before: leave out longer rows"
            )

    def parts(self, micro: Micro) -> list[tuple[list[int], int]]:
        """Rows that are read together, and how many positions are.

        The length of the whole row decides on its rotary frequencies, the token included that nothing is predicted
        from: where the others alone would have other ones, a position more is read.
        """
        num_read = micro.input_ids.shape[1]
        if not micro.lengths or (self.pads and not self.switches):
            return [(list(range(len(micro.input_ids))), num_read)]
        members: dict[int, list[int]] = {}
        for row, length in enumerate(micro.lengths):
            kind = sum(each < length for each in self.switches) if self.pads else length
            members.setdefault(kind, []).append(row)
        return [(rows, self._width(max(micro.lengths[row] for row in rows), num_read)) for rows in members.values()]

    def _width(self, length: int, num_read: int) -> int:
        width = min(num_read, length)
        return length if any(width <= each < length for each in self.switches) else width


def outputs(rows: Rows, micro: Micro, read: Mapping[str, Tensor], module: Any, name: str, offset: int = 0) -> Tensor:
    """What `module` puts out as `name` at each trained token's position, or `offset` behind it; [T, size].

    `read` is what it is called with: ids [B, L] or embeddings [B, L, H]. Raises ConfigError for a row that is too long.
    """
    rows.check(micro)
    parts, place = rows.parts(micro), micro.position + offset
    if len(parts) == 1 and parts[0][1] <= micro.input_ids.shape[1]:
        whole: Tensor = getattr(module(**read, use_cache=False), name)[micro.row, place]
        return whole
    device = micro.row.device
    states, tokens = [], []
    for members, width in parts:
        chosen = torch.tensor(members, device=device)
        inner = torch.full((len(micro.lengths),), -1, device=device)
        inner[chosen] = torch.arange(len(members), device=device)
        token = (inner[micro.row] >= 0).nonzero()[:, 0]
        part = {key: _fitted(value[chosen], width) for key, value in read.items()}
        states.append(getattr(module(**part, use_cache=False), name)[inner[micro.row[token]], place[token]])
        tokens.append(token)
    return torch.cat(states)[torch.cat(tokens).argsort()]


def _fitted(read: Tensor, width: int) -> Tensor:
    """Ids or embeddings cut to a width, or longer by zeros, which nothing before them attends to."""
    missing = width - read.shape[1]
    if missing <= 0:
        return read[:, :width]
    return torch.cat([read, read.new_zeros(len(read), missing, *read.shape[2:])], dim=1)
