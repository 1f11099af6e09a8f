"""obverse's gradients equal those of TRL's trainers where both define the same loss; run by `make test-parity`.

Differences by design are in the options of a case or in `as_trl`: TRL puts 1e-4 beside the std (obverse
1e-6, as verl), takes CISPO's cap itself as epsilon_high where obverse adds 1, never drops a group, and by default
weighs the KL's k3 with the importance ratio (use_bias_correction_kl), which is another gradient. Its means are those of
a micro batch where obverse counts over the update: one micro batch holds everything here. Figures are printed: the
largest difference, relative to the largest number of the kind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

REASON = "make test-parity installs TRL, into an environment of its own"
pytest.importorskip("trl", reason=REASON)

from exam.batches import groups, with_pairs  # noqa: E402
from parity.trainers import (  # noqa: E402
    Gradients,
    Start,
    as_trl,
    ours,
    own_samples,
    trained_by_demonstrations,
    trained_by_labels,
    trained_by_pairs,
    trained_by_samples,
    trained_by_sequences,
    trained_without_reference,
    with_sampler,
)
from tiny_models import save_tiny  # noqa: E402

from obverse.estimator.formula import Term  # noqa: E402
from obverse.estimator.method import Method  # noqa: E402
from obverse.estimator.parts import BackToAnchor, Behavior, PerSequence  # noqa: E402
from obverse.estimator.schedule import only  # noqa: E402
from obverse.methods import build  # noqa: E402
from obverse.types import Group, Sample, Source  # noqa: E402

TOLERANCE = 2e-5  # float32; a wrong mask or denominator gives 1e-2 and more

K3: dict[str, Any] = {"beta": 0.04, "use_bias_correction_kl": False}

# name: (TRL's options, obverse's method and options)
BY_SAMPLES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo"}, "grpo", {"beta": 0.0}),
    "grpo, k3": ({"loss_type": "grpo", **K3}, "grpo", {"beta": 0.04}),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": 30},
        "dr_grpo",
        {"max_completion_length": 30},
    ),
    "dapo": (
        {"loss_type": "dapo", "epsilon_high": 0.28},
        "dapo",
        {"epsilon_high": 0.28, "dual_clip": None, "overlong_factor": 0.0},
    ),
    "dapo, dual clip": (
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.35},
        "dapo",
        {"epsilon_high": 0.28, "dual_clip": 1.35, "overlong_factor": 0.0},
    ),
    "bnpo": (
        {"loss_type": "bnpo"},
        "dapo",
        {"epsilon_high": 0.2, "dual_clip": None, "overlong_factor": 0.0},
    ),
    "dapo, k3": (
        {"loss_type": "dapo", **K3},
        "dapo",
        {"epsilon_high": 0.2, "dual_clip": None, "overlong_factor": 0.0, "kl_coef": 0.04},
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.2}, "cispo", {"epsilon_high": 0.2}),
    "sapo": ({"loss_type": "sapo"}, "sapo", {}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
        "gspo",
        {"epsilon": 0.05, "epsilon_high": 0.08},
    ),
    "luspo": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
        "luspo",
        {"epsilon": 0.05, "epsilon_high": 0.08},
    ),
    "vespo": ({"loss_type": "vespo"}, "vespo", {}),
    "vespo, other exponents": (
        {
            "loss_type": "vespo",
            "vespo_k_pos": 1.0,
            "vespo_lambda_pos": 0.5,
            "vespo_k_neg": 0.3,
            "vespo_lambda_neg": 1.5,
        },
        "vespo",
        {"k_pos": 1.0, "lambda_pos": 0.5, "k_neg": 0.3, "lambda_neg": 1.5},
    ),
    "grpo, entropy": (
        {"loss_type": "grpo", "entropy_coef": 0.1},
        "grpo",
        {"beta": 0.0, "entropy_coef": 0.1},
    ),
}
CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
BY_SEQUENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo": ({"beta": 0.0}, {"beta": 0.0}),
    "rloo, KL in the reward": ({"beta": 0.05}, {"beta": 0.05}),
}
BY_PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo": ({}, {}),
    "dpo, beta 0.5": ({"beta": 0.5}, {"beta": 0.5}),
    "ipo": ({"loss_type": ["ipo"]}, {"loss": "ipo"}),
    "dpo, forward KL": ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    "dpo, JS": ({"f_divergence_type": "js_divergence"}, {"divergence": "js"}),
    "hinge": ({"loss_type": ["hinge"], "beta": 2.0}, {"loss": "hinge", "beta": 2.0}),
    "exo": ({"loss_type": ["exo_pair"], "label_smoothing": 0.01}, {"loss": "exo_pair", "label_smoothing": 0.01}),
    "nca": ({"loss_type": ["nca_pair"]}, {"loss": "nca_pair"}),
    "robust": ({"loss_type": ["robust"], "label_smoothing": 0.1}, {"loss": "robust", "label_smoothing": 0.1}),
    "bco": ({"loss_type": ["bco_pair"]}, {"loss": "bco_pair"}),
    "sppo": ({"loss_type": ["sppo_hard"]}, {"loss": "sppo_hard"}),
    "apo_zero": ({"loss_type": ["apo_zero"]}, {"loss": "apo_zero"}),
    "apo_down": ({"loss_type": ["apo_down"]}, {"loss": "apo_down"}),
    "discopop": ({"loss_type": ["discopop"]}, {"loss": "discopop"}),
    "sigmoid_norm": ({"loss_type": ["sigmoid_norm"]}, {"loss": "sigmoid_norm"}),
    "aot": ({"loss_type": ["aot"]}, {"loss": "aot"}),
    "aot_unpaired": ({"loss_type": ["aot_unpaired"]}, {"loss": "aot_unpaired"}),
    "dpo, alpha": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        {"divergence": "alpha", "alpha": 0.5},
    ),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    return Start(save_tiny("qwen2", tmp_path_factory.mktemp("tiny") / "qwen2"))


def method(name: str, options: dict[str, Any]) -> Method:
    return as_trl(only(build(name, options)))


def same(name: str, gradients: Gradients, theirs: Gradients) -> None:
    """Both gradients are equal, of tokens and of parameters, and they are not zero."""
    assert gradients.tokens.shape == theirs.tokens.shape and gradients.parameters.keys() == theirs.parameters.keys()
    scale = float(max(gradient.abs().max() for gradient in theirs.parameters.values()))
    assert scale > 0 and theirs.tokens.abs().max() > 0
    pairs = [(gradients.parameters[key], gradient) for key, gradient in theirs.parameters.items()]
    of_parameters = float(max((first - second).abs().max() for first, second in pairs)) / scale
    of_tokens = float((gradients.tokens - theirs.tokens).abs().max() / theirs.tokens.abs().max())
    print(f"\n{name:28} tokens {of_tokens:.1e}  parameters {of_parameters:.1e}", end="")
    assert of_tokens < TOLERANCE and of_parameters < TOLERANCE


@pytest.mark.parametrize("name", BY_SAMPLES)
def test_grpo_trainer(name: str, start: Start) -> None:
    """Old log-probs are the trainer's own, from before the move; the reference is the model in its folder."""
    theirs, base, options = BY_SAMPLES[name]
    generated = own_samples(start)
    same(name, ours(start, method(base, options), generated), trained_by_samples(start, generated, theirs))


