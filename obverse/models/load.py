"""Loads models and tokenizers from a folder, a hub name or the package; failures are ConfigErrors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils.logging import disable_progress_bar

from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.distributed.sharded_safetensors import ShardedTensors, shard_files
from obverse.errors import ConfigError
from obverse.models.checkpoint_weights import check_vocabulary, check_weights, listed, reported
from obverse.models.conformance import Capabilities
from obverse.models.cpu_allocator import keep_freed_memory
from obverse.models.policy import Policy, as_policy, capabilities_of

# Their progress bars and warnings would disturb obverse's progress panel; errors are raised.
disable_progress_bar()
for _logger_name in ("huggingface_hub", "transformers.distributed.tensor_parallel"):
    logging.getLogger(_logger_name).setLevel(logging.ERROR)

EMBEDDED = Path(__file__).parents[1] / "assets" / "base"
# The exceptions of transformers for missing, damaged or foreign files, for impossible sizes, and for missing libraries.
UNREADABLE = (
    OSError,
    ValueError,
    ArithmeticError,
    SafetensorError,
    StrictDataclassError,
    ImportError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
)
# Mismatched shapes are returned with the loading info, in place of an error that names no weight.
LOADING_INFO = {"output_loading_info": True, "ignore_mismatched_sizes": True}
NO_HEAD = "it has no trained head: train it with 'obverse train reward_model'"


def locate(name: str) -> str:
    """The folder or hub name of a model; `embedded` is the model in obverse's package.

    Raises ConfigError for a path without a model. Hub names are not checked.
    """
    if name == "embedded":
        return str(EMBEDDED)
    path = Path(name).expanduser()
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ConfigError(f"model {name!r}: this is an adapter: merge it into its base by 'obverse export'")
    if path.is_dir() and not (path / "config.json").is_file():
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda folder: folder.stat().st_mtime)
        hint = f"give a checkpoint of this run, {checkpoints[-1]}" if checkpoints else "it is neither a model nor a run"
        raise ConfigError(f"model {name!r}: this folder has no config.json: {hint}")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ConfigError(f"model {name!r}: there is no such folder; hub names look like owner/name")
    return str(path) if path.is_dir() else name


def load(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    trains: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    **options: Any,
) -> tuple[Policy, Any]:
    """The policy and its tokenizer from a folder or a hub name. Raises ConfigError if they cannot be loaded.

    `dtype` auto is float32 on a CPU and bfloat16 on an accelerator. There, a policy that `trains` is mixed: float32
    weights, bfloat16 products, because small steps are lost in bfloat16 weights. A model's own code is never run.
    `options` are those of transformers, such as a quantization, and `positions` (see `with_positions`). With a
    `process_group`, for FSDP, rank 0 alone loads the weights, on the CPU; on other ranks they are meta tensors.
    """
    check_kind(name, scores=False)
    if dtype == "auto" and trains and pick_device(device) != "cpu":
        dtype = "mixed"
    model, tokenizer, unused = _load(AutoModelForCausalLM, name, dtype, device, process_group, **options)
    capabilities = asdict(capabilities_of(model.eval())) if process_group.is_first else None
    shared = Capabilities(**process_group.broadcast(capabilities))
    return replace(as_policy(model, dtype == "mixed", shared), unused_weights=unused), tokenizer


def load_scalar(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    trained: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    positions: Mapping[str, float] | None = None,
) -> tuple[Any, Any, str | None]:
    """A critic or reward model, its tokenizer, and a message about weights in its files that it does not use.

    The class is transformers' sequence classification with one label, that is with a scalar head. A model without
    such a head gets one of zeros; with `trained` that is a ConfigError. Weights are float32 unless `dtype` is bfloat16.
    `process_group` is as in `load`.
    """
    dtype = "float32" if dtype in ("auto", "mixed") else dtype
    if trained:
        check_kind(name, scores=True)
    config = read_pretrained(name, AutoConfig.from_pretrained)
    require_scalar_class(name, config)
    has_head = is_scorer(config)
    if trained and not has_head:
        raise ConfigError(f"reward model {name!r}: {NO_HEAD}")
    model, tokenizer, unused = _load(
        AutoModelForSequenceClassification,
        name,
        dtype,
        device,
        process_group,
        positions,
        new_head=not has_head,
        num_labels=1,
    )
    head = model.score
    if not has_head:
        torch.nn.init.zeros_(head.weight)
    # a vector read from a file may begin anywhere in memory, and a CPU's sums then round in another order
    head.weight.data = head.weight.detach().clone()
    # transformers needs a padding token in the configuration; it must not freeze that token's embedding
    model.config.pad_token_id = model.config.pad_token_id or 0
    model.get_input_embeddings().padding_idx = None
    model.eval()
    return model, tokenizer, unused


def check_kind(name: str, scores: bool) -> None:
    """Raise ConfigError for a reward model given as a language model, or, with `scores`, the reverse.

    Reads the configuration only. With tied embeddings a reward model would load as a language model without an error.
    """
    config = read_pretrained(name, AutoConfig.from_pretrained)
    if not scores and is_scorer(config):
        raise ConfigError(f"model {name!r}: it scores texts and cannot write one: give it as --reward_model")
    if scores and not is_scorer(config):
        raise ConfigError(f"reward model {name!r}: {NO_HEAD}")
    if scores and config.num_labels != 1:
        raise ConfigError(f"reward model {name!r}: its head gives {config.num_labels} numbers in place of one")


def is_scorer(config: Any) -> bool:
    """Whether a model's configuration is that of a sequence classifier."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def read_pretrained(name: str, read: Callable[..., Any], **options: Any) -> Any:
    """The result of `read` for a model's folder or hub name. Raises ConfigError if it fails."""
    with _reading(name):
        return read(locate(name), trust_remote_code=False, **options)  # by default transformers asks on the terminal


