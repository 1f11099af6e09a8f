"""Every causal type of transformers as a tiny random model: obverse's log-probs and gradients against plain forwards.

    python tests/architectures.py [TYPE ...]

compares these types, or all of them (about 20 minutes of one CPU core), writes the outcomes into
tests/data/architectures.json and from them the table of docs/models.md. It prints the largest differences in float32.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from architecture_configs import OPTIONS, REMARKS
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import runs
from obverse.errors import ConfigError
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.adapter_io import Origin
from obverse.models.batch import Update, pack
from obverse.models.conformance import EXACT
from obverse.models.float64 import in_float64
from obverse.models.logit_chunks import wide
from obverse.models.lora import LEARNING, Adapter, inject, merged
from obverse.models.policy import Policy, as_policy, logprobs, with_checkpoints
from obverse.models.reduced_model import quiet, randomize, reduced
from obverse.types import ModelInput, Sample, Source

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TABLE = Path(__file__).parent / "data" / "architectures.json"
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- types -->", "<!-- /types -->"
COLUMNS = ("trains", "samples", "prompt shared", "head fused", "LoRA", "checkpointing", "remark")
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "head_dim": 16,
}
NUM_TOKENS = 80  # of a vocabulary: those of pictures are behind them
# Response lengths by prompt length: beyond windows (8), switches (16) and the chunks of linear attention (64).
SHAPE = {2: (5, 31), 14: (2, 3, 17), 58: (13,)}
PROMPTS = (3, 21, 11, 67)  # lengths of sampled prompts
LOGP, GRADIENT = 1e-5, 2e-5  # nats, and of the largest gradient, in float32; EXACT in float64
SAMPLED = 2e-6  # nats, in float64: the log-probs of samples are rounded to float32

# Parts of obverse's messages, and the remark for each: without numbers that differ between machines.
REASONS = {
    "are not causal": "reads later tokens",
    "an encoder and a decoder": "half of an encoder-decoder",
    "two forwards of the same row": "two forward passes differ",
    "in a batch": "depends on its batch",
    "of a sampled token differs": "sampled log-probs differ",
    "no layers that could be computed again": "no layers to checkpoint",
    "own forward pass computes": "unshared: logits by its own forward pass only",
    "rotary frequencies depend on": "unshared: frequencies depend on the length of a row",
    "cannot be padded": "unshared: rows are not padded",
    "continue from a cache": "unshared: reads a cache only token by token",
    "continued from the cache": "unshared: other results after a cached prompt",
}

Results = tuple[dict[int, torch.Tensor], dict[str, torch.Tensor]]
rounding: dict[str, dict[str, float]] = defaultdict(dict)  # the largest difference in float32, by kind and type


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
    by_name = {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
    model.zero_grad()
    return by_name


def plain(model: Any, update: Update) -> Results:
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
    logits = wide(logits[0, len(prompt) - 1 : -1])
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def ours(policy: Policy, update: Update, budget: int, shared: bool = False) -> Results:
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


def gaps(results: Results, expected: Results) -> tuple[float, float]:
    """The largest difference of a log-prob, and that of a gradient over the largest gradient."""
    scale = max(float(gradient.abs().max()) for gradient in expected[1].values())
    assert results[1].keys() == expected[1].keys()
    differences = (results[1][name] - gradient for name, gradient in expected[1].items())
    return logp_gap(results, expected), max(float(difference.abs().max()) for difference in differences) / scale


def logp_gap(results: Results, expected: Results) -> float:
    return max(float((results[0][number] - row).abs().max()) for number, row in expected[0].items())


def sampled_gap(
    model: Any,
    params: SamplingParams,
    prompts: tuple[int, ...],
    num_tokens: int = NUM_TOKENS,
    sampler: HFSampler | None = None,
) -> float:
    """The largest difference between the log-prob that a token was sampled with and that of a plain forward."""
    rng = random.Random(4)
    requests = [
        SamplingRequest(ModelInput(tuple(rng.randrange(3, num_tokens) for _ in range(length))), range(4))
        for length in prompts
    ]
    worst = 0.0
    sampler = sampler or HFSampler(model, 5)
    for request, completions in zip(requests, sampler.sample(requests, params), strict=True):
        for completion in completions:
            with torch.no_grad():
                logp = completion_logps(model, request.prompt, completion.ids)
            worst = max(worst, float((logp - torch.tensor(completion.behavior, dtype=torch.float64)).abs().max()))
    return worst


class Trial:
    """A model of a type, its policy, and the results of plain forward passes over the rows of `SHAPE`."""

    def __init__(self, kind: str, model: Any) -> None:
        self.kind, self.model, self.update = kind, model, batch(SHAPE)
        self.policy = as_policy(model)
        self.cached: dict[torch.dtype, Results] = {}

    def plain(self) -> Results:
        """The results in the model's precision."""
        dtype = next(self.model.parameters()).dtype
        if dtype not in self.cached:
            self.cached[dtype] = plain(self.model, self.update)
        return self.cached[dtype]

    def require(
        self, part: str, compare: Callable[[], tuple[float, float]], *models: Any, exact: float = EXACT
    ) -> None:
        """Raise AssertionError unless `compare` returns two small differences in float32, or tiny ones in float64."""
        single = compare()
        rounding[part][self.kind] = max(rounding[part].get(self.kind, 0.0), *single)
        if single[0] <= LOGP and single[1] <= GRADIENT:
            return
        with in_float64(self.model, *models):
            double = compare()
        if not max(double) <= exact:
            raise AssertionError(f"{self.kind}: {part}: {single} in float32, {double} in float64")


