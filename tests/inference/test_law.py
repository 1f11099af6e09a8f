"""The law of sampling: what it keeps, what it draws, what it says the probability was."""

from __future__ import annotations

import math

import pytest
import torch

from obverse.inference import SamplingParams
from obverse.inference.distribution import sample_tokens, sampling_log_probs, uniform_numbers

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -4.0]])


def params(**options: float) -> SamplingParams:
    return SamplingParams(stop_ids=(0,), max_tokens=4, **options)  # type: ignore[arg-type]


def kept(logp: torch.Tensor) -> list[int]:
    return torch.isfinite(logp[0]).nonzero()[:, 0].tolist()


def test_the_whole_law_is_the_softmax_at_its_temperature() -> None:
    torch.testing.assert_close(sampling_log_probs(LOGITS, params(temperature=0.5)), (LOGITS / 0.5).log_softmax(-1))


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.6}, [0]),  # the first token alone has 0.643
        ({"top_p": 0.7}, [0, 1]),
        ({"top_p": 1e-9}, [0]),
        ({"min_p": 0.3}, [0, 1]),  # the second has e^-1 = 0.37 of the first
        ({"top_k": 3, "top_p": 0.7}, [0, 1]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
    ],
)
def test_cuts_keep_the_right_tokens_and_renormalize(options: dict[str, float], tokens: list[int]) -> None:
    logp = sampling_log_probs(LOGITS, params(**options))
    assert kept(logp) == tokens
    assert math.isclose(float(logp.exp().sum()), 1.0, abs_tol=1e-6)


def test_top_p_stops_where_the_mass_is_reached_exactly() -> None:
    halves = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert kept(sampling_log_probs(halves, params(top_p=0.5))) == [0]


def test_draws_have_the_laws_frequencies_and_its_log_probs() -> None:
    num = 20_000
    options = params(temperature=0.8, top_p=0.95)
    chosen, logp = sample_tokens(LOGITS.expand(num, -1), options, uniform_numbers([3], num, torch.device("cpu"))[0])
    expected = sampling_log_probs(LOGITS, options)[0]
    torch.testing.assert_close(logp, expected[chosen])
    share = torch.bincount(chosen, minlength=5) / num
    torch.testing.assert_close(share, expected.exp(), atol=0.012, rtol=0)  # 3.5 standard deviations at p = 0.5
    assert share[4] == 0


def test_greedy_takes_the_first_maximum_with_certainty() -> None:
    chosen, logp = sample_tokens(torch.tensor([[0.0, 3.0, 3.0]]), params(temperature=0.0), torch.tensor([0.99]))
    assert chosen.tolist() == [1]
    assert logp.tolist() == [0.0]


@pytest.mark.parametrize("level", [0.0, 1 - 1e-12])
def test_the_ends_of_the_ladder_never_choose_an_impossible_token(level: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    chosen, logp = sample_tokens(logits, params(), torch.tensor([level], dtype=torch.float64))
    assert chosen.item() in (1, 3)
    assert math.isclose(logp.item(), math.log(0.5), abs_tol=1e-6)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(FloatingPointError):
        sample_tokens(torch.tensor([[0.0, torch.nan]]), params(), torch.tensor([0.5]))


def test_a_longer_row_of_luck_begins_like_a_shorter_one() -> None:
    device = torch.device("cpu")
    assert torch.equal(uniform_numbers([5, 9], 4, device), uniform_numbers([5, 9], 30, device)[:, :4])
    assert not torch.equal(*uniform_numbers([5, 9], 4, device))


@pytest.mark.parametrize("num_tokens", [2, 127, 128, 129, 1500])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 700, "min_p": 0.01}])
def test_blocks_draw_what_one_long_sum_draws(num_tokens: int, options: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    logits = 3 * torch.randn(7, num_tokens, generator=generator)
    uniform = torch.rand(400, generator=generator, dtype=torch.float64)
    row = torch.arange(400) % 7
    chosen, logp = sample_tokens(logits, params(**options), uniform, row)
    ladder = sampling_log_probs(logits.double(), params(**options)).double().exp().cumsum(-1)[row]
    expected = torch.searchsorted(ladder, uniform[:, None] * ladder[:, -1:], right=True)[:, 0]
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(logp, sampling_log_probs(logits, params(**options))[row, chosen])


def test_a_row_is_cut_as_if_it_were_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 900, generator=generator) * torch.tensor([0.1, 0.5, 1.0, 3.0, 9.0, 30.0])[:, None]
    together = sampling_log_probs(logits, params(top_p=0.9))
    for number, each in enumerate(logits):
        assert torch.equal(together[number], sampling_log_probs(each[None], params(top_p=0.9))[0])


def test_tokens_of_one_probability_stay_or_go_together() -> None:
    thirds = torch.tensor([[0.4, 0.3, 0.3]]).log()
    assert kept(sampling_log_probs(thirds, params(top_p=0.5))) == [0, 1, 2]
