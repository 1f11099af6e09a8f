"""Golden numbers of rewards kept apart: two groups of two samples of one token, with two reward functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from obverse.analysis.step_coefficients import weigh
from obverse.errors import ConfigError, DataError
from obverse.estimator.parts import Decoupled
from obverse.estimator.tables import PartInputs, PolicyOutputs, Tokens
from obverse.models.batch import pack
from obverse.types import GradeResult, ModelInput, Sample, Source

FIRST, SECOND = (1.0, 0.0, 1.0, 1.0), (0.5, 1.0, 0.0, 1.0)
PAIRS = [{"first": first, "second": second} for first, second in zip(FIRST, SECOND, strict=True)]
# The advantages of the last two samples, and of the first two, in which one reward cancels the other up to eps.
LARGE, SMALL = 1.224744855, 1.7e-6


def step(*rewards: dict[str, float], **more: Any) -> dict[str, Any]:
    """A step file of groups of two, a token each, with the policy that sampled."""
    token = {"kind": "rollout", "source": ["rollout"], "logp": [-1.0], "behavior": [-1.0]}
    return {"samples": [{"problem": i // 2, "rewards": row, **token} for i, row in enumerate(rewards)], **more}


def advantages(*rewards: dict[str, float], more: Any = None, **options: Any) -> list[float]:
    """The advantages that gdpo has for the samples of `step`."""
    weighed = weigh("gdpo", step(*rewards, **(more or {})), options)
    return [len(rewards) * sample["coefficient"][0] for sample in weighed["samples"]]


def test_each_reward_is_standardized_and_the_sum_whitened() -> None:
    assert advantages(*PAIRS) == pytest.approx([SMALL, -SMALL, -LARGE, LARGE], abs=5e-8)


def test_the_scale_of_a_reward_does_not_matter() -> None:
    scaled = [row | {"second": 10 * row["second"]} for row in PAIRS]
    assert advantages(*scaled) == pytest.approx(advantages(*PAIRS), abs=1e-5)


def test_a_weight_counts_after_the_standardization() -> None:
    sums = torch.tensor([1 - 0.25, 0.25 - 1, -0.25, 0.25], dtype=torch.float64) * math.sqrt(0.5)
    expected = (sums / sums.std()).tolist()
    assert advantages(*PAIRS, more={"reward_weights": {"second": 0.25}}) == pytest.approx(expected, abs=1e-5)


def test_whitening_over_samples_is_that_of_the_trl_fork() -> None:
    sums = torch.zeros(4, dtype=torch.float64)
    for column in (FIRST, SECOND):
        groups = torch.tensor(column, dtype=torch.float64).view(2, 2)
        sums += ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    expected = ((sums - sums.mean()) / (sums.std() + 1e-4)).tolist()
    options = {"whitening": "samples", "eps": 1e-4, "whitening_eps": 1e-4}
    assert advantages(*PAIRS, **options) == pytest.approx(expected, rel=1e-12)


def test_tokens_count_in_the_whitening() -> None:
    lengths = (3, 1, 1, 1)
    rows = [
        Sample("rollout", ModelInput((1,)), [2] * num, [Source.ROLLOUT] * num, [0.0] * num, "", grade=grade)
        for num, grade in zip(lengths, [GradeResult.passed(), *[GradeResult.failed("no")] * 3], strict=True)
    ]
    update = pack([rows[:2], rows[2:]], frozenset({Source.ROLLOUT}), dtype=torch.float64)
    assert update is not None
    index, zero = torch.arange(4), torch.zeros(4, dtype=torch.float64)
    inputs = PartInputs(Tokens(index, index * 0, index * 0, zero), update.samples, PolicyOutputs(zero, zero))
    pooled = torch.tensor([1.0, 1.0, 1.0, -1.0, 0.0, 0.0], dtype=torch.float64) * math.sqrt(0.5)
    expected = ((pooled - pooled.mean()) / pooled.std())[[0, 3, 4, 5]]
    torch.testing.assert_close(Decoupled(eps=0.0, whitening_eps=0.0)(inputs), expected)


def test_a_reward_that_does_not_apply_is_left_out() -> None:
    # the only sample of its group with the second reward: that reward has no spread there
    rows = [{"first": 1.0, "second": 0.3}, {"first": 0.0}, {"first": 1.0}, {"first": 0.0}]
    assert advantages(*rows) == pytest.approx(advantages(*[{"first": row["first"]} for row in rows]), rel=1e-12)


def test_a_single_reward_function_is_one_reward() -> None:
    named = step(*[{"reward": value} for value in FIRST])
    single = {
        "samples": [sample | {"rewards": None, "reward": sample["rewards"]["reward"]} for sample in named["samples"]]
    }
    weighed = weigh("gdpo", single)["samples"]
    assert weighed == weigh("gdpo", named)["samples"]
    assert weighed[0]["coefficient"][0] > 0 > weighed[1]["coefficient"][0]


def test_the_summed_reward_of_a_step_file_is_weighted() -> None:
    raw = step(*PAIRS, reward_weights={"first": 2.0})
    sums = [2 * first + second for first, second in zip(FIRST, SECOND, strict=True)]
    given = {"samples": [sample | {"reward": total} for sample, total in zip(raw["samples"], sums, strict=True)]}
    weighed = weigh("dr_grpo", raw)["samples"]
    assert weighed == weigh("dr_grpo", given)["samples"] and weighed[0]["coefficient"] != [0.0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"reward_weights": {"third": 1.0}}, "third"),
        ({"reward_weights": [1.0]}, "reward_weights"),
        ({"reward_weights": {"first": None}}, "reward_weights: first"),
    ],
)
def test_weights_that_fit_no_reward_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        weigh("gdpo", step(*PAIRS, **change))


@pytest.mark.parametrize("options", [{"overlong_factor": 1.0}, {"kl_coef": 0.1, "kl_in_reward": True}])
def test_additions_to_the_summed_reward_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(options))):
        advantages(*PAIRS, **options)
