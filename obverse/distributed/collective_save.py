"""What the ranks of a run write together: models and moments, gathered to the first rank or each rank's own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from obverse.distributed import sharded_safetensors as pieces
from obverse.distributed.fsdp import gathered, root_of, state_of
from obverse.distributed.process_group import ProcessGroup

MOMENTS = "optimizer.safetensors"
MOMENTS_IN_PIECES = "optimizer"  # a folder
Result = TypeVar("Result")


def write_model(
    folder: Path, model: Any, tokenizer: Any, process_group: ProcessGroup, in_pieces: bool = False
) -> list[Path]:
    """Write a model's folder; returns the files that this rank has written if it is not the first."""
    is_shared_out = root_of(model) is not None
    options: dict[str, Any] = {}
    mine: list[Path] = []
    if is_shared_out and in_pieces:
        mine = agreed(process_group, lambda: pieces.write(folder, state_of(model), process_group))
    elif is_shared_out:
        options["state_dict"] = gathered(state_of(model), process_group)

    def describe() -> None:
        if is_shared_out and in_pieces:
            _save_config(model, folder)
        else:
            model.save_pretrained(folder, **options)
        tokenizer.save_pretrained(folder)  # a folder of a model is whole: some families load no other

    by_first(process_group, describe)
    return mine


def _save_config(model: Any, folder: Path) -> None:
    """What transformers writes of a model beside its weights."""
    config = copy(model.config)
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def write_moments(
    part: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup, in_pieces: bool
) -> list[Path]:
    """Write the optimizers' tensors; returns the files that this rank has written if it is not the first."""
    if in_pieces and not process_group.is_alone:
        return agreed(process_group, lambda: pieces.write(part / MOMENTS_IN_PIECES, tensors, process_group))
    found = tensors if process_group.is_alone else gathered(tensors, process_group)
    by_first(
        process_group, lambda: save_file({name: each.contiguous() for name, each in found.items()}, part / MOMENTS)
    )
    return []


def by_first(process_group: ProcessGroup, work: Callable[[], None]) -> None:
    agreed(process_group, lambda: work() if process_group.is_first else None)


def agreed(process_group: ProcessGroup, work: Callable[[], Result]) -> Result:
    """What this rank has to write; a disk that refuses one rank has refused all."""
    if process_group.is_alone:
        return work()
    met: Exception | None = None
    result: list[Result] = []
    try:
        result.append(work())
    except Exception as error:
        if not is_of_the_disk(error):
            raise
        met = error
    told = process_group.gather(None if met is None else reason_of(met))
    if met is not None:
        raise met
    for rank, reason in enumerate(told):
        if reason is not None:
            raise OSError(f"rank {rank}: {reason}")
    return result[0]


def reason_of(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error).splitlines()[0]


def is_of_the_disk(error: BaseException) -> bool:
    # the writers of safetensors and tokenizers are not Python's: theirs are exceptions of their own, or of no class
    return isinstance(error, OSError | SafetensorError) or (type(error) is Exception and "os error" in str(error))
