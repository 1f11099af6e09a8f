"""Whether obverse's ways to compute a model give what one plain forward of a single row gives; tried, not believed.

Training reads padded micro batches, scores with the head's matrix alone, embeds by a table of its own and reads prompts
from a cache; the sampler reads left-padded rows from another one. Each is compared, log-probs and gradients, with plain
forwards on a small random copy of the architecture (`obverse.models.reduced_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.models.auto import modeling_auto

from obverse.errors import ConfigError
from obverse.models.batch import Update, pack
from obverse.models.reduced_model import architecture, quiet, reduced
from obverse.models.rope_frequencies import spans
from obverse.models.shared_prefix import Reader
from obverse.types import ModelInput, Sample, Source

TOLERANCE = 1e-4  # nats, and of the largest gradient; rounding in float32 mostly stays below a tenth of it
# What is refused differs by more: attention scores without their usual divisor make rounding ten times as large.
WRONG = 1e-3
ROUNDED = 5e-2  # the same for a model in bfloat16 that is tried as it is
# Prompt and response lengths of the rows that are tried: around the length at which a copy's rotary frequencies change,
# and several windows long.
LENGTHS = ((3, (2, 7)), (9, (3, 7, 8)), (21, (1, 12)))
ENCODER_DECODERS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)


@dataclass(frozen=True)
class Traits:
    """What trying a model has shown. Lengths are those of a row, prompt and response together."""

    has_head: bool = False  # its logits are its head's of its decoder's states
    has_table: bool = False  # its decoder takes the embedding's rows in place of the ids
    shares: bool = False  # prompts may be computed once for all their samples
    pads: bool = True  # rows of unequal lengths may stand in one padded batch
    switches: Sequence[int] = ()  # a row longer than this has other rotary frequencies in all its positions
    limit: int | None = None  # longer rows have frequencies that depend on what was read before them


@dataclass(frozen=True)
class Ways:
    """The code that is tried, handed in by the module that has it."""

    policy: Callable[[Any, Traits], Any]  # a model with these traits as an obverse.models.policy.Policy
    logprobs: Callable[..., tuple[Tensor, Tensor]]  # obverse.models.policy.logprobs


@dataclass(frozen=True)
class Reading:
    """What some rows gave: log-probs of each row's response, and the gradients of a weighted sum of them all."""

    logps: list[Tensor]
    gradients: dict[str, Tensor]


_traits: dict[tuple[type, str], Traits | str | None] = {}


def conforming(model: Any, ways: Ways) -> Traits:
    """The traits of a model's architecture. ConfigError for one that cannot be trained as plain forwards compute it.

    Tried once per architecture in a process, on the CPU: about a second. The weights are not read, so that they may be
    meta tensors. A model of which there is no small copy is tried as it is, with short rows.
    """
    refuse_halves(model)
    key = architecture_key(model)
    if key not in _traits:
        try:
            _traits[key] = _tried(model, ways)
        except ConfigError as error:
            _traits[key] = str(error)
    known = _traits[key]
    if isinstance(known, str):
        raise ConfigError(known)
    return _as_it_is(model) if known is None else known


def refuse_halves(model: Any) -> None:
    """ConfigError where the files are those of an encoder-decoder, of which a causal language model is one half."""
    saved = set(getattr(model.config, "architectures", None) or ()) - {class_name(model)}
    both = {name for table in ENCODER_DECODERS for name in getattr(modeling_auto, table, {}).values()}
    halved = saved & {each for name in both for each in ([name] if isinstance(name, str) else name)}
    if halved:
        raise ConfigError(
            f"the files hold {min(halved)}, an encoder and a decoder: its decoder alone ({class_name(model)}) is "
            "another model, and obverse trains causal language models only"
        )


def model_type(model: Any) -> str:
    return str(model.config.get_text_config().model_type)


def class_name(model: Any) -> str:
    return (architecture(model) or type(model)).__name__


def architecture_key(model: Any) -> tuple[type, str]:
    kind, config = architecture(model) or type(model), model.config
    return kind, f"{config._attn_implementation} {config.to_json_string(use_diff=False)}"


