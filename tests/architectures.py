"""Every causal type of transformers, small and random: obverse's numbers against plain forwards, row by row.

    python tests/architectures.py [TYPE ...]

tries these types, or all (some minutes), writes what came out into tests/data/architectures.json, and from all that
stands there the lists of docs/models.md.
"""

from __future__ import annotations

import json
import random
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from obverse.errors import ConfigError
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.batch import Update, pack
from obverse.models.policy import Policy, as_policy, logprobs
from obverse.models.reduced_model import quiet, randomize, reduced
from obverse.types import ModelInput, Sample, Source

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TABLE = Path(__file__).parent / "data" / "architectures.json"
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- types -->", "<!-- /types -->"
NUM_TOKENS = 80  # of a vocabulary: those that stand for pictures are behind them
SHAPE = {2: (5, 31), 14: (2, 3, 17), 25: (1, 11)}  # response lengths by prompt length
LOGP, GRADIENT, SAMPLE = 1e-4, 1e-4, 1e-3  # nats, of the largest gradient, nats

# What a message says, and the word for it in the table.
REASONS = {
    "are not causal": "reads later tokens",
    "an encoder and a decoder": "half of an encoder-decoder",
    "no small copy": "no small copy",
    "fails": "wants more than tokens",
    "in a batch": "depends on its batch",
    "more than keys and values": "keeps more than keys and values",
    "differs by": "reads no padded cache",
    "does not read a padded cache": "reads no padded cache",
}
UNMADE = "no model from its default configuration"

# What the default configuration of a type lacks, though its published models have it.
LACKING: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"kv_n_heads": 8, "rope_theta": 500000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    **{
        f"granite{name}": {"attention_multiplier": 0.015625}  # 1 makes rounding visible
        for name in ("", "_swa", "moe", "moe_swa", "moehybrid", "moeshared")
    },
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128},
    "xmod": {"default_language": "en_XX"},
}

Found = tuple[dict[int, torch.Tensor], dict[str, torch.Tensor]]


def batch(shape: dict[int, tuple[int, ...]], num_tokens: int = NUM_TOKENS) -> Update:
    """A problem for each prompt length, with responses of these lengths."""
    rng = random.Random(3)
    groups = []
    for length, responses in shape.items():
        prompt = ModelInput(tuple(rng.randrange(3, num_tokens) for _ in range(length)))
        group = []
        for number in responses:
            ids = [rng.randrange(3, num_tokens) for _ in range(number)]
            group.append(Sample("rollout", prompt, ids, [Source.ROLLOUT] * number, [0.0] * number, ""))
        groups.append(group)
    update = pack(groups, frozenset({Source.ROLLOUT}))
    assert update is not None
    return update


def weight(sample: int, number: int) -> torch.Tensor:
    return torch.sin(torch.arange(number) * 3.0 + sample)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def plain(model: Any, update: Update) -> Found:
    """Log-probs by sample, and the gradient of a weighted sum of them, by a forward for each unpadded row."""
    model.zero_grad()
    logps, loss = {}, torch.zeros(())
    for number, row in enumerate(update.rows):
        logps[number] = completion_logps(model, row.prompt, row.ids)
        loss = loss + (logps[number] * weight(number, len(row.ids))).sum()
    loss.backward()
    return {number: logp.detach() for number, logp in logps.items()}, gradients(model)


def completion_logps(model: Any, prompt: ModelInput, ids: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt.extended(ids).token_ids]), use_cache=False).logits
    logits = logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def ours(policy: Policy, update: Update, budget: int, shared: bool = False) -> Found:
    """The same by micro batches of `budget` tokens."""
    policy.model.zero_grad()
    logps, reader = {}, policy.prompt_reader()
    for micro in update.micros(budget, shared=shared, pads_prompts=policy.pads_prompts):
        logp, _ = logprobs(policy, micro, reader=reader)
        loss = torch.zeros(())
        for sample in set(micro.tokens.sample.tolist()):
            logps[sample] = logp[micro.tokens.sample == sample]
            loss = loss + (logps[sample] * weight(sample, len(logps[sample]))).sum()
        loss.backward()
    reader.finish()
    return {number: logp.detach() for number, logp in logps.items()}, gradients(policy.model)


