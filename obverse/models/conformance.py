"""Tests, per architecture, that obverse's fast paths agree with a plain forward pass over one unpadded row.

Training uses padded micro batches, applies the head's matrix to selected hidden states, looks embeddings up itself and
shares the key-value cache of a prompt. Each fast path is compared with plain forward passes, log-probs and gradients,
on a small random copy of the architecture (`obverse.models.reduced_model`). `obverse.inference.conformance` does the
same for sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto import modeling_auto

from obverse.errors import ConfigError
from obverse.models.batch import Update, pack
from obverse.models.float64 import in_float64
from obverse.models.logit_chunks import wide
from obverse.models.reduced_model import architecture, quiet, reduced
from obverse.models.rope_frequencies import frequency_switches
from obverse.types import ModelInput, Sample, Source

TOLERANCE = 2e-5  # in float32: nats, and relative to the largest gradient; rounding is mostly below a fifth of it
EXACT = 1e-8  # in float64, which decides where float32 differs by more: rounding is 1e-12 there
MAX_ROUNDING = 0.1  # in float32, of shared prompts, which are not worth a trial in float64 if they differ by more
MAX_ERROR = 1e-3  # for a model that is tested itself, which is not converted to float64
MAX_ERROR_BF16 = 5e-2  # the same in bfloat16
# Prompt and response lengths of the test rows: around the length at which a copy's rotary frequencies change, and
# longer than several attention windows.
LENGTHS = ((3, (2, 7)), (9, (3, 7, 8)), (21, (1, 12)), (9, (2, 5)))
ENCODER_DECODERS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)


@dataclass(frozen=True)
class Capabilities:
    """The fast paths that are correct for a model. Lengths are those of a row, prompt and response together."""

    has_head: bool = False  # logits are the output embedding applied to the decoder's last hidden states
    has_table: bool = False  # the decoder takes rows of the embedding table as inputs_embeds
    shares: bool = False  # samples of a prompt can share its cache
    pads_prompts: bool = True  # shared prompts of unequal lengths can be one left-padded batch
    unshared: str = ""  # why samples of a prompt cannot share its cache
    pads: bool = True  # rows of unequal lengths can share a right-padded batch
    switches: Sequence[int] = ()  # rows longer than one of these have different rotary frequencies at all positions
    limit: int | None = None  # beyond this length rotary frequencies depend on earlier forward passes


@dataclass(frozen=True)
class Implementation:
    """The functions under test; passed in, because `obverse.models.policy` imports this module."""

    policy: Callable[[Any, Capabilities], Any]  # as an obverse.models.policy.Policy
    logprobs: Callable[..., tuple[Tensor, Tensor]]  # obverse.models.policy.logprobs


@dataclass(frozen=True)
class RowResults:
    """The log-probs of each row's response, and the gradients of a weighted sum of all log-probs."""

    logps: list[Tensor]
    gradients: dict[str, Tensor]


_capabilities: dict[tuple[type, str], Capabilities | str | None] = {}


def check_architecture(model: Any, implementation: Implementation) -> Capabilities:
    """The capabilities of a model's architecture, tested once per architecture and process on the CPU (about a second).

    The model's weights are not read and may be meta tensors. A model without a small copy is tested itself, on short
    rows. Raises ConfigError for an architecture that no code path computes as plain forward passes do.
    """
    refuse_encoder_decoder(model)
    key = architecture_key(model)
    if key not in _capabilities:
        try:
            _capabilities[key] = _compare_reduced_copy(model, implementation)
        except ConfigError as error:
            _capabilities[key] = str(error)
    outcome = _capabilities[key]
    if isinstance(outcome, str):
        raise ConfigError(outcome)
    return _check_unreduced(model) if outcome is None else outcome


def refuse_encoder_decoder(model: Any) -> None:
    """Raise ConfigError for the files of an encoder-decoder whose decoder was loaded as a causal language model."""
    saved = set(getattr(model.config, "architectures", None) or ()) - {class_name(model)}
    entries = {entry for table in ENCODER_DECODERS for entry in getattr(modeling_auto, table, {}).values()}
    names = {name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)}
    if saved & names:
        raise ConfigError(
            f"the files hold {min(saved & names)}, an encoder and a decoder: its decoder alone ({class_name(model)}) "
            "is another model, and obverse trains causal language models only"
        )