def test_kl_weighted_by_the_ratio(start: Start) -> None:
    """TRL's default, r k3: its gradient is that of k2 with the sampling policy as reference."""
    generated = own_samples(start)
    surrogate, _ = (plain := method("grpo", {"beta": 0.04})).terms
    kl = Term(Source.ROLLOUT, BackToAnchor(), Behavior(), normalizer=PerSequence(), weight=0.04)
    theirs = trained_by_samples(start, generated, {"loss_type": "grpo", "beta": 0.04})
    same("grpo, r k3", ours(start, replace(plain, terms=(surrogate, kl)), generated), theirs)


@pytest.mark.parametrize("mode", CORRECTIONS)
def test_importance_sampling(mode: str, start: Start) -> None:
    """The correction weighs the surrogate and leaves the KL alone, in both."""
    generated = with_sampler(own_samples(start))
    theirs = {"loss_type": "grpo", **K3, "vllm_importance_sampling_mode": mode}
    theirs |= {"vllm_importance_sampling_clip_max": 1.3}
    options = {"beta": 0.04, "importance_sampling": mode, "importance_sampling_cap": 1.3}
    same(
        mode,
        ours(start, method("grpo", options), generated),
        trained_by_samples(start, generated, theirs, corrects=True),
    )


@pytest.mark.parametrize("name", BY_SEQUENCES)
def test_rloo_trainer(name: str, start: Start) -> None:
    """A sequence's ratio leaves the clip range quickly: the move is smaller here."""
    near = replace(start, noise=0.3)
    theirs, options = BY_SEQUENCES[name]
    generated = own_samples(near)
    same(name, ours(near, method("rloo", options), generated), trained_by_sequences(near, generated, theirs))


