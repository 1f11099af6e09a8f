"""A checkpoint as one model folder with a card, without optimizer state.

Adapters are merged into their base, unless they are exported as adapters.
"""

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

from obverse.api.method_entries import entry
from obverse.config.commands import ExportConfig
from obverse.config.method_options import method_fields
from obverse.config.resolve import method_options
from obverse.data.renderer import Renderer
from obverse.distributed.collective_save import MOMENTS, storage_reason
from obverse.distributed.sharded_safetensors import shard_files
from obverse.errors import CheckpointError, ConfigError, StorageError
from obverse.evaluation.card_options import CARD
from obverse.hub.card_facts import card_facts
from obverse.hub.model_card import MethodFacts, model_card
from obverse.hub.training_record import TrainingRecord, read_training_record
from obverse.methods import find
from obverse.models.adapter_io import base_of, is_adapter, load_any
from obverse.models.load import load_scalar, load_tokenizer, locate, read_pretrained
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.file_writes import exclusive_lock, sync
from obverse.runtime.json_lines import read_object

MARK = ".obverse-export"  # lock file, in the folder of an unfinished export
TRAINING_FILES = {manifest.STATE, MOMENTS, manifest.MANIFEST}  # files of a checkpoint beside its model


def export(config: ExportConfig, watcher: Watcher | None = None) -> Path:
    """Write the model of a run, checkpoint or adapter as one folder with a model card; returns it. Nothing is uploaded.

    A complete model is copied byte for byte unless another dtype is requested. An adapter is merged into its base in
    float32 on the CPU, which takes 4 bytes of memory per parameter, and rounded once, to `dtype`; without
    `merge_adapter` its files are copied. Shards of several ranks are combined in memory. A README.md of the source that
    its training did not write is kept in place of the card.
    Raises ConfigError when there is no such model or the folder is not empty, CheckpointError for a damaged checkpoint
    or another base than the adapter's, DamageError for a changed result of an evaluation, StorageError when the folder
    cannot be written.
    """
    watch, folder = watcher or Silent(), source(config.model)
    out = Path(config.output).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--output: {out} exists and is not empty: give another folder")
    base, num_shards = base_of(str(folder)), len(shard_files(folder))
    is_copied = (base is None or not config.merge_adapter) and not num_shards
    if base is not None and not config.merge_adapter and config.dtype != "auto":
        raise ConfigError(f"--dtype: an adapter is copied with its dtype: leave out --dtype {config.dtype}")
    if is_copied and config.dtype == "auto":
        with making(out) as part:
            paths = files(folder)
            size, num_copied = sum(path.stat().st_size for path in paths), 0
            for path in paths:
                watch.phase("save", num_copied, size)
                shutil.copyfile(path, part / path.name)
                num_copied += path.stat().st_size
            watch.phase("save", size, size)
            added = carry_template(folder, part)
            write_card(config, folder, part, watch)
        kind = "model" if base is None else "adapter"
        watch.note(f"{out} holds the {kind} of {folder}, byte for byte{added and ', and ' + added}")
        return out
    watch.phase("load", 0, 0)
    model, tokenizer, unused = whole(folder, config.dtype, base)
    tokenizer = trained_tokenizer(folder, tokenizer)
    if unused:
        watch.note(unused)
    with making(out) as part:
        watch.phase("save", 0, 0)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if base is None and (folder / CARD).is_file() and not is_of_training(folder / CARD):
            shutil.copyfile(folder / CARD, part / CARD)
        write_card(config, folder, part, watch)
    source_text = f"with its adapter merged into {base}" if base else "without its optimizer"
    source_text = f"combined from the shards of {num_shards} ranks" if num_shards else source_text
    watch.note(f"{out} holds the model of {folder} in {str(model.dtype).removeprefix('torch.')}, {source_text}")
    return out


def write_card(config: ExportConfig, folder: Path, part: Path, watcher: Watcher) -> None:
    """Write the model card of `folder` into its copy `part`, unless a README.md was copied."""
    if (part / CARD).is_file():
        watcher.note(f"{CARD} of {folder} is kept; no model card is written")
        return
    record = read_training_record(folder)
    facts = card_facts(
        part, folder, record, method_facts(record), config.eval_results, is_online=bool(config.push_to_hub)
    )
    name = config.push_to_hub or Path(config.output).expanduser().name
    (part / CARD).write_text(model_card(facts, name), encoding="utf-8")