def model_type(model: Any) -> str:
    return str(model.config.get_text_config().model_type)


def class_name(model: Any) -> str:
    return (architecture(model) or type(model)).__name__


def architecture_key(model: Any) -> tuple[type, str]:
    kind, config = architecture(model) or type(model), model.config
    return kind, f"{config._attn_implementation} {config.to_json_string(use_diff=False)}"


def _compare_reduced_copy(model: Any, implementation: Implementation) -> Capabilities | None:
    """The capabilities that hold on a small copy of the model; None for a model without one.

    The fast path is tested first, slower ones where it differs from plain forward passes.
    """
    switches, limit = frequency_switches(model.config)
    with quiet(), torch.enable_grad():
        copy = reduced(model)
        if copy is None:
            return None
        short, end = frequency_switches(copy.config)
        comparison = Comparison(copy, random_rows(copy.config, end), implementation)
        _refuse_unless_causal(copy, comparison.update)
        capabilities = _fastest(comparison, Capabilities(switches=short, limit=end))
        capabilities = _with_fast_paths(comparison, capabilities)
    return replace(capabilities, switches=switches, limit=limit)


class Comparison:
    """Code paths on a small copy, compared with plain forward passes: in float32, and in float64 where these differ."""

    def __init__(self, copy: Any, update: Update, implementation: Implementation) -> None:
        self.copy, self.update, self.implementation = copy, update, implementation
        self.plain = _run_reference(copy, update)
        self.plain_float64: RowResults | None = None

    def excess(self, capabilities: Capabilities) -> float:
        """The difference of a code path from plain forward passes if it is more than rounding; 0 otherwise."""
        difference = _difference(self.copy, capabilities, self.update, self.plain, self.implementation)
        if difference <= TOLERANCE:
            return 0.0
        if difference >= (MAX_ROUNDING if capabilities.shares else float("inf")):  # inf: the model's code fails
            return difference
        with in_float64(self.copy):  # some architectures amplify rounding, and experts can be chosen by it
            if self.plain_float64 is None:
                self.plain_float64 = _run_reference(self.copy, self.update)
            difference = _difference(self.copy, capabilities, self.update, self.plain_float64, self.implementation)
        return difference if difference > EXACT else 0.0


def _fastest(comparison: Comparison, capabilities: Capabilities) -> Capabilities:
    """The fastest path that agrees with plain forward passes. Raises ConfigError if none does."""
    least = float("inf")
    for pads, head in ((True, True), (True, False), (False, True), (False, False)):
        candidate = replace(capabilities, has_head=head, pads=pads)
        difference = comparison.excess(candidate)
        if difference <= 0.0:
            return candidate
        least = min(least, difference)
    raise ConfigError(
        f"models of type {model_type(comparison.copy)!r} cannot be trained here: in a batch, a token's log-prob or "
        f"gradient differs by {least:.1g} from that of a plain forward of its row"
    )


def _with_fast_paths(comparison: Comparison, capabilities: Capabilities) -> Capabilities:
    """The capabilities with `has_table` and `shares` where these paths are correct, and else the reason in `unshared`.

    Both paths are tried together first, because a forward pass of recurrent layers takes seconds on a CPU.
    """
    reason = _unshareable(capabilities)
    is_plain = capabilities.has_head and _is_plain(comparison.copy.get_input_embeddings())
    with_table = replace(capabilities, has_table=is_plain)
    least = float("inf") if reason else comparison.excess(replace(with_table, shares=True))
    if least <= 0.0:
        return replace(with_table, shares=True)
    has_table = with_table.has_table and comparison.excess(with_table) <= 0.0
    capabilities = replace(with_table, has_table=has_table, unshared=reason)
    if reason:
        return capabilities
    for pads_prompts in (False,) if has_table == with_table.has_table else (True, False):
        candidate = replace(capabilities, shares=True, pads_prompts=pads_prompts)
        least = min(least, excess := comparison.excess(candidate))
        if excess <= 0.0:
            return candidate
    if least == float("inf"):
        return replace(capabilities, unshared="this model cannot continue from a cache over several tokens")
    reason = f"continued from the cache of a prompt, this model's log-probs or gradients differ by {least:.1g}"
    return replace(capabilities, unshared=reason)