def _tried(model: Any, ways: Ways) -> Traits | None:
    """Plain forwards first, then each way of obverse's, the slower one where the faster one differs.

    None for a model without a small copy.
    """
    switches, limit = spans(model.config)
    with quiet(), torch.enable_grad():
        copy = reduced(model)
        if copy is None:
            return None
        short, end = spans(copy.config)
        update = random_rows(copy.config, end)
        for kind in (torch.float32, torch.float64):  # some architectures make much of rounding
            plain = _plain(copy.to(kind), update)
            _refuse_unless_causal(copy, update)
            traits, least = _nearest(copy, Traits(switches=short, limit=end), update, plain, ways)
            if least <= WRONG:
                break
        else:
            raise ConfigError(
                f"models of type {model_type(model)!r} cannot be trained here: in a batch, a token's log-prob or "
                f"gradient differs by {least:.1g} from that of a plain forward of its row"
            )
        for name in ("has_table", "shares"):
            each = replace(traits, has_table=True) if name == "has_table" else replace(traits, shares=True)
            if (
                traits.has_head
                and _may(copy, name, traits)
                and _difference(copy, each, update, plain, ways) <= TOLERANCE
            ):
                traits = each
    return replace(traits, switches=switches, limit=limit)


def _nearest(copy: Any, traits: Traits, update: Update, plain: Reading, ways: Ways) -> tuple[Traits, float]:
    """The fastest way that agrees with plain forwards, or the one that comes nearest, and how far it is from them."""
    best, least = traits, float("inf")
    for pads, head in ((True, True), (True, False), (False, True), (False, False)):
        each = replace(traits, has_head=head, pads=pads)
        differs = _difference(copy, each, update, plain, ways)
        if differs < least:
            best, least = each, differs
        if differs <= TOLERANCE:
            break
    return best, least


def _as_it_is(model: Any) -> Traits:
    """The slowest ways for a model that is not tried on a copy; without numbers (meta tensors) nothing is tried."""
    switches, limit = spans(model.config)
    traits = Traits(switches=switches, limit=limit)
    if any(each.is_meta for each in model.parameters()):
        return traits
    with quiet(), torch.no_grad():
        rows = [list(row.model_input.token_ids) for row in random_rows(model.config, None).rows[:3]]
        try:
            alone = [plain_logits(model, row).log_softmax(-1) for row in rows]
            last = plain_logits(model, [*rows[2][:-1], rows[2][0]]).log_softmax(-1)
            width = max(map(len, rows))
            padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
            together = model(input_ids=padded, use_cache=False).logits.float().log_softmax(-1)
        except Exception as error:  # noqa: BLE001  a forward that wants more than tokens fails in whatever way it has
            raise ConfigError(_no_forward(model, error)) from None
        allowed = WRONG if model.dtype in (torch.float32, torch.float64) else ROUNDED
        later = float((alone[2][:-1] - last[:-1]).abs().max())
        if later > allowed:
            raise ConfigError(_not_causal(model, later))
        differs = max(float((one - two[: len(one)]).abs().max()) for one, two in zip(alone, together, strict=True))
        return replace(traits, pads=differs <= allowed)


def _no_forward(model: Any, error: Exception) -> str:
    return (
        f"models of type {model_type(model)!r} cannot be trained here: a forward of {class_name(model)} over the "
        f"tokens of one row, or its gradient, fails ({first_line(error)})"
    )


def _not_causal(model: Any, worst: float) -> str:
    return (
        f"models of type {model_type(model)!r} as configured here are not causal: another later token changes the "
        f"log-probs before it by {worst:.1g} (an encoder, or a decoder without is_decoder=True)"
    )


def _may(copy: Any, name: str, traits: Traits) -> bool:
    """Whether a trait is worth trying: its way would fail otherwise, or be right by chance."""
    if name == "has_table":
        table = copy.get_input_embeddings()
        plain = type(table) is torch.nn.Embedding
        return plain and table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
    if traits.switches or not traits.pads:
        return False  # a prompt read alone is shorter than its row
    layers = DynamicCache(config=copy.config.get_text_config(decoder=True)).layers
    return all(type(layer) is DynamicLayer for layer in layers)  # others forget what a response would attend to