def method_facts(record: TrainingRecord | None) -> MethodFacts:
    """The first sentence, paper and terms of a run's method; empty for a method of the user's own file."""
    if record is None or record.is_from_file:
        return MethodFacts()
    fields = method_fields(find(record.method))
    options = {name: value for name, value in record.options["method_options"].items() if name in fields}
    row = entry(record.method, method_options(record.method, find(record.method), options))
    names = ("source", "weight", "mask", "reference", "advantage", "share")
    terms = [term if term["on"] == "logp" else {**term, "source": term["on"]} for term in row.record()["terms"]]
    return MethodFacts(row.summary, row.link, [tuple(str(term[name]) for name in names) for term in terms])


def carry_template(folder: Path, part: Path) -> str:
    """Write the chat template of training into a copy of a checkpoint; returns a note, "" if it has that template."""
    if not (part / "tokenizer_config.json").is_file():
        return ""
    if is_adapter(folder):  # without a model, which `load_tokenizer` expects
        tokenizer = AutoTokenizer.from_pretrained(str(part), trust_remote_code=False)
    else:
        tokenizer = load_tokenizer(str(folder))
    trained = trained_tokenizer(folder, tokenizer)
    if trained.chat_template == tokenizer.chat_template:
        return ""
    trained.save_pretrained(part)
    return "the chat template that trained it"


def trained_tokenizer(folder: Path, tokenizer: Any) -> Any:
    """The tokenizer with the chat template, system prompt and variables with which a checkpoint was trained.

    Checkpoints of earlier versions have them in their state, not in their tokenizer.
    """
    if not (folder / manifest.STATE).is_file():
        return tokenizer
    record = read_object(folder / manifest.STATE, CheckpointError).get("template")
    if not record:
        return tokenizer
    try:
        eos_ids = GenerationConfig.from_pretrained(str(folder)).eos_token_id
    except OSError:  # a reward model has no generation config
        eos_ids = None
    return Renderer.from_record(tokenizer, record, eos_ids).tokenizer_to_save()


def source(name: str) -> Path:
    """The folder to export; of a run its newest checkpoint. Raises ConfigError or CheckpointError: see `export`."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{name}: no such folder")
    if (folder / "config.yaml").is_file() and not (folder / manifest.MANIFEST).is_file():
        newest = checkpoint.newest(folder)
        if newest is None:
            raise ConfigError(f"run {folder} has no whole checkpoint to export")
        return newest
    if (folder / manifest.MANIFEST).is_file():
        checkpoint.verify(folder)
    if base_of(str(folder)) is None:
        locate(str(folder))
    return folder


def files(folder: Path) -> list[Path]:
    """The model files of a folder, without those of training and without a critic's folder."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in TRAINING_FILES]
    return [path for path in paths if path.name != CARD or not is_of_training(path)]


def is_of_training(card: Path) -> bool:
    """Whether a checkpoint's manifest lists its README.md, which a library then wrote during training."""
    folder = card.parent
    return (folder / manifest.MANIFEST).is_file() and card.name in manifest.read_manifest(folder)["files"]


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` once it is complete on the disk, and removed if anything fails."""
    part = out.with_name(f".{out.name}.part")
    if part.exists() and not (part / MARK).is_file():
        raise ConfigError(f"--output: {part} exists, and is not of an export: move it away")
    with exclusive_lock(part / MARK, f"the export to {out}", "give another --output"):
        try:
            for path in part.iterdir():  # files of a killed export
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
                f"{out} could not be written: {storage_reason(error)}; the checkpoint is unchanged"
            ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def whole(folder: Path, dtype: str, base: str | None) -> tuple[Any, Any, str | None]:
    """The unsharded model with adapters merged in, its tokenizer, and a message about weights that it does not use."""
    config = read_pretrained(base or str(folder), AutoConfig.from_pretrained)
    kind = getattr(torch, dtype) if dtype != "auto" else config.dtype or torch.float32
    read = "float32" if base else str(kind).removeprefix("torch.")
    if base is None and any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        model, tokenizer, unused = load_scalar(str(folder), read, "cpu", trained=True)
    else:
        policy, tokenizer = load_any(str(folder), read, "cpu")
        model, unused = policy.model, policy.unused_weights
    return model.to(kind), tokenizer, unused