def _is_plain(table: Any) -> bool:
    """Whether an embedding is a lookup of its weight's rows and nothing else."""
    plain = type(table) is torch.nn.Embedding
    return plain and table.max_norm is None and not table.scale_grad_by_freq and not table.sparse


def _unshareable(capabilities: Capabilities) -> str:
    """Why prompts cannot be shared whatever the cache holds; "" if they may be."""
    if capabilities.switches:  # a prompt alone is shorter than its row and may have other frequencies
        return "this model's rotary frequencies depend on the length of the whole row"
    return "" if capabilities.pads else "rows of this model cannot be padded"


def _check_unreduced(model: Any) -> Capabilities:
    """The slowest code path for a model without a small copy, tested on the model itself unless it has meta tensors."""
    switches, limit = frequency_switches(model.config)
    capabilities = Capabilities(
        switches=switches, limit=limit, unshared="there is no small copy of this model to test it on"
    )
    if any(parameter.is_meta for parameter in model.parameters()):
        return capabilities
    with quiet(), torch.no_grad(), refusing_failures(model):
        rows = [list(row.model_input.token_ids) for row in random_rows(model.config, None).rows[:3]]
        alone = [plain_logits(model, row).log_softmax(-1) for row in rows]
        last = plain_logits(model, [*rows[2][:-1], rows[2][0]]).log_softmax(-1)
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        together = model(input_ids=padded, use_cache=False).logits.float().log_softmax(-1)
        allowed = MAX_ERROR if model.dtype in (torch.float32, torch.float64) else MAX_ERROR_BF16
        later = float((alone[2][:-1] - last[:-1]).abs().max())
        if later > allowed:
            raise ConfigError(_not_causal(model, later))
        differs = max(float((one - two[: len(one)]).abs().max()) for one, two in zip(alone, together, strict=True))
        return replace(capabilities, pads=differs <= allowed)


