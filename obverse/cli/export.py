"""From what a run keeps to what every program loads: one transformers folder, without optimizer, adapters merged in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from obverse.cli.progress_panel import Panel
from obverse.config.commands import ExportConfig
from obverse.data.renderer import Renderer
from obverse.distributed.collective_save import MOMENTS, reason_of
from obverse.distributed.sharded_safetensors import files_of
from obverse.errors import CheckpointError, ConfigError, StorageError
from obverse.models.adapter_io import base_of, load_any
from obverse.models.checkpoint_weights import unused
from obverse.models.load import load_scalar, locate
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.file_writes import exclusive_lock, sync
from obverse.runtime.json_lines import read_object

MARK = ".obverse-export"  # in a folder that an export has begun, and its lock
OURS = {checkpoint.STATE, MOMENTS, checkpoint.MANIFEST}  # what a checkpoint has beside its model


def run(config: ExportConfig) -> int:
    with Panel() as watcher:
        export(config, watcher)
    return 0


def export(config: ExportConfig, watcher: Watcher | None = None) -> Path:
    """Write the model of a run, checkpoint or adapter as one plain folder; returns it.

    A checkpoint that is whole already is copied byte for byte unless another dtype is asked for. An adapter is added to
    its base in float32 on the CPU, which takes 4 bytes of memory per parameter, and rounded once, to `dtype`. Shares
    that ranks have written are put together, in memory too.
    Raises ConfigError when there is no such model or the folder is taken, CheckpointError for a damaged checkpoint or
    another base than the adapter's, StorageError when the disk refuses.
    """
    watch, place = watcher or Silent(), source(config.model)
    out = Path(config.output).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--output: {out} is there already and not empty: give another folder")
    base, num_shares = base_of(str(place)), len(files_of(place))
    if base is None and config.dtype == "auto" and not num_shares:
        with making(out) as part:
            for path in files(place):
                shutil.copyfile(path, part / path.name)
            added = carry_template(place, part)
        watch.note(f"{out} holds the model of {place}, byte for byte{added and ', and ' + added}")
        return out
    model, tokenizer = whole(place, config.dtype, base)
    tokenizer = trained_tokenizer(place, tokenizer)
    if sentence := unused(model):
        watch.note(sentence)
    with making(out) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    told = f"with its adapter merged into {base}" if base else "without its optimizer"
    told = f"put together from the shares of {num_shares} ranks" if num_shares else told
    watch.note(f"{out} holds the model of {place} in {str(model.dtype).removeprefix('torch.')}, {told}")
    return out


def carry_template(place: Path, part: Path) -> str:
    """Put the chat template that trained a checkpoint into a copy of its files, and say so; "" where it is there."""
    if not (part / "tokenizer_config.json").is_file():
        return ""
    tokenizer = AutoTokenizer.from_pretrained(str(part), trust_remote_code=False)
    trained = trained_tokenizer(place, tokenizer)
    if trained.chat_template == tokenizer.chat_template:
        return ""
    trained.save_pretrained(part)
    return "the chat template that trained it"


def trained_tokenizer(place: Path, tokenizer: Any) -> Any:
    """The tokenizer with the chat template, system prompt and variables that trained a checkpoint of a run.

    Checkpoints have them in their tokenizer already; those of earlier versions have them in their state alone.
    """
    if not (place / checkpoint.STATE).is_file():
        return tokenizer
    record = read_object(place / checkpoint.STATE, CheckpointError).get("template")
    if not record:
        return tokenizer
    try:
        eos_ids = GenerationConfig.from_pretrained(str(place)).eos_token_id
    except OSError:  # a reward model has none
        eos_ids = None
    return Renderer.from_record(tokenizer, record, eos_ids).tokenizer_to_save()


def source(name: str) -> Path:
    """The folder to export, of a run its newest checkpoint. Raises ConfigError or CheckpointError: see `export`."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{name}: there is no such folder")
    if (folder / "config.yaml").is_file() and not (folder / checkpoint.MANIFEST).is_file():
        newest = checkpoint.newest(folder)
        if newest is None:
            raise ConfigError(f"run {folder} has no whole checkpoint to export")
        return newest
    if (folder / checkpoint.MANIFEST).is_file():
        checkpoint.verify(folder)
    if base_of(str(folder)) is None:
        locate(str(folder))
    return folder


def files(place: Path) -> list[Path]:
    """The files of a whole model's folder; a critic's folder inside is none of them."""
    return [path for path in sorted(place.iterdir()) if path.is_file() and path.name not in OURS]


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """A folder to write into, which is `out` in one step once all of it is on the disk, and gone if anything fails."""
    part = out.with_name(f".{out.name}.part")
    if part.exists() and not (part / MARK).is_file():
        raise ConfigError(f"--output: {part} is there already, and no export has made it: move it away")
    with exclusive_lock(part / MARK, f"the export to {out}", "give another --output"):
        try:
            for path in part.iterdir():  # what an export that was killed left
                if path.name != MARK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield part
            for path in [*part.iterdir(), part]:
                sync(path)
            (part / MARK).unlink()
            os.replace(part, out)
            sync(out.parent)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"{out} could not be written: {reason_of(error)}; what it was made from is as it was"
            ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def whole(place: Path, dtype: str, base: str | None) -> tuple[Any, Any]:
    """The model in one piece, and its tokenizer."""
    config = AutoConfig.from_pretrained(locate(base) if base else str(place), trust_remote_code=False)
    kind = getattr(torch, dtype) if dtype != "auto" else config.dtype or torch.float32
    read = "float32" if base else str(kind).removeprefix("torch.")
    if base is None and any(each.endswith("ForSequenceClassification") for each in config.architectures or ()):
        model, tokenizer = load_scalar(str(place), read, "cpu", trained=True)
    else:
        policy, tokenizer = load_any(str(place), read, "cpu")
        model = policy.model
    return model.to(kind), tokenizer