def random_rows(config: Any, end: int | None) -> Update:
    """Ragged rows of random tokens, among them those that stand for padding and the ends of texts."""
    text = config.get_text_config(decoder=True)
    special = {
        value
        for part in {id(each): each for each in (config, text)}.values()
        for name, value in vars(part).items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    ends = [getattr(text, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")]
    texts_end = [0, *(each for each in ends if isinstance(each, int) and 0 <= each < text.vocab_size)]
    generator = torch.Generator().manual_seed(0)
    ordinary = torch.tensor([each for each in range(text.vocab_size) if each not in special])

    def draw(number: int) -> list[int]:
        picked: list[int] = ordinary[torch.randint(len(ordinary), (number,), generator=generator)].tolist()
        return picked

    groups: list[list[Sample]] = []
    for prompt_length, lengths in LENGTHS:
        prompt = ModelInput(tuple(draw(prompt_length)))
        responses = [draw(each) for each in lengths if end is None or prompt_length + each <= end]
        if responses and len(responses[-1]) > len(texts_end):
            responses[-1][1 : 1 + len(texts_end)] = texts_end
        groups.append(
            [Sample("rollout", prompt, ids, [Source.ROLLOUT] * len(ids), [0.0] * len(ids), "") for ids in responses]
        )
    update = pack(groups, frozenset({Source.ROLLOUT}))
    assert update is not None
    return update


def plain_logits(model: Any, row: Sequence[int]) -> Tensor:
    """[L, V] of one unpadded row, in one forward without a cache."""
    ids = torch.tensor([list(row)], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


def _plain(model: Any, update: Update) -> Reading:
    """Each row by a forward of its own. ConfigError for a model that has none."""
    logps, loss = [], torch.zeros(())
    model.zero_grad(set_to_none=True)
    try:
        for number, row in enumerate(update.rows):
            logits = plain_logits(model, row.model_input.token_ids)[len(row.prompt) - 1 : -1]
            logp = logits.log_softmax(-1).gather(-1, torch.tensor(row.ids)[:, None])[:, 0]
            loss = loss + (logp * _weights(number, len(row.ids))).sum()
            logps.append(logp.detach())
        loss.backward()
    except Exception as error:  # noqa: BLE001  a forward that wants more than tokens fails in whatever way it has
        raise ConfigError(_no_forward(model, error)) from None
    return Reading(logps, _taken(model))


def _refuse_unless_causal(model: Any, update: Update) -> None:
    """ConfigError where two forwards of one row differ, or a token's log-prob depends on tokens behind it."""
    worst = 0.0
    with torch.no_grad():
        for number in (0, len(update.rows) - 1):
            row = update.rows[number]
            ids = row.model_input.token_ids
            first, again = plain_logits(model, ids), plain_logits(model, ids)
            unequal = float((first - again).abs().max())
            if unequal > WRONG:
                raise ConfigError(
                    f"models of type {model_type(model)!r} cannot be trained here: two forwards of the same row differ "
                    f"by {unequal:.1g}"
                )
            for place in {len(ids) - 1, len(ids) // 2}:
                other = [*ids[:place], *(ids[0] for _ in ids[place:])]
                other[place] = ids[0] if ids[0] != ids[place] else ids[1]
                later = (plain_logits(model, other)[:place].log_softmax(-1) - first[:place].log_softmax(-1)).abs()
                worst = max(worst, float(later.max()) if place else 0.0)
    if worst > WRONG:
        raise ConfigError(_not_causal(model, worst))


def _difference(model: Any, traits: Traits, update: Update, plain: Reading, ways: Ways) -> float:
    """The largest difference of obverse's reading from the plain one; infinite where it fails."""
    try:
        ours = _read(ways.policy(model, traits), update, traits.shares, ways)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  a way that the model's code does not allow fails in whatever way it has
        return float("inf")
    gaps = [float((a - b).abs().max()) for a, b in zip(ours.logps, plain.logps, strict=True)]
    scale = max(float(each.abs().max()) for each in plain.gradients.values())
    for name in plain.gradients.keys() | ours.gradients.keys():
        pair = [each[name] for each in (plain.gradients, ours.gradients) if name in each]
        gap = pair[0] - pair[1] if len(pair) == 2 else pair[0]
        gaps.append(float(gap.abs().max()) / scale)
    return max((each if each == each else float("inf")) for each in gaps)


def _read(policy: Any, update: Update, shared: bool, ways: Ways) -> Reading:
    """All rows in one micro batch, as a policy with these traits reads them."""
    policy.model.zero_grad(set_to_none=True)
    reader = Reader(policy.model, policy.table)
    logps = [torch.zeros(len(row.ids)) for row in update.rows]
    for micro in update.micros(10**6, shared=shared):
        logp, _ = ways.logprobs(policy, micro, reader=reader)
        loss = torch.zeros(())
        for sample in set(micro.tokens.sample.tolist()):
            own = micro.tokens.sample == sample
            loss = loss + (logp[own] * _weights(sample, int(own.sum()))).sum()
            logps[sample] = logp[own].detach()
        loss.backward()
    reader.finish()
    return Reading(logps, _taken(policy.model))


def _weights(sample: int, number: int) -> Tensor:
    """What the log-probs of a sample count in the sum that is differentiated: another number for each token."""
    return torch.cos(torch.arange(number) * 2.0 + sample * 7.0)


def _taken(model: Any) -> dict[str, Tensor]:
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.120}" if lines else type(error).__name__
