"""Forward passes of a micro batch for models whose rotary frequencies depend on the length of a whole row.

Rows with different frequencies go into separate forward passes, so that each row is computed as it would be alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.models.batch import Micro


@dataclass(frozen=True)
class RowGrouping:
    """Which rows can share a padded batch; the fields are those of `obverse.models.conformance.Capabilities`."""

    pads: bool = True
    switches: tuple[int, ...] = ()
    limit: int | None = None

    def check(self, micro: Micro) -> None:
        """Raise ConfigError for a micro batch with a row longer than `limit`."""
        if self.limit is not None and max(micro.lengths, default=0) > self.limit:
            raise ConfigError(
                f"a prompt and its response have {max(micro.lengths)} tokens together, and beyond {self.limit} this "
                "model's rotary frequencies (dynamic RoPE) depend on earlier inputs: leave out longer rows"
            )

    def parts(self, micro: Micro) -> list[tuple[list[int], int]]:
        """The rows of each forward pass, and the number of positions to run them on.

        Rotary frequencies follow from the length of the whole row, including the last token, from which nothing is
        predicted. Where dropping that token would change the frequencies, one more position is run.
        """
        num_read = micro.input_ids.shape[1]
        if not micro.lengths or (self.pads and not self.switches):
            return [(list(range(len(micro.input_ids))), num_read)]
        members: dict[int, list[int]] = {}
        for row, length in enumerate(micro.lengths):
            key = sum(switch < length for switch in self.switches) if self.pads else length
            members.setdefault(key, []).append(row)
        return [(rows, self._width(max(micro.lengths[row] for row in rows), num_read)) for rows in members.values()]

    def _width(self, length: int, num_read: int) -> int:
        width = min(num_read, length)
        return length if any(width <= switch < length for switch in self.switches) else width


def outputs(
    rows: RowGrouping, micro: Micro, read: Mapping[str, Tensor], module: Any, name: str, offset: int = 0
) -> Tensor:
    """The output `name` of `module` at the position of each trained token plus `offset`; [T, size].

    `read` holds the keyword arguments of the input: ids [B, L] or embeddings [B, L, H]. Raises ConfigError for a row
    longer than the limit.
    """
    rows.check(micro)
    parts, position = rows.parts(micro), micro.position + offset
    if len(parts) == 1 and parts[0][1] <= micro.input_ids.shape[1]:
        output: Tensor = getattr(module(**read, use_cache=False), name)[micro.row, position]
        return output
    device = micro.row.device
    states, tokens = [], []
    for members, width in parts:
        row_indices = torch.tensor(members, device=device)
        row_in_part = torch.full((len(micro.lengths),), -1, device=device)
        row_in_part[row_indices] = torch.arange(len(members), device=device)
        token = (row_in_part[micro.row] >= 0).nonzero()[:, 0]
        part = {key: _fitted(value[row_indices], width) for key, value in read.items()}
        output = getattr(module(**part, use_cache=False), name)
        states.append(output[row_in_part[micro.row[token]], position[token]])
        tokens.append(token)
    return torch.cat(states)[torch.cat(tokens).argsort()]


def _fitted(inputs: Tensor, width: int) -> Tensor:
    """Ids or embeddings cut to a width, or padded with zeros on the right."""
    missing = width - inputs.shape[1]
    if missing <= 0:
        return inputs[:, :width]
    return torch.cat([inputs, inputs.new_zeros(len(inputs), missing, *inputs.shape[2:])], dim=1)