@contextmanager
def refusing_failures(model: Any) -> Iterator[None]:
    """Turn an error of the model's forward passes inside, except for exhausted memory, into a ConfigError."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001  needing more than token ids, or impossible sizes, shows as any error
        raise ConfigError(_no_forward(model, error)) from None


def _no_forward(model: Any, error: Exception) -> str:
    return (
        f"models of type {model_type(model)!r} as configured here cannot be trained: a forward of {class_name(model)} "
        f"over the tokens of one row, or its gradient, fails ({first_line(error)})"
    )


def _not_causal(model: Any, worst: float) -> str:
    return (
        f"models of type {model_type(model)!r} as configured here are not causal: another later token changes the "
        f"log-probs before it by {worst:.1g} (an encoder, or a decoder without is_decoder=True)"
    )


def random_rows(config: Any, end: int | None) -> Update:
    """Ragged rows of random tokens, including padding, beginning and end tokens. Rows are at most `end` tokens long."""
    text = config.get_text_config(decoder=True)
    special = {
        value
        for part in {id(config): config, id(text): text}.values()
        for name, value in vars(part).items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    ends = [getattr(text, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")]
    end_ids = [0, *(token for token in ends if isinstance(token, int) and 0 <= token < text.vocab_size)]
    generator = torch.Generator().manual_seed(0)
    ordinary = torch.tensor([token for token in range(text.vocab_size) if token not in special])

    def draw(number: int) -> list[int]:
        picked: list[int] = ordinary[torch.randint(len(ordinary), (number,), generator=generator)].tolist()
        return picked

    groups: list[list[Sample]] = []
    for prompt_length, lengths in LENGTHS:
        prompt = ModelInput(tuple(draw(prompt_length)))
        responses = [draw(length) for length in lengths if end is None or prompt_length + length <= end]
        if responses and len(responses[-1]) > len(end_ids):
            responses[-1][1 : 1 + len(end_ids)] = end_ids
        groups.append(
            [Sample("rollout", prompt, ids, [Source.ROLLOUT] * len(ids), [0.0] * len(ids), "") for ids in responses]
        )
    update = pack(groups, frozenset({Source.ROLLOUT}))
    assert update is not None
    return update


def plain_logits(model: Any, row: Sequence[int]) -> Tensor:
    """The logits of one unpadded row, in one forward pass without a cache; [L, V]."""
    ids = torch.tensor([list(row)], device=model.device)
    return wide(model(input_ids=ids, use_cache=False).logits[0])


def _run_reference(model: Any, update: Update) -> RowResults:
    """Each row in a forward pass of its own. Raises ConfigError for a model that fails at it."""
    logps, loss = [], torch.zeros(())
    model.zero_grad(set_to_none=True)
    with refusing_failures(model):
        for number, row in enumerate(update.rows):
            logits = plain_logits(model, row.model_input.token_ids)[len(row.prompt) - 1 : -1]
            logp = logits.log_softmax(-1).gather(-1, torch.tensor(row.ids)[:, None])[:, 0]
            loss = loss + (logp * _weights(number, len(row.ids))).sum()
            logps.append(logp.detach())
        loss.backward()
    return RowResults(logps, _pop_gradients(model))


def _refuse_unless_causal(model: Any, update: Update) -> None:
    """Raise ConfigError where two forward passes of a row differ, or a log-prob depends on later tokens."""
    unequal, later = _causal_differences(model, update)
    if max(unequal, later) > TOLERANCE:
        with in_float64(model):
            unequal, later = _causal_differences(model, update)
        if unequal > EXACT:
            raise ConfigError(
                f"models of type {model_type(model)!r} cannot be trained here: two forwards of the same row differ by "
                f"{unequal:.1g}"
            )
        if later > EXACT:
            raise ConfigError(_not_causal(model, later))


@torch.no_grad()
def _causal_differences(model: Any, update: Update) -> tuple[float, float]:
    """How much logits differ between two forward passes of a row, and log-probs before a token that is changed."""
    unequal = later = 0.0
    rows = [row.model_input.token_ids for row in update.rows]
    for ids in (rows[0], max(rows, key=len)):
        first, again = plain_logits(model, ids), plain_logits(model, ids)
        unequal = max(unequal, float((first - again).abs().max()))
        for start in {len(ids) - 1, len(ids) // 2} - {0}:
            changed = [*ids[:start], *(ids[0] for _ in ids[start:])]
            changed[start] = ids[0] if ids[0] != ids[start] else ids[1]
            logps = plain_logits(model, changed)[:start].log_softmax(-1)
            later = max(later, float((logps - first[:start].log_softmax(-1)).abs().max()))
    return unequal, later


def _difference(
    model: Any, capabilities: Capabilities, update: Update, plain: RowResults, implementation: Implementation
) -> float:
    """The largest difference from plain forward passes, of log-probs and relative gradients; infinite for a failure."""
    try:
        ours = _run_policy(implementation.policy(model, capabilities), update, implementation)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  a path that the model's code does not allow fails with any error
        return float("inf")
    gaps = [float((a - b).abs().max()) for a, b in zip(ours.logps, plain.logps, strict=True)]
    scale = max(float(gradient.abs().max()) for gradient in plain.gradients.values())
    for name in plain.gradients.keys() | ours.gradients.keys():
        pair = [gradients[name] for gradients in (plain.gradients, ours.gradients) if name in gradients]
        gap = pair[0] - pair[1] if len(pair) == 2 else pair[0]
        gaps.append(float(gap.abs().max()) / scale)
    return max((gap if gap == gap else float("inf")) for gap in gaps)


def _run_policy(policy: Any, update: Update, implementation: Implementation) -> RowResults:
    """All rows in one micro batch (or one per length of prompts), by the code that trains a policy."""
    policy.model.zero_grad(set_to_none=True)
    reader = policy.prompt_reader()
    logps = [torch.zeros(len(row.ids)) for row in update.rows]
    for micro in update.micros(10**6, shared=policy.shares, pads_prompts=policy.pads_prompts):
        logp, _ = implementation.logprobs(policy, micro, reader=reader)
        loss = torch.zeros(())
        for sample in set(micro.tokens.sample.tolist()):
            in_sample = micro.tokens.sample == sample
            loss = loss + (logp[in_sample] * _weights(sample, int(in_sample.sum()))).sum()
            logps[sample] = logp[in_sample].detach()
        loss.backward()
    reader.finish()
    return RowResults(logps, _pop_gradients(policy.model))


def _weights(sample: int, number: int) -> Tensor:
    """The weights of a sample's log-probs in the differentiated sum: a different number for each token."""
    return torch.cos(torch.arange(number) * 2.0 + sample * 7.0)


def _pop_gradients(model: Any) -> dict[str, Tensor]:
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.120}" if lines else type(error).__name__