def load_tokenizer(name: str, **options: Any) -> Any:
    """The tokenizer of a model's folder or hub name. Raises ConfigError if it cannot be loaded."""
    try:
        return read_pretrained(name, AutoTokenizer.from_pretrained, **options)
    except ConfigError:
        path = Path(name).expanduser()
        if not (path / "config.json").is_file() or (path / "tokenizer.json").is_file():
            raise
        read_pretrained(name, AutoConfig.from_pretrained)  # an invalid configuration is the cause to report
        raise ConfigError(
            f"model {name!r}: its tokenizer cannot be loaded, and the folder has no tokenizer.json: copy the files of "
            "the tokenizer into it"
        ) from None


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn the errors of transformers inside into ConfigErrors."""
    try:
        yield
    except UNREADABLE as error:
        hint = "" if Path(name).expanduser().is_dir() else " (a folder with config.json or a hub name)"
        raise ConfigError(f"model {name!r} cannot be loaded: {_reason(error)}{hint}") from error


def _reason(error: Exception) -> str:
    """An error of transformers in one line: that of the value for an invalid configuration, else its first sentence."""
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        return f"its config.json is invalid: {' '.join(str(error.__cause__).split())}"
    lines = str(error).split("\n") if str(error).strip() else [type(error).__name__]
    if isinstance(error, ArithmeticError):
        return f"its config.json is invalid: {type(error).__name__}: {lines[0]}"
    return " ".join(lines).strip() if lines[0].rstrip().endswith(":") else str(error).strip().splitlines()[0]


def _load(
    kind_of_model: Any,
    name: str,
    dtype: str,
    device: str,
    process_group: ProcessGroup,
    positions: Mapping[str, float] | None = None,
    new_head: bool = False,
    **options: Any,
) -> tuple[Any, Any, str | None]:
    """A model on its device, with all weights from its files, its tokenizer, and the message of `check_weights`."""
    where = torch.device(pick_device(device))
    kind = weights_dtype(dtype, where.type)
    if where.type == "cpu":
        keep_freed_memory()
    tokenizer = load_tokenizer(name)
    if not process_group.is_first:
        return with_plain_experts(_outline(kind_of_model, name, kind, positions, **options)), tokenizer, None
    shards = shard_files(Path(locate(name)))
    with reported() as report:
        try:
            if shards:
                model, info = _from_shards(kind_of_model, name, kind, shards, positions, **options)
            else:
                if positions:
                    labels = {key: options.pop(key) for key in ("num_labels",) if key in options}
                    options["config"] = _config(name, positions, **labels)
                model, info = read_pretrained(
                    name, kind_of_model.from_pretrained, dtype=kind, use_safetensors=True, **LOADING_INFO, **options
                )
        except ConfigError as error:
            if isinstance(error.__cause__, NotImplementedError):  # it was left on the meta device
                raise ConfigError(
                    f"model {name!r}: a weight that its config.json ties to another, such as its head, has another "
                    "shape in its files: give files and configuration of one model"
                ) from None
            if report.failed:
                raise ConfigError(
                    f"model {name!r}: {listed(report.failed)} cannot be assembled from the weights in its files: "
                    "some are missing or of another shape; give files and configuration of one model"
                ) from None
            raise
    if kind_of_model is AutoModelForSequenceClassification:
        _refuse_without_score(name, model)
    unused = check_weights(name, model, info, new_head)
    check_vocabulary(name, model, tokenizer)
    with_plain_experts(model)
    stays = "device_map" in options or not process_group.is_alone  # quantized weights are created on their device
    return model if stays else model.to(where), tokenizer, unused


def require_scalar_class(name: str, config: Any) -> None:
    """Raise ConfigError for a configuration for which transformers has no class with a scalar head."""
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise ConfigError(
            f"model {name!r}: transformers has no sequence classification for the type {config.model_type!r}, and "
            "critics and reward models are of that class: choose a method without a critic, or a model of another type"
        )


def _refuse_without_score(name: str, model: Any) -> None:
    head = getattr(model, "score", None)
    if head is None or head.out_features != 1:
        raise ConfigError(f"model {name!r}: its sequence classification has no scalar head `score`")


def _config(name: str, positions: Mapping[str, float] | None, **options: Any) -> Any:
    return with_positions(read_pretrained(name, AutoConfig.from_pretrained, **options), positions or {})


def _outline(
    kind_of_model: Any, name: str, dtype: torch.dtype, positions: Mapping[str, float] | None = None, **options: Any
) -> Any:
    """The model with meta tensors in place of weights."""
    config = _config(name, positions, **options)
    with torch.device("meta"):
        return with_defaults(kind_of_model.from_config(config, dtype=dtype), name)


def _from_shards(
    kind_of_model: Any,
    name: str,
    dtype: torch.dtype,
    shards: list[Path],
    positions: Mapping[str, float] | None = None,
    **options: Any,
) -> Any:
    """A model from the sharded files of a run's ranks, and transformers' loading info."""
    kind = type(_outline(kind_of_model, name, dtype, positions, **options))
    config = _config(name, positions, **options)
    with _reading(name):
        weights = dict(ShardedTensors.of(shards))
        model, info = kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **LOADING_INFO)
    return with_defaults(model, name), info


def with_defaults(model: Any, name: str) -> Any:
    """The model with the generation defaults of its folder, if it has any."""
    if model.can_generate():
        with suppress(OSError):  # without the file the defaults follow from the model's configuration
            model.generation_config = GenerationConfig.from_pretrained(locate(name))
    return model


def with_plain_experts(model: Any) -> Any:
    """The model; float64 experts run one after another, as the grouped product has no float64 kernel."""
    if model.dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def weights_dtype(dtype: str, device: str, trains: bool = False) -> torch.dtype:
    """The type of weights in memory on a type of device, for the value of the option `dtype`; see `load`."""
    if dtype == "auto" and trains:
        return torch.float32
    plain = torch.float32 if device == "cpu" else torch.bfloat16
    kind: torch.dtype = {"auto": plain, "mixed": torch.float32}.get(dtype) or getattr(torch, dtype)
    return kind


class NotOnThisMachine(ConfigError):
    """The configuration of a model is not on this machine; a command that may download would get it."""


def local_config(name: str, positions: Mapping[str, float] | None = None) -> Any:
    """A model's configuration, from a folder or the hub's cache, without network access.

    Raises NotOnThisMachine for a model that would have to be downloaded, ConfigError for an invalid configuration.
    """
    try:
        config = read_pretrained(name, AutoConfig.from_pretrained, local_files_only=True)
    except ConfigError as error:
        if Path(name).expanduser().is_dir() or not isinstance(error.__cause__, OSError):
            raise
        raise NotOnThisMachine(
            f"model {name!r}: its config.json is not on this machine, and is not downloaded: "
            f"'hf download {name} config.json' puts it into the cache, or give a folder that has one"
        ) from None
    return with_positions(config, positions or {})


def with_positions(config: Any, positions: Mapping[str, float]) -> Any:
    """The configuration with `rope_theta` and `max_position_embeddings` as given.

    Raises ConfigError for a configuration without them. They prepare a model for longer texts: LUFFY (2504.14945) and
    HPT (2509.04419) train Qwen2.5-Math with a base of 40,000 in place of 10,000 and 16,384 positions in place of
    4,096.
    """
    for name, value in positions.items():
        if name == "rope_theta":
            rope = getattr(config, "rope_parameters", None)
            if not isinstance(rope, dict) or "rope_theta" not in rope:
                raise ConfigError(
                    f"--rope_theta: models of type {config.model_type!r} have no one rotary base to change"
                )
            config.rope_parameters = rope | {"rope_theta": float(value)}
        elif not hasattr(config, name):
            raise ConfigError(f"--{name}: models of type {config.model_type!r} do not count positions so")
        else:
            setattr(config, name, value)
    return config


def num_parameters(name: str) -> int:
    """The number of parameters of a model, from its configuration alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(locate(name)))
    return int(sum(parameter.numel() for parameter in model.parameters()))


def pick_device(device: str = "auto") -> str:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
