"""What the ranks of a run save together: models and optimizer state, gathered on rank 0 or as each rank's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from obverse.distributed import sharded_safetensors
from obverse.distributed.fsdp import full_tensors, is_sharded, model_state
from obverse.distributed.process_group import ProcessGroup

MOMENTS = "optimizer.safetensors"
SHARDED_MOMENTS = "optimizer"  # a folder
Result = TypeVar("Result")


def write_model(
    folder: Path, model: Any, tokenizer: Any, process_group: ProcessGroup, as_shards: bool = False
) -> list[Path]:
    """Write a model's folder, with `as_shards` a file per rank; returns the files that another rank than 0 wrote."""
    as_shards = as_shards and is_sharded(model)
    options: dict[str, Any] = {}
    paths: list[Path] = []
    if as_shards:
        paths = on_all_ranks(
            process_group, lambda: sharded_safetensors.write(folder, model_state(model), process_group)
        )
    elif is_sharded(model):
        options["state_dict"] = full_tensors(model_state(model), process_group)

    def write_rest() -> None:
        if as_shards:
            _save_config(model, folder)
        else:
            model.save_pretrained(folder, **options)
        tokenizer.save_pretrained(folder)  # some families load no folder without a tokenizer

    on_first_rank(process_group, write_rest)
    return paths


def _save_config(model: Any, folder: Path) -> None:
    """Write what `save_pretrained` writes in addition to the weights."""
    config = copy(model.config)
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def write_optimizer(
    folder: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup, as_shards: bool
) -> list[Path]:
    """Write the optimizers' tensors as `write_model` does; returns the files that another rank than 0 wrote."""
    if as_shards and not process_group.is_alone:
        return on_all_ranks(
            process_group, lambda: sharded_safetensors.write(folder / SHARDED_MOMENTS, tensors, process_group)
        )
    full = tensors if process_group.is_alone else full_tensors(tensors, process_group)
    on_first_rank(
        process_group,
        lambda: save_file({name: tensor.contiguous() for name, tensor in full.items()}, folder / MOMENTS),
    )
    return []


def on_first_rank(process_group: ProcessGroup, function: Callable[[], None]) -> None:
    """Call `function` on rank 0 as `on_all_ranks` does."""
    on_all_ranks(process_group, lambda: function() if process_group.is_first else None)


def on_all_ranks(process_group: ProcessGroup, function: Callable[[], Result]) -> Result:
    """Return `function()`, which writes files; a storage error of one rank is raised on all."""
    if process_group.is_alone:
        return function()
    storage_error: Exception | None = None
    results: list[Result] = []
    try:
        results.append(function())
    except Exception as error:
        if not is_storage_error(error):
            raise
        storage_error = error
    reasons = process_group.gather(None if storage_error is None else storage_reason(storage_error))
    if storage_error is not None:
        raise storage_error
    for rank, reason in enumerate(reasons):
        if reason is not None:
            raise OSError(f"rank {rank}: {reason}")
    return results[0]


def storage_reason(error: BaseException) -> str:
    """The text of a storage error, in one line."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error).splitlines()[0]


def is_storage_error(error: BaseException) -> bool:
    """Whether writing a file failed; safetensors and tokenizers raise their own exceptions, or plain ones."""
    return isinstance(error, OSError | SafetensorError) or (type(error) is Exception and "os error" in str(error))
