"""Divergences by chunks: published numbers, and autograd over the whole vocabulary in plain formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from obverse.estimator.divergence import Divergence
from obverse.models.fused_divergence import Comparison, LogitDivergence, Target
from obverse.models.fused_logprobs import Scores

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
# METHODS of the papers: p = (.5, .3, .2), q = (.2, .3, .5); value and minus the gradient by the policy's logits
GOLDEN = {
    0.0: (0.274887220, (-0.3, 0.0, 0.3)),
    0.1: (0.024424915, (-0.0265005407, 0.0008060346, 0.0256945060)),
    0.5: (0.066414314, (-0.0725651574, 0.0099621472, 0.0626030102)),
    0.9: (0.024424915, (-0.0279573730, 0.0065214399, 0.0214359331)),
    1.0: (0.274887220, (-0.3207017562, 0.0824661659, 0.2382355903)),
}
FORMS = [
    *(Divergence(beta=beta) for beta in BETAS),
    *(
        Divergence(beta=beta, top_k=5, top_k_of=whose, tail=tail)
        for beta in (0.0, 0.3, 1.0)
        for whose in ("policy", "target")
        for tail in (True, False)
    ),
    Divergence(beta=0.0, tilt=2.0),
    Divergence(beta=1.0, tilt=1.5, smooth=0.2),
    Divergence(beta=0.5, smooth=0.1),
]


def literal(form: Divergence, z: Tensor, w: Tensor, observed: Tensor) -> Tensor:
    """D [T] from the logits of policy and target [T, V] in plain formulas."""
    log_p, q = z.log_softmax(-1), w.softmax(-1)
    if form.smooth:
        q = (1 - form.smooth) * q + form.smooth / q.shape[1]
    if form.tilt:
        q = q * torch.exp(form.tilt * torch.nn.functional.one_hot(observed, q.shape[1]).to(q))
        q = q / q.sum(-1, keepdim=True)
    p = log_p.exp()
    if form.top_k is not None:
        tokens = (p if form.top_k_of == "policy" else q).topk(form.top_k, dim=-1).indices
        is_top = torch.zeros_like(p).scatter(-1, tokens, 1.0).bool()
        parts = []
        for probs in (p, q):
            top = probs.gather(-1, tokens)
            rest = (probs * ~is_top).sum(-1, keepdim=True)
            parts.append(torch.cat([top, rest], -1) if form.tail else top / top.sum(-1, keepdim=True))
        p, q = parts
    if form.beta == 0:
        return (q * (q / p).log()).sum(-1)
    if form.beta == 1:
        return (p * (p / q).log()).sum(-1)
    m = form.beta * q + (1 - form.beta) * p
    return form.beta * (q * (q / m).log()).sum(-1) + (1 - form.beta) * (p * (p / m).log()).sum(-1)


def fused(form: Divergence, z: Tensor, w: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """D and its gradient by the logits z: heads that are the identity, so that states are logits."""
    eye, policy_eye = torch.eye(w.shape[1], dtype=w.dtype), torch.eye(z.shape[1], dtype=z.dtype)
    z = z.clone().requires_grad_()
    observed = torch.zeros(len(z), dtype=torch.long) if observed is None else observed
    comparison = Comparison(form, Target(w, lambda states: states, eye), observed, torch.ones(len(z)).to(z))
    _, _, divergence = Scores.apply(z, policy_eye, observed, torch.ones(len(z)).to(z), None, 7, comparison)
    (gradient,) = torch.autograd.grad(divergence.sum(), z)
    return divergence.detach(), gradient


def by_row(form: Divergence, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """D and its gradient by the logits, one row at a time: each is the head's matrix, of the state 1."""
    one, observed, values, gradients = torch.ones(1, 1), torch.zeros(1, dtype=torch.long), [], []
    for row, target in zip(z, w, strict=True):
        matrix = row[:, None].clone().requires_grad_()
        comparison = Comparison(form, Target(one, lambda states: states, target[:, None]), observed, torch.ones(1))
        divergence = Scores.apply(one, matrix, observed, torch.ones(1), None, 1, comparison)[2]
        gradients += torch.autograd.grad(divergence.sum(), matrix)
        values.append(divergence.detach())
    return torch.cat(values), torch.cat(gradients, 1).T


