"""What moved: shares, means and positions with literal numbers."""

from __future__ import annotations

import pytest
import torch

from obverse.analysis.shift import (
    NUM_BINS,
    Moved,
    TokenValues,
    by_position,
    histogram,
    kind_of_text,
    moved,
    polarized,
    shift,
)
from obverse.config.analyze import ShiftConfig
from obverse.errors import ConfigError
from obverse.models.load import EMBEDDED
from obverse.types import ModelInput, Sample, Source

CHANCES = torch.tensor([0.01, 0.03, 0.5, 0.95, 1.0])


class Letters:
    """A tokenizer whose token n is the n-th letter."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def test_shares() -> None:
    shares = histogram(CHANCES.log())
    assert len(shares) == NUM_BINS and shares[0] == pytest.approx(0.4) and shares[10] == pytest.approx(0.2)
    assert shares[19] == pytest.approx(0.4) and sum(shares) == pytest.approx(1)
    assert polarized(CHANCES.log()) == pytest.approx(0.8)
    assert polarized(torch.tensor([0.11, 0.89]).log()) == 0


def test_positions() -> None:
    positions = torch.tensor([0, 1, 2, 0, 1])
    rows = by_position(positions, torch.tensor([1.0, 2.0, 5.0, 3.0, 2.0]), torch.zeros(5))
    assert [row["before"] for row in rows] == [2, 2, 5]
    assert [row["num_tokens"] for row in rows] == [2, 2, 1] and rows[2]["position"] == 2


def test_who_moved() -> None:
    ids = torch.tensor([0, 1, 0, 2, 3])
    change = torch.tensor([1.0, -0.5, 2.0, -3.0, 0.0])
    raised, lowered = moved(ids, change, Letters(), 2)
    assert raised == [Moved("a", 1.5, 2)]
    assert lowered == [Moved("c", -3.0, 1), Moved("b", -0.5, 1)]


def test_a_kind() -> None:
    sample = Sample("demonstration", ModelInput((9,)), [0, 1], [Source.DEMONSTRATION] * 2, [0.0] * 2, "ab")
    before, after = (TokenValues(torch.tensor(chances).log(), torch.zeros(2)) for chances in ([0.5, 0.2], [0.95, 0.02]))
    kind = kind_of_text("demonstration", [sample], before, after, Letters(), 5)
    assert kind.num_tokens == 2 and (kind.polarized_before, kind.polarized_after) == (0, 1)
    assert [token.token for token in kind.raised] == ["a"] and [token.token for token in kind.lowered] == ["b"]


def test_the_same_model_twice() -> None:
    result = shift(ShiftConfig(model=str(EMBEDDED), before="embedded", num_problems=3, max_completion_length=24))
    assert [kind.kind for kind in result.kinds] == ["demonstration", "rollout"]
    for kind in result.kinds:
        assert kind.before == kind.after and not kind.raised and not kind.lowered
        assert kind.mean_logp_before == kind.mean_logp_after < 0 and kind.entropy[0]["before"] > 0
    assert result.kinds[1].num_tokens == sum(row["num_tokens"] for row in result.kinds[1].entropy)


def test_only_a_run_knows_where_it_came_from() -> None:
    with pytest.raises(ConfigError, match="--before"):
        shift(ShiftConfig(model="embedded"))
