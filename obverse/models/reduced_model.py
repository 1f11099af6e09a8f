"""A small copy of a model's architecture with random weights: the same code, few layers, narrow, short windows.

Whether a model is correct on padded batches, with a key-value cache or in parts can be tested on the copy in
milliseconds, beyond every length at which the architecture behaves differently, independent of the real weights.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from obverse.models.rope_frequencies import rope_dicts

MAX_PARAMETERS = 80_000_000  # of a copy: 320 MB in float32
DEPTHS = (4, 8, 16)  # numbers of layers to try, before all of them
POSITIONS = 512  # of a copy; test rows have at most 64 tokens
SWITCH = 16  # the length at which a copy's rotary frequencies change, if the model's change with length
WINDOW = 8  # of sliding and chunked attention, and of scans by chunks

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "attention_window_size",
    "window_size",
    "local_attention",
    "index_topk",
    "indexer_budget",
    "chunk_size",
    "mamba_chunk_size",
    "block_size",
    "index_block_size",
    "rel_extent",
)
SWITCHES = ("original_max_position_embeddings", "floor_scale", "log_scaling_n_floor")  # positions where scales begin

FORWARD = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num")
ROUTED = ("num_experts_per_tok", "moe_topk", "moe_top_k", "n_group", "topk_group", "index_topk_blocks")
# Sizes of the states of Mamba layers, on which the cost of their scan over tokens depends.
STATE_SIZES = ("mamba_d_state", "state_size", "ssm_state_size")
STATE = 4
# A larger table costs memory and does not affect the tests.
VOCABULARY = 512


def reduced(model: Any) -> Any | None:
    """A small copy on the CPU, in float32 and in evaluation mode, with every kind and class of layer that `model` has.

    If no smaller configuration gives such a copy, it is a copy of the whole model, or None if the model is large. Only
    in that case are the weights read; otherwise they may be meta tensors.
    """
    classes, kinds = _classes(model), _layer_kinds(model)
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        for narrow in (True, False):
            for depth in (*DEPTHS, 10**6):
                copy = _built(model, narrow, depth)
                if copy is None or _classes(copy) != classes or _layer_kinds(copy) != kinds:
                    continue
                if _runs(copy):
                    return copy
        return _whole(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and transformers' log messages inside: they are about a copy, not about the user's model."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def randomize(model: Any, seed: int = 0) -> None:
    """Add noise to every weight: products with a zero would hide errors in the other factor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim >= 2 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def architecture(module: Any) -> type | None:
    """A module's class in transformers' model files, from which a sharded class inherits; None for other modules."""
    kinds = (kind for kind in type(module).__mro__ if kind.__module__.startswith("transformers.models."))
    return next(kinds, None)


def _classes(model: Any) -> set[type | None]:
    """The architectures of all modules, without those of a quantization or an adapter."""
    return {architecture(module) for module in model.modules()} - {None}


def _layer_kinds(model: Any) -> set[str]:
    """The types of a text model's layers, by its configuration: one class can be full or sliding attention."""
    return set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())


def _built(model: Any, narrow: bool, depth: int) -> Any | None:
    """A model of the same class with a smaller configuration; None if the class does not support it."""
    kind: Any = architecture(model) or type(model)
    try:
        config = _smaller(model.config, narrow, depth)
        with torch.device("meta"):
            outline = kind._from_config(deepcopy(config))
        if sum(parameter.numel() for parameter in outline.parameters()) > MAX_PARAMETERS:
            return None
        copy = kind._from_config(config, dtype=torch.float32).eval()
    except Exception:  # noqa: BLE001  the exception depends on the class
        return None
    randomize(copy)
    return copy


def _whole(model: Any) -> Any | None:
    """A copy of a whole small model; None if it is large or has meta tensors."""
    parameters = list(model.parameters())
    if any(p.is_meta for p in parameters) or sum(p.numel() for p in parameters) > MAX_PARAMETERS:
        return None
    copy = deepcopy(model).to("cpu", torch.float32).eval()
    randomize(copy)
    return copy