def small(kind: str) -> Any:
    """A model of the type with tiny layers of every kind; raises the class's error where none can be built."""
    options = OPTIONS.get(kind, {})
    copy = None
    with suppress(Exception):  # widths that are no option of the class, or that contradict its other options
        copy = reduced_from(kind, narrowed(kind, options))
    copy = copy or reduced_from(kind, options)
    if copy is None:
        raise ValueError("no small copy of its default configuration")
    randomize(copy, seed=1)
    return copy


def reduced_from(kind: str, options: dict[str, Any]) -> Any | None:
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**options)).eval()
    return reduced(model)


def narrowed(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the widths of `NARROW`, for the text model, where the configuration has them."""
    config = CONFIG_MAPPING[kind](**options)
    text = config.get_text_config(decoder=True)
    widths = {name: width for name, width in NARROW.items() if isinstance(vars(text).get(name), int)}
    if isinstance(vars(text).get("kv_lora_rank"), int):  # latent attention, with widths of its own
        widths = {name: width for name, width in widths.items() if name != "head_dim"}
    heads, groups = vars(text).get("num_attention_heads"), vars(text).get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int):
        widths["num_key_value_heads"] = min(2, groups) if groups < heads else NARROW["num_attention_heads"]
    part = next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
    return options | (widths if part is None else {part: options.get(part, {}) | widths})


def outcome(kind: str) -> dict[str, str]:
    """The row of a type in the table; raises AssertionError if a difference from plain forward passes is too large."""
    try:
        model = small(kind)
    except Exception as error:  # noqa: BLE001  the exception depends on the class
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"trains": "no", "remark": REMARKS.get(kind, f"no model: {lines[-1].strip()}")}
    try:
        trial = Trial(kind, model)
    except ConfigError as error:
        return {"trains": "no", "remark": REMARKS.get(kind, reason(str(error)))}
    policy = trial.policy
    for budget, shared in ((40, False), (10**6, False), *([(60, True), (10**6, True)] if policy.shares else [])):
        trial.require("training", partial(training_gaps, trial, budget, shared))
    row = {"trains": "yes", "prompt shared": "yes" if policy.shares else "no"}
    row["head fused"] = "yes" if policy.layer is not None else "no"
    remarks = [reason(policy.unshared)] if policy.unshared else []
    for column, check in (("samples", sampling), ("LoRA", adapters), ("checkpointing", checkpointing)):
        try:
            row[column] = check(trial)
        except ConfigError as error:
            row[column] = "no"
            remarks.append(reason(str(error)))
    return row | {"remark": "; ".join(remarks)} if remarks else row


def training_gaps(trial: Trial, budget: int, shared: bool) -> tuple[float, float]:
    return gaps(ours(trial.policy, trial.update, budget, shared), trial.plain())


def sampling(trial: Trial) -> str:
    """Compare sampling; returns which completions share forward passes. Raises ConfigError if the sampler refuses."""
    sampler, params = HFSampler(trial.model, 5), SamplingParams((), 16)
    compare = partial(sampled_gap, trial.model, params, PROMPTS, sampler=sampler)
    trial.require("sampling", lambda: (compare(), 0.0), exact=SAMPLED)
    return sampler.path.description


def adapters(trial: Trial) -> str:
    """Compare adapters on the default layers: fresh ones, trained ones, and their merged weights."""
    base, copy, update = deepcopy(trial.model), deepcopy(trial.model), trial.update
    config = runs.config("sft", Path("unused"), "unused", use_peft=True, lora_r=4)
    policy = as_policy(base)
    policy = replace(policy, adapter=Adapter(inject(base, config), LEARNING, Origin("", "", "")))
    base.eval()

    def results() -> Results:
        return ours(policy, update, 10**6, policy.shares)

    def merged_gap() -> tuple[float, float]:
        copy.load_state_dict(merged(policy))
        pairs = ([completion_logps(model, row.prompt, row.ids) for model in (base, copy)] for row in update.rows)
        return max(float((adapted - weights).abs().max()) for adapted, weights in pairs), 0.0

    trial.require("LoRA", lambda: (logp_gap(results(), trial.plain()), 0.0), base)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in policy.adapter.named_parameters():
        if ".lora_B." in name:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    trial.require("LoRA", lambda: gaps(results(), plain(base, update)), base)
    with torch.no_grad():
        trial.require("LoRA", merged_gap, base, copy)
    return "yes"


def checkpointing(trial: Trial) -> str:
    """Compare gradient checkpointing, which has to compute layers again, with the same micro batches without it.

    Raises ConfigError if no layer supports it.
    """
    copy, calls = deepcopy(trial.model), 0
    policy, row = with_checkpoints(as_policy(copy)), batch({5: (7,)})
    layers = [layer for layer in copy.modules() if isinstance(layer, GradientCheckpointingLayer)]

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    parts = [part for layer in layers for part in layer.modules() if part is not layer]
    handles = [part.register_forward_pre_hook(count) for part in parts]
    plain(copy, row)
    without_checkpoints, calls = calls, 0
    ours(policy, row, 10**6)
    for handle in handles:
        handle.remove()
    assert calls > without_checkpoints, f"{trial.kind}: checkpointing: no layer is computed again"
    plain_policy = replace(policy, checkpointed=False)  # compared with plain forward passes as "trains"

    def compare() -> tuple[float, float]:
        return gaps(ours(policy, trial.update, 10**6), ours(plain_policy, trial.update, 10**6))

    trial.require("checkpointing", compare, copy)
    return "yes"


def reason(message: str) -> str:
    """The remark for a refusal: a phrase without measured numbers, or the message itself."""
    if failure := re.search(r"fails \((.*)\)", message):
        return f"its forward pass over tokens or its gradient fails ({failure[1]})"
    return next((remark for text, remark in REASONS.items() if text in message), message)


def rows(table: dict[str, dict[str, str]]) -> str:
    """The table in Markdown, a row for each type."""
    lines = [f"| type | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind, row in sorted(table.items()):
        lines.append(f"| `{kind}` | {' | '.join(row.get(column, '') for column in COLUMNS)} |")
    return "\n".join(lines)


def page(table: dict[str, dict[str, str]]) -> str:
    """docs/models.md with this table."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{rows(table)}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    failures = []
    for kind in sys.argv[1:] or TYPES:
        try:
            table[kind] = outcome(kind)
        except Exception as error:  # noqa: BLE001  all types are compared before the script fails
            failures.append(f"{kind}: {error!r}")
            print(failures[-1], flush=True)
            continue
        measured = {part: f"{by_kind[kind]:.1e}" for part, by_kind in rounding.items() if kind in by_kind}
        print(kind, table[kind], measured, flush=True)
        TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(table), encoding="utf-8")
    for part, by_kind in rounding.items():
        largest = sorted(by_kind, key=lambda kind: -by_kind[kind])[:5]
        print(f"{part}: " + ", ".join(f"{by_kind[kind]:.1e} ({kind})" for kind in largest))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