def close(actual: Tensor, expected: object, tolerance: float = 1e-8) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


P = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
Q = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("beta", BETAS)
def test_published_values_and_gradients(beta: float) -> None:
    value, pull = GOLDEN[beta]
    for form in (Divergence(beta=beta), Divergence(beta=beta, top_k=2, tail=True), Divergence(beta=beta, top_k=3)):
        found, gradient = fused(form, P.log(), Q.log())
        close(found, [value])
        close(-gradient, [pull])


@pytest.mark.parametrize(
    ("beta", "value", "pull"),
    [(0.0, 0.103487336, -0.225), (0.5, 0.025547195, -0.0540017816), (1.0, 0.102678078, -0.2147556403)],
)
def test_published_top_two_renormalised(beta: float, value: float, pull: float) -> None:
    found, gradient = fused(Divergence(beta=beta, top_k=2, tail=False), P.log(), Q.log())
    close(found, [value])
    close(-gradient, [[pull, -pull, 0.0]])


def test_published_numbers_of_asft() -> None:
    """2509.23753: loss and minus its gradient p_y (p - 1[y]) + lambda (p - q), the label being the second token."""
    anchor, label = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64), torch.tensor([[0.0, 1.0, 0.0]])
    divergence, gradient = fused(Divergence(beta=0.0), P.log(), anchor.log())
    close(divergence, [0.239278182])
    for weight, loss, pull in (
        (0.1, 0.385119659, (-0.175, 0.205, -0.03)),
        (0.05, 0.373155750, (-0.1625, 0.2075, -0.045)),
    ):
        close(-0.3 * P[0, 1].log() + weight * divergence, [loss])
        close(-(0.3 * (P - label) + weight * gradient), [pull])


@pytest.mark.parametrize(
    ("beta", "target", "loss"),
    [
        (1.0, (0.174877705, 0.475366886, 0.349755409), 1.256454407),
        (2.0, (0.096255135, 0.711234594, 0.192510270), 1.232859412),
    ],
)
def test_published_numbers_of_gift(beta: float, target: tuple[float, ...], loss: float) -> None:
    """The target is the anchor tilted to the observed token; the cross entropy is D plus the target's entropy."""
    anchor, q = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
    divergence, gradient = fused(Divergence(beta=0.0, tilt=beta), P.log(), anchor.log(), torch.tensor([1]))
    close(divergence - (q * q.log()).sum(), [loss])
    close(P - gradient, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients_are_those_of_autograd(form: Divergence, dtype: torch.dtype) -> None:
    """With log-prob and entropy streams beside it, temperatures, chunk borders, a single token, known gradients."""
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for seed, (num, chunk, known) in enumerate([(1, 4, "no"), (23, 1, "yes"), (23, 5, "wrongly"), (23, 99, "no")]):
        rng = torch.Generator().manual_seed(seed)
        states, matrix, others, others_matrix = (
            torch.randn(size, generator=rng, dtype=torch.float64).to(dtype)
            for size in ((num, 8), (31, 8), (num, 6), (31, 6))
        )
        states.requires_grad_(), matrix.requires_grad_()
        observed = torch.randint(0, 31, (num,), generator=rng)
        temperature = torch.where(torch.arange(num) % 2 == 0, 0.6, 1.0).to(dtype)
        by_logp, by_entropy, by_divergence = (
            torch.sin(torch.arange(num) * 1.0 + shift).to(dtype) for shift in (0, 1, 2)
        )
        if known != "no":
            by_entropy = torch.zeros_like(by_entropy)
        exact = [tensor.detach().double().requires_grad_() for tensor in (states, matrix)]
        z = exact[0] @ exact[1].T / temperature[:, None].double()
        w = others.double() @ others_matrix.double().T / temperature[:, None].double()
        expected = literal(form, z, w, observed)
        logp = z.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        weighed = (by_logp * logp.gather(-1, observed[:, None])[:, 0]).sum() + (by_entropy * entropy).sum()
        theirs = torch.autograd.grad(weighed + (by_divergence * expected).sum(), exact)
        shift = {"no": None, "yes": 0.0, "wrongly": 0.5}[known]
        comparison = Comparison(form, Target(others, lambda states: states, others_matrix), observed, temperature)
        found = Scores.apply(
            states,
            matrix,
            observed,
            temperature,
            None if shift is None else by_logp + shift,
            chunk,
            comparison,
            None if shift is None else by_divergence + shift,
        )
        torch.testing.assert_close(found[2].double(), expected, rtol=tolerance, atol=tolerance)
        ours = torch.autograd.grad(
            (by_logp * found[0]).sum() + (by_entropy * found[1]).sum() + (by_divergence * found[2]).sum(),
            (states, matrix),
        )
        for gradient, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient.double(), reference, rtol=tolerance, atol=20 * tolerance)


