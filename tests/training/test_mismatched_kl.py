"""KTO's estimate of the KL: which responses are compared behind which prompts, for any split, and what is counted."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exam.batches import sample
from tiny_models import save_tiny, tiny_model, tiny_tokenizer
from training.test_divergence_update import learner_of

import runs
from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.models.batch import pack
from obverse.models.policy import as_policy
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.training.mismatched_kl import estimate, mismatched
from obverse.training.prepared_update import prepare_update
from obverse.training.update import BackwardPass
from obverse.types import Kind, ModelInput, Sample

SIZES = (3, 1, 5, 2, 4, 6)


def rows(layout: str) -> list[Sample]:
    """A word of two letters per sample: c or x for chosen or rejected, and the name of the prompt."""
    kinds: dict[str, Kind] = {"c": "chosen", "x": "rejected"}
    rng = random.Random(4)
    samples = [sample(rng, kinds[word[0]], 0.0, size) for word, size in zip(layout.split(), SIZES, strict=False)]
    prompts = [ModelInput((ord(word[1]) - 90, 7)) for word in layout.split()]
    return [replace(one, prompt=prompt) for one, prompt in zip(samples, prompts, strict=True)]


def compared(layout: str) -> set[tuple[str, str]]:
    """(sample, the sample whose response is read behind its prompt)."""
    samples, words = rows(layout), layout.split()
    of_response = {tuple(one.ids): word for one, word in zip(samples, words, strict=True)}
    names = {one.prompt: word[1] for one, word in zip(samples, words, strict=True)}
    return {(names[request.prompt], of_response[tuple(request.ids)]) for request in mismatched(samples)}


def test_single_responses_are_compared_behind_the_next_prompt() -> None:
    assert compared("ca xb cd xe") == {("a", "xe"), ("b", "ca"), ("d", "xb"), ("e", "cd")}


def test_a_response_of_a_pair_is_never_compared_behind_its_own_prompt() -> None:
    """The order is TRL's: all chosen responses of pairs, then all rejected ones."""
    assert compared("ca xa cb xb cd xd") == {
        *(("a", "xd"), ("b", "ca"), ("d", "cb")),
        *(("a", "cd"), ("b", "xa"), ("d", "xb")),
    }
    for layout in ("ca xa xb", "ca ca xa cb", "ca xb xa", "ca cb xa xb"):
        assert all(prompt != response[1] for prompt, response in compared(layout)), layout


@pytest.mark.parametrize("layout", ["ca", "ca xa"])
def test_an_update_of_one_prompt_is_refused(layout: str) -> None:
    with pytest.raises(ConfigError, match="--prompts_per_step"):
        mismatched(rows(layout))


@pytest.mark.parametrize("layout", ["ca xb cd xe", "ca xa cb xb cd xd"])
def test_the_split_of_an_update_changes_neither_the_estimate_nor_the_figures(layout: str) -> None:
    model = tiny_model("qwen2", tiny_tokenizer("qwen2")).double()
    anchor = deepcopy(model)
    method = methods.build("kto")
    assert isinstance(method, Method)
    samples = rows(layout)
    noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    anchor.lm_head.weight.data += 0.3 * noise  # the mismatched responses are likelier under the policy: z_0 is above 0
    groups: dict[str, list[Sample]] = {}
    for one, word in zip(samples, layout.split(), strict=True):
        groups.setdefault(word[1], []).append(one)
    packed = pack(list(groups.values()), method.sources, dtype=torch.float64)
    assert packed is not None
    figures = []
    for budget in (10**6, 12):
        learner = learner_of(method, as_policy(model), as_policy(anchor), budget)
        prepared = prepare_update(learner, packed, is_repeated=False)
        backward = BackwardPass(learner, prepared, 0.0, compares_sampler=False)
        for number, micro in enumerate(prepared.micros):
            backward.run(micro, number)
        backward.readers.policy.finish()
        figures.append(backward.figures | backward.metrics.row())
    assert figures[0]["rewards/margins"] == figures[0]["rewards/chosen"] - figures[0]["rewards/rejected"] != 0
    for name in ("mismatched_kl", "rewards/chosen", "rewards/rejected"):
        assert figures[1][name] == pytest.approx(figures[0][name], rel=1e-9), name
    learner = learner_of(method, as_policy(model), as_policy(anchor), 12)
    assert figures[0]["mismatched_kl"] > 0
    assert figures[0]["mismatched_kl"] == pytest.approx(literal(model, anchor, samples), rel=1e-9)
    assert estimate(learner, packed.rows) == pytest.approx(figures[0]["mismatched_kl"])


@torch.no_grad()
def literal(model: torch.nn.Module, anchor: torch.nn.Module, samples: list[Sample]) -> float:
    """The mean of the mismatched log-ratios, one plain forward pass each."""
    total = 0.0
    for request in mismatched(samples):
        ids, start = [*request.prompt.token_ids, *request.ids], len(request.prompt)
        for sign, of in ((1, model), (-1, anchor)):
            logits = of(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
            picked = logits.log_softmax(-1).gather(1, torch.tensor(request.ids)[:, None])
            total += sign * float(picked.sum())
    return total / len(samples)


def test_the_tokens_of_the_estimate_count(tmp_path: Path) -> None:
    """Policy and initial model read every trained token once more; without the estimate they do not."""
    table = [{"prompt": f"{n}+1=", "completion": str(n + n % 2), "label": bool(n % 2)} for n in range(8)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in table))
    flops, model = {}, save_tiny("qwen2", tmp_path / "model")
    for loss, factor in (("kto", 3), ("apo_zero_unpaired", 1)):
        config = runs.config("kto", tmp_path / loss, model, data, max_steps=1, prompts_per_step=4, loss=loss)
        (row,) = RunFolder(train(config).folder).metrics()
        assert row["num_tokens"] == factor * row["tokens/trained"] > 0
        flops[loss] = row["flops"] / row["tokens/trained"]
        assert ("mismatched_kl" in row) == (loss == "kto")
    # 6 operations per parameter for a trained token, and 2 for each of two models with equally many parameters
    assert flops["kto"] / flops["apo_zero_unpaired"] == pytest.approx(10 / 6)