def gaps(found: Found, expected: Found) -> tuple[float, float]:
    """The largest difference of a log-prob, and that of a gradient over the largest gradient."""
    logp = max(float((found[0][number] - each).abs().max()) for number, each in expected[0].items())
    scale = max(float(each.abs().max()) for each in expected[1].values())
    assert found[1].keys() == expected[1].keys()
    return logp, max(float((found[1][name] - each).abs().max()) for name, each in expected[1].items()) / scale


def sampled_gap(model: Any, params: SamplingParams, prompts: tuple[int, ...], num_tokens: int = NUM_TOKENS) -> float:
    """The largest difference between the log-prob that a token was sampled with and that of a plain forward."""
    rng = random.Random(4)
    requests = [
        SamplingRequest(ModelInput(tuple(rng.randrange(3, num_tokens) for _ in range(length))), range(4))
        for length in prompts
    ]
    worst = 0.0
    for request, drawn in zip(requests, HFSampler(model, 5).sample(requests, params), strict=True):
        for each in drawn:
            with torch.no_grad():
                logp = completion_logps(model, request.prompt, each.ids)
            worst = max(worst, float((logp - torch.tensor(each.behavior)).abs().max()))
    return worst


def small(kind: str) -> Any | None:
    """A model of the type as transformers configures it by default, made small; None where it makes none."""
    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**LACKING.get(kind, {}))).eval()
    except Exception:  # noqa: BLE001  a default that its class does not take, or a library that is not here
        return None
    copy = reduced(model)
    if copy is not None:
        randomize(copy, seed=1)
    return copy


def outcome(kind: str) -> dict[str, str]:
    """What obverse does with a type; AssertionError where its numbers differ from plain ones and nothing is said."""
    model = small(kind)
    if model is None:
        return {"training": UNMADE, "sampling": UNMADE}
    update, told = batch(SHAPE), {}
    try:
        policy = as_policy(model)
    except ConfigError as error:
        return {"training": reason(error), "sampling": reason(error)}
    for budget, shared in ((40, False), (10**6, False), *([(10**6, True)] if policy.shares else [])):
        for number_type in (torch.float32, torch.float64):  # where rounding alone makes the difference
            model.to(number_type)
            logp, gradient = gaps(ours(policy, update, budget, shared), plain(model, update))
            if logp < LOGP and gradient < GRADIENT:
                break
        else:
            raise AssertionError(f"{kind}: {budget} tokens, shared={shared}: {logp}, {gradient}")
        model.float()
    told["training"] = "right"
    told["prompts"] = "computed once" if policy.shares else "computed for each sample"
    told["head"] = "matrix" if policy.layer is not None else "capped or biased" if policy.head else "whole model"
    try:
        gap = sampled_gap(model, SamplingParams((), 24), (3, 21, 11))
    except ConfigError as error:
        return told | {"sampling": reason(error)}
    assert gap < SAMPLE, f"{kind}: sampled log-probs differ by {gap}"
    return told | {"sampling": "right"}


def reason(error: ConfigError) -> str:
    return next(word for text, word in REASONS.items() if text in str(error))


def lists(table: dict[str, dict[str, str]]) -> str:
    """The part of docs/models.md that the table writes."""
    groups: dict[str, list[str]] = {}
    for kind, told in sorted(table.items()):
        if told["training"] == "right" == told["sampling"]:
            title = "Trained and sampled"
        elif told["training"] == "right":
            title = f"Trained, not sampled by the embedded sampler: it {told['sampling']}"
        elif told["training"] == UNMADE:
            title = "Not in this table: transformers' default configuration of the type makes no small model"
        else:
            title = f"Refused: it {told['training']}"
        groups.setdefault(title, []).append(f"`{kind}`")
    request = sorted(groups, key=lambda title: (not title.startswith("Trained and"), title[:2] != "Tr", title))
    texts = [f"**{title}** ({len(groups[title])}): {', '.join(groups[title])}." for title in request]
    return "\n\n".join(textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False) for text in texts)


def page(table: dict[str, dict[str, str]]) -> str:
    """docs/models.md as the table has it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{lists(table)}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    wrong = []
    for kind in sys.argv[1:] or TYPES:
        try:
            table[kind] = outcome(kind)
        except AssertionError as error:
            wrong.append(str(error))
            continue
        print(kind, table[kind], flush=True)
        TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(table), encoding="utf-8")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
