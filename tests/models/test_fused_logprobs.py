"""Log-probs and entropies by chunks against autograd over the whole vocabulary; the known slope against the unknown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from obverse.models.fused_logprobs import Lookup, Scores, accumulates_in_place, chunk_size, chunks, decoder_inputs

NUM_TOKENS, WIDTH, VOCABULARY = 23, 8, 31


def numbers(temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    states, matrix = (torch.randn(n, WIDTH, generator=rng, requires_grad=True) for n in (NUM_TOKENS, VOCABULARY))
    target = torch.randint(0, VOCABULARY, (NUM_TOKENS,), generator=rng)
    return states, matrix, target, torch.where(torch.arange(NUM_TOKENS) % 2 == 0, temperature, 1.0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 5, 10**6])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("known", ["unknown", "known", "wrongly known"])
def test_gradients_are_those_of_autograd(temperature: float, chunk: int, with_entropy: bool, known: str) -> None:
    states, matrix, target, temperatures = numbers(temperature)
    slope, of_entropy = torch.sin(torch.arange(NUM_TOKENS) * 1.0), torch.cos(torch.arange(NUM_TOKENS) * 1.0)
    whole = ((states @ matrix.T) / temperatures[:, None]).log_softmax(-1)
    expected = whole.gather(-1, target[:, None])[:, 0], -(whole.exp() * whole).sum(-1)
    known_logp_gradient = {"unknown": None, "known": slope, "wrongly known": slope + 1}[known]
    found = Scores.apply(states, matrix, target, temperatures, known_logp_gradient, chunk)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weigh = lambda logp, entropy: (slope * logp).sum() + with_entropy * (of_entropy * entropy).sum()  # noqa: E731
    theirs = torch.autograd.grad(weigh(*expected), (states, matrix))
    mine = torch.autograd.grad(weigh(*found), (states, matrix))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", ["unknown", "known", "wrongly known"])
@pytest.mark.parametrize("padding", [None, 3])
def test_a_tied_matrix_gathers_both_ends_in_its_own_gradient(known: str, padding: int | None) -> None:
    _, matrix, target, temperatures = numbers(0.6)
    ids = torch.tensor([[3, 4, 4], [0, 30, 3]]).repeat(4, 1).flatten()[:NUM_TOKENS]
    slope = torch.sin(torch.arange(NUM_TOKENS) * 1.0)
    tied = torch.nn.Embedding(VOCABULARY, WIDTH, padding_idx=padding)
    tied.weight.data = matrix.detach().clone()
    logits = torch.tanh(tied(ids)) @ tied.weight.T / temperatures[:, None]
    (slope * logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]).sum().backward()
    expected, tied.weight.grad = tied.weight.grad, torch.ones_like(tied.weight)  # as another micro batch left it
    known_logp_gradient = {"unknown": None, "known": slope, "wrongly known": slope + 1}[known]
    states = torch.tanh(decoder_inputs(ids, tied)["inputs_embeds"])
    logp, _ = Scores.apply(states, tied.weight, target, temperatures, known_logp_gradient, 5)
    home = tied.weight.grad
    (slope * logp).sum().backward()
    assert tied.weight.grad is home
    torch.testing.assert_close(home - 1, expected, rtol=1e-4, atol=1e-5)


def test_only_a_trained_float_parameter_keeps_its_own_gradient() -> None:
    table = torch.nn.Embedding(VOCABULARY, WIDTH)
    ids = torch.tensor([1])
    assert accumulates_in_place(table.weight) and decoder_inputs(ids, table)["inputs_embeds"].requires_grad
    assert not accumulates_in_place(table.weight * 2)
    assert "input_ids" in decoder_inputs(ids, None) and "input_ids" in decoder_inputs(ids, table.bfloat16())
    with torch.no_grad():
        assert "input_ids" in decoder_inputs(ids, table.float())
    table.weight.requires_grad_(False)
    assert "input_ids" in decoder_inputs(ids, table)
    assert not Lookup.apply(ids, table.weight, None).requires_grad


def test_a_token_with_probability_zero_is_no_nan() -> None:
    states, matrix = torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    logp, entropy = Scores.apply(states, matrix, torch.tensor([0]), torch.ones(1), None, 1)
    (logp.sum() + entropy.sum()).backward()
    assert logp.tolist() == [0.0] and float(entropy.detach()) == pytest.approx(0.0, abs=1e-30)
    assert matrix.grad is not None and torch.isfinite(matrix.grad).all()


def test_chunks_cover_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [part.stop - part.start for part in chunks(23, 5)] == [4, 5, 4, 5, 5]
    assert chunks(0, 5) == [] and chunks(5, 5) == [slice(0, 5)]
    monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", 60)
    cpu, card = torch.device("cpu"), torch.device("cuda")
    assert [chunk_size(10, cpu), chunk_size(10, cpu, lean=True), chunk_size(100, cpu)] == [6, 3, 1]
    assert chunk_size(10, card) == 96


@pytest.mark.parametrize("known_logp_gradient", [None, torch.ones(1)])
def test_a_logit_of_minus_infinity_is_no_nan(known_logp_gradient: Tensor | None) -> None:
    states, matrix = torch.tensor([[1.0]]), torch.tensor([[1.0], [-torch.inf], [1.0]], requires_grad=True)
    logp, entropy = Scores.apply(states, matrix, torch.tensor([0]), torch.ones(1), known_logp_gradient, 1)
    assert float(entropy.detach()) == pytest.approx(0.693147, rel=1e-5)
    assert float(logp.detach()) == pytest.approx(-0.693147, rel=1e-5)
    (gradient,) = torch.autograd.grad(logp.sum() + entropy.sum(), matrix)
    torch.testing.assert_close(gradient, torch.tensor([[0.5], [0.0], [-0.5]]))


def test_the_entropy_of_the_most_likely_tokens() -> None:
    """That of the renormalized 20 largest probabilities, by chunks of the head and from whole logits."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(11, 8, generator=generator, dtype=torch.float64)
    matrix = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    warm, target = torch.rand(11, generator=generator, dtype=torch.float64) + 0.5, torch.arange(11)
    top = (states @ matrix.T / warm[:, None]).softmax(-1).topk(20).values
    share = top / top.sum(-1, keepdim=True)
    expected = -(share * share.log()).sum(-1)
    found = Scores.apply(states, matrix, target, warm, None, 4, None, None, 20)[1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    whole = Scores.apply(states, matrix, target, warm, None, 4, None, None, 50)[1]
    torch.testing.assert_close(whole, Scores.apply(states, matrix, target, warm, None, 4)[1], rtol=1e-12, atol=1e-12)