def pairs_only(num: int = 3, seed: int = 3) -> list[Group]:
    """Groups with one chosen and one rejected response to a common prompt."""
    generated = with_pairs(groups(2, rewards=((),) * num, demonstrations=False), seed)
    for group in generated:
        for sample in group.samples:
            sample.prompt = group.samples[0].prompt
    return generated


@pytest.mark.parametrize("name", BY_PAIRS)
def test_dpo_trainer(name: str, start: Start) -> None:
    """TRL orders all chosen responses before all rejected ones."""
    theirs, options = BY_PAIRS[name]
    generated = pairs_only()
    gradients = ours(start, method("dpo", options), generated, order=lambda sample: int(sample.kind == "rejected"))
    same(name, gradients, trained_by_pairs(start, generated, theirs))


BY_LABELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kto": ({}, {}),
    "kto, weights": (
        {"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.4},
        {"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.4},
    ),
    "apo_zero_unpaired": ({"loss_type": "apo_zero_unpaired"}, {"loss": "apo_zero_unpaired"}),
}
WITHOUT_REFERENCE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "simpo": (
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0},
        "simpo",
        {"beta": 2.0, "gamma": 1.0},
    ),
    "cpo": ("cpo", {"loss_type": "sigmoid"}, "cpo", {}),
    "cpo, hinge": ("cpo", {"loss_type": "hinge", "cpo_alpha": 0.3}, "cpo", {"loss": "hinge", "cpo_alpha": 0.3}),
    "cpo, ipo": ("cpo", {"loss_type": "ipo", "cpo_alpha": 0.0}, "cpo", {"loss": "ipo", "cpo_alpha": 0.0}),
    "orpo, odds": ("orpo", {"beta": 0.7}, "orpo", {"beta": 0.7}),
}


def chosen_first(sample: Sample) -> int:
    return int(sample.kind == "rejected")


def all_of(generated: list[Group]) -> list[Sample]:
    return [sample for group in generated for sample in group.samples]


def labelled() -> list[Group]:
    """Responses to prompts of their own; the mismatched ones have become likelier, so that z_0 is not 0."""
    return with_pairs(groups(2, rewards=((),) * 3, demonstrations=False), seed=11)


@pytest.mark.parametrize("name", BY_LABELS)
def test_kto_trainer(name: str, start: Start) -> None:
    theirs, options = BY_LABELS[name]
    generated = labelled()
    same(name, ours(start, method("kto", options), generated), trained_by_labels(start, all_of(generated), theirs))


@pytest.mark.parametrize("name", BY_LABELS)
def test_kto_trainer_of_pairs(name: str, start: Start) -> None:
    """TRL takes pairs apart into rows: all chosen responses, then all rejected ones; z_0 is 0.17 here."""
    theirs, options = BY_LABELS[name]
    generated = pairs_only(seed=5)
    gradients = ours(start, method("kto", options), generated, order=chosen_first)
    samples = sorted(all_of(generated), key=chosen_first)
    same(f"{name} of pairs", gradients, trained_by_labels(start, samples, theirs))


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_trainers_without_a_reference(name: str, start: Start) -> None:
    kind, theirs, method_name, options = WITHOUT_REFERENCE[name]
    generated, compared = pairs_only(), method(method_name, options)
    if kind == "orpo":
        compared = replace(compared, terms=compared.terms[1:])
    gradients = ours(start, compared, generated, order=chosen_first)
    same(name, gradients, trained_without_reference(start, generated, kind, theirs))


def test_label_smoothing(start: Start) -> None:
    """TRL's `sigmoid` takes no label smoothing; its `aot` does, and for a single pair its sorting changes nothing."""
    generated = pairs_only(1)
    gradients = ours(start, method("dpo", {"label_smoothing": 0.1}), generated)
    same(
        "dpo, label smoothing",
        gradients,
        trained_by_pairs(start, generated, {"loss_type": ["aot"], "label_smoothing": 0.1}),
    )