def test_a_head_that_is_no_matrix_gives_the_same() -> None:
    for form in FORMS:
        z, w = (
            torch.randn(9, 31, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1)
        )
        observed, ones = torch.arange(9), torch.ones(9, dtype=torch.float64)
        comparison = Comparison(form, Target(w, lambda states: states), observed, ones)
        value, gradient = fused(form, z, w, observed)
        z.requires_grad_()
        parts = [LogitDivergence.apply(z[part], comparison, part) for part in (slice(0, 4), slice(4, 9))]
        close(torch.cat(parts).detach(), value, 1e-12)
        close(torch.autograd.grad(torch.cat(parts).sum(), z)[0], gradient, 1e-12)


@pytest.mark.parametrize("widths", [(31, 35), (35, 31)])
def test_unequal_padded_heads_are_compared_over_the_ids_that_both_have(widths: tuple[int, int]) -> None:
    for form in FORMS:
        z, w = (
            torch.randn(9, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
            for width in widths
        )
        observed = torch.arange(9)
        value, gradient = fused(form, z, w, observed)
        cut_value, cut_gradient = fused(form, z[:, :31], w[:, :31], observed)
        close(value, cut_value, 1e-12)
        close(gradient[:, :31], cut_gradient, 1e-12)
        assert not gradient[:, 31:].any()


def test_impossible_tokens_give_finite_numbers() -> None:
    """Logits of minus infinity and of large magnitude; a reverse KL from an impossible token has its floor."""
    for form in (replace(form, top_k=form.top_k and 2) for form in FORMS):
        never = -torch.inf
        z = torch.tensor([[0.0, 1.0, never, 2.0], [0.0, 1.0, 2.0, 3.0], [900.0, 0.0, -900.0, 1.0]])
        w = torch.tensor([[1.0, 0.0, never, 2.0], [0.0, never, 2.0, 1.0], [-900.0, 0.0, 900.0, 1.0]])
        for policy, target in ((z, w), (w, z)):
            value, gradient = by_row(form, policy, target)
            assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
            assert (value > -1e-5).all()
            close(gradient.sum(-1), torch.zeros(3), 1e-3)
        same, gradient = by_row(form, z, z)
        if not form.tilt and not form.smooth:
            close(same, torch.zeros(3), 1e-6)
            close(gradient, torch.zeros(3, 4), 1e-6)


def test_the_floor_of_a_reverse_kl() -> None:
    z, w = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -torch.inf]])
    value, gradient = by_row(Divergence(beta=1.0), z, w)
    close(value, [0.5 * 1e4 - 0.693147], 1e-2)
    close(gradient, [[-2500.0, 2500.0]], 1e-2)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns."""

    num = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.num = max(self.num, tensor.numel())
        return result


@pytest.mark.parametrize("known", [False, True])
def test_no_tensor_has_all_tokens_and_the_whole_vocabulary(known: bool) -> None:
    for form in FORMS:
        num, width, vocabulary, chunk = 200, 4, 301, 16
        states, target = torch.randn(num, width, requires_grad=True), torch.randn(num, width)
        matrix, ones = torch.randn(vocabulary, width, requires_grad=True), torch.ones(num)
        observed = torch.zeros(num, dtype=torch.long)
        comparison = Comparison(
            form, Target(target, lambda states: states, torch.randn(vocabulary, width)), observed, ones
        )
        gradient = ones if known else None
        with Largest() as largest:
            logp, _, divergence = Scores.apply(states, matrix, observed, ones, gradient, chunk, comparison, gradient)
            (logp.sum() + divergence.sum()).backward()
        assert largest.num <= chunk * vocabulary