def _runs(copy: Any) -> bool:
    try:
        with torch.no_grad():
            logits = copy(input_ids=torch.arange(5)[None] + 3, use_cache=False).logits
    except Exception:  # noqa: BLE001  the exception depends on the class
        return False
    return bool(logits.isfinite().all())


def _smaller(config: Any, narrow: bool, depth: int) -> Any:
    config = deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    implementation = str(getattr(config, "_attn_implementation", "") or "")
    if implementation.startswith(("flash", "paged", "flex")):
        config._attn_implementation = "sdpa"  # these need a GPU
    text = config.get_text_config(decoder=True)
    for part in _parts(config):
        _lower(part, depth if part is text else 2)
        if narrow:
            _narrow(part)
    _shorten(text)
    if narrow:
        _fewer_tokens(config, text)
    return config


def _parts(config: Any) -> list[Any]:
    """The configuration and its sub-configurations, of a text model, a vision tower, ..."""
    inner = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [config, *(nested for part in inner if part is not None for nested in _parts(part))]


def _lower(config: Any, depth: int) -> None:
    """Keep `depth` layers, or one of each kind if there are more kinds: the first of each, the second, then others.

    Every list with one entry per layer keeps the entries of these layers.
    """
    num_layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(num_layers, int):
        return
    kinds = list(getattr(config, "layer_types", None) or ())
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    lists = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == num_layers
    }
    named = [list(map(str, value)) for value in lists.values()]
    rows = list(zip(*(names for names in named if len(set(names)) <= depth), strict=True))  # not of indices or widths
    occurrence = [rows[:index].count(row) for index, row in enumerate(rows)] or [2] * num_layers
    keep = min(max(depth, occurrence.count(0)), num_layers)
    layers = sorted(sorted(range(num_layers), key=lambda index: min(occurrence[index], 2))[:keep])
    if shared and kinds:  # the last layers use the keys of the last earlier layer of their type
        first = kinds[: num_layers - shared]
        period = 1 + max(first.index(kind) for kind in set(first))
        keep, kinds = min(2 * period, num_layers), kinds[:period] * 2
        layers = list(range(keep))
    changed: dict[str, Any] = {}
    if num_layers > keep:
        changed = {name: [value[index] for index in layers] for name, value in lists.items()}
        changed |= {name: value[:keep] for name, value in lists.items() if [*value] == [*range(num_layers)]}
    if shared and kinds:
        changed |= {"layer_types": kinds[:keep], "num_kv_shared_layers": keep // 2}
    for name in ("num_hidden_layers", "num_blocks", "decoder_layers", "encoder_layers"):
        count = getattr(config, name, None)
        if isinstance(count, int) and count > keep:
            setattr(config, name, keep)
    for name, value in changed.items():
        setattr(config, name, value)


def _narrow(config: Any) -> None:
    """Fewer heads of the same size, narrow feed-forward layers, few experts."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if hidden is not None and heads is not None and hidden > 256 and heads > 2:
        groups = _size(config, "num_key_value_heads") or heads
        num_groups, size = min(groups, 4 if groups == heads else 2), _size(config, "head_dim") or hidden // heads
        num_heads = num_groups * min(2, heads // groups)
        wide = _size(config, "attention_hidden_size") or 0
        ratio = wide // hidden if wide % hidden == 0 and wide == size * heads else 1  # Zamba's heads are twice as wide
        config.num_attention_heads, config.hidden_size = num_heads, size * num_heads // max(1, ratio)
        _set(config, num_groups, "num_key_value_heads", "num_kv_heads", "kv_n_heads")
        _set(config, num_heads, "encoder_attention_heads", "decoder_attention_heads")
        if wide and wide % hidden == 0:
            config.attention_hidden_size = wide // hidden * config.hidden_size
        _narrow_mamba(config)
    elif hidden is not None and heads is None and hidden > 256:
        config.hidden_size = 256
        _set(
            config, 256, *(name for name in ("attention_hidden_size", "embedding_dim") if _size(config, name) == hidden)
        )
        if _size(config, "head_dim") and _size(config, "expand"):
            _set(config, config.expand * 256 // config.head_dim, "num_heads")
    for name in STATE_SIZES:
        _set(config, min(_size(config, name) or 0, STATE), name)
    keys, values = _size(config, "linear_num_key_heads"), _size(config, "linear_num_value_heads")
    if keys and values and keys > 2:
        _set(config, 2, "linear_num_key_heads")
        _set(config, 2 * max(1, values // keys), "linear_num_value_heads")
    if (_size(config, "linear_num_heads") or 0) > 2:
        config.linear_num_heads = 2
    for name, value in list(vars(config).items()):
        if name.startswith("intermediate_size") or name.endswith(FORWARD):
            if isinstance(value, int) and value > 128:
                setattr(config, name, 128)
            elif isinstance(value, list) and all(isinstance(width, int) for width in value):
                setattr(config, name, [min(width, 128) for width in value])
    num_experts = max(_size(config, name) or 0 for name in EXPERTS) + (_size(config, "zero_expert_num") or 0)
    for largest, names in ((8, EXPERTS), (2, ROUTED)):
        for name in names:
            size = _size(config, name) or 0
            if size > largest and (
                name != "num_experts_per_tok" or size <= num_experts
            ):  # else the copy has to fail too
                setattr(config, name, largest)


def _narrow_mamba(config: Any) -> None:
    """The heads of Mamba layers beside attention, for a narrower hidden size."""
    inner = (_size(config, "mamba_expand") or 0) * config.hidden_size
    heads, size = _size(config, "mamba_n_heads"), _size(config, "mamba_d_head")
    if heads and size and _size(config, "mamba_d_ssm") == heads * size:  # Falcon-H1: independent of the hidden size
        groups = _size(config, "mamba_n_groups") or 1
        config.mamba_n_heads = groups * min(2, heads // groups)
        config.mamba_d_ssm = config.mamba_n_heads * size
    elif inner and size:
        _set(config, inner // size, "mamba_n_heads")
    elif inner and (_size(config, "n_mamba_heads") or 0) > 1:
        _set(config, 2, "n_mamba_heads")
        _set(config, inner // 2, "mamba_headdim")


def _size(config: Any, name: str) -> int | None:
    """An integer of a configuration, or None; the common value if layers differ."""
    try:
        value = getattr(config, name, None)
    except Exception:  # noqa: BLE001  transformers' error if layers may differ
        value = vars(config).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _set(config: Any, value: int, *names: str) -> None:
    """Set the attributes of these names that the configuration has."""
    for name in names:
        if _size(config, name) is not None:
            setattr(config, name, value)


def _shorten(text: Any) -> None:
    """Short windows, an early switch of rotary frequencies, few positions."""
    for name in WINDOWS:
        size = getattr(text, name, None)
        if isinstance(size, int) and not isinstance(size, bool) and size > WINDOW:
            setattr(text, name, WINDOW)
    ropes = list(rope_dicts(text))
    for rope in ropes:
        if isinstance(rope.get("original_max_position_embeddings"), int):
            rope["original_max_position_embeddings"] = SWITCH
    _set(text, SWITCH, *SWITCHES)
    rates = getattr(text, "compress_rates", None)
    if isinstance(rates, dict):  # tokens of one compressed key, by type of layer
        text.compress_rates = {kind: min(rate, WINDOW) for kind, rate in rates.items()}
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        is_dynamic = any("dynamic" in str(rope.get("rope_type")) for rope in ropes)
        text.max_position_embeddings = SWITCH if is_dynamic else POSITIONS


def _fewer_tokens(config: Any, text: Any) -> None:
    """A small vocabulary, and special tokens inside it."""
    size = text.vocab_size
    if size <= VOCABULARY:
        return
    for part in _parts(config):
        for name in ("vocab_size", "vocab_size_per_layer_input"):
            if getattr(part, name, None) == size or (name.endswith("input") and hasattr(part, name)):
                setattr(part, name, VOCABULARY)
        for name, value in list(vars(part).items()):
            if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= VOCABULARY:
                setattr(part, name, VOCABULARY - 1 - value % 16)