@pytest.mark.parametrize(("loss_type", "name"), [("nll", "sft"), ("dft", "dft")])
def test_sft_trainer(loss_type: str, name: str, start: Start) -> None:
    generated = groups(4, rewards=((),) * 5)
    theirs = trained_by_demonstrations(start, generated, {"loss_type": loss_type})
    same(name, ours(start, method(name, {}), generated), theirs)


MAX_ERROR: list[tuple[str, dict[str, Any]]] = [
    ("grpo", {"epsilon": 0.21}),
    ("grpo", {"epsilon_high": 0.3}),
    ("grpo, k3", {"beta": 0.041}),
    ("dr_grpo", {"max_completion_length": 31}),
    ("dapo", {"epsilon_high": 0.3}),
    ("dapo, dual clip", {"dual_clip": None}),
    ("cispo", {"epsilon_high": 0.25}),
    ("sapo", {"tau_neg": 1.0}),
    ("gspo", {"epsilon": 0.02}),
    ("gspo", {"epsilon_high": 0.1}),
    ("luspo", {"epsilon": 0.02}),
    ("luspo", {"epsilon_high": 0.1}),
    ("vespo", {"k_pos": 2.1}),
    ("vespo", {"lambda_pos": 2.9}),
    ("vespo", {"k_neg": 2.9}),
    ("vespo", {"lambda_neg": 2.1}),
    ("grpo, entropy", {"entropy_coef": 0.11}),
]


@pytest.mark.parametrize(("name", "slip"), MAX_ERROR)
def test_a_difference_is_seen(name: str, slip: dict[str, Any], start: Start) -> None:
    """An option with a slightly different value gives a different gradient."""
    generated = own_samples(start)
    theirs, base, options = BY_SAMPLES[name]
    expected = trained_by_samples(start, generated, theirs)
    with pytest.raises(AssertionError):
        same(f"{name} with {slip}", ours(start, method(base, options | slip), generated), expected)


@pytest.mark.parametrize(
    ("name", "slip"),
    [("kto", {"loss": "apo_zero_unpaired"}), ("kto", {"beta": 0.11}), ("kto, weights", {"undesirable_weight": 0.41})],
)
def test_a_difference_in_labels_is_seen(name: str, slip: dict[str, Any], start: Start) -> None:
    theirs, options = BY_LABELS[name]
    generated = labelled()
    with pytest.raises(AssertionError):
        same(
            name,
            ours(start, method("kto", options | slip), generated),
            trained_by_labels(start, all_of(generated), theirs),
        )


@pytest.mark.parametrize("mode", CORRECTIONS)
def test_another_cap_is_seen(mode: str, start: Start) -> None:
    generated = with_sampler(own_samples(start))
    theirs = {"loss_type": "grpo", "vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 1.3}
    expected = trained_by_samples(start, generated, theirs, corrects=True)
    options = {"beta": 0.0, "importance_sampling": mode, "importance_sampling_cap": 1.6}
    with pytest.raises(AssertionError):
        same(f"{mode} at another cap", ours(start, method("grpo", options), generated), expected)


def test_another_clip_of_sequences_is_seen(start: Start) -> None:
    near = replace(start, noise=0.3)
    generated = own_samples(near)
    expected = trained_by_sequences(near, generated, {"beta": 0.05})
    for slip in ({"epsilon": 0.15}, {"epsilon": None}, {"beta": 0.051}):
        with pytest.raises(AssertionError):
            same(f"rloo with {slip}", ours(near, method("rloo", slip), generated), expected)


def test_another_objective_on_texts_of_others_is_seen(start: Start) -> None:
    pairs, demonstrations = pairs_only(), groups(4, rewards=((),) * 5)
    of_pairs, of_demonstrations = (
        trained_by_pairs(start, pairs, {}),
        trained_by_demonstrations(start, demonstrations, {}),
    )
    for slip in ({"beta": 0.101}, {"loss": "ipo"}, {"divergence": "js"}, {"label_smoothing": 0.01}):
        gradients = ours(start, method("dpo", slip), pairs, order=lambda sample: int(sample.kind == "rejected"))
        with pytest.raises(AssertionError):
            same(f"dpo with {slip}", gradients, of_pairs)
    with pytest.raises(AssertionError):
        same("dft against nll", ours(start, method("dft", {}), demonstrations), of_demonstrations)
