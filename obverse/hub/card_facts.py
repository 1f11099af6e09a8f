"""Collects the facts of a model card from an exported folder, the checkpoint that it is of, and the base model."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from transformers import AutoTokenizer, GenerationConfig

from obverse.data.renderer import Renderer
from obverse.errors import CheckpointError, UserError
from obverse.evaluation.card_options import read_card_header
from obverse.hub.evaluation_figures import evaluations_of
from obverse.hub.model_card import CardFacts, Kind, MethodFacts, PromptFormat, SourceModel, prompt_format
from obverse.hub.training_record import TrainingRecord
from obverse.models.adapter_io import CONFIG, base_of, origin
from obverse.models.load import EMBEDDED
from obverse.runtime import manifest
from obverse.runtime.json_lines import read_object
from obverse.version import __version__

LICENSE = ("license", "license_name", "license_link")  # of a card's header


def card_facts(
    exported: Path,
    folder: Path,
    record: TrainingRecord | None,
    method: MethodFacts,
    results: Path | None = None,
    is_online: bool = False,
) -> CardFacts:
    """The facts about the model in `exported`, which was exported from `folder`: a checkpoint or another model folder.

    `results` are those of `obverse eval` in place of the run folder's. With `is_online` the card of a base model on the
    hub is downloaded. Raises the errors of `evaluations_of`.
    """
    base, kind = base_model(folder, record), kind_of(exported)
    return CardFacts(
        kind=kind,
        base=base,
        record=record,
        method=method,
        evaluations=evaluations_of(folder, record, results),
        prompt=prompt_of(exported, folder) if kind != "reward model" else None,
        license=license_of(base_location(folder, record), is_online),
        datasets=hub_datasets(record),
        lora_rank=lora_rank(exported),
        version=__version__,
    )


def kind_of(exported: Path) -> Kind:
    """Whether a folder has a whole language model, an adapter or a reward model."""
    if (exported / CONFIG).is_file():
        return "adapter"
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    is_scorer = any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    return "reward model" if is_scorer else "model"


def base_location(folder: Path, record: TrainingRecord | None) -> str | None:
    """The folder or hub name of the base model; None if it is not recorded."""
    name = base_of(str(folder)) or (record and str(record.options["model"]))
    return str(EMBEDDED) if name == "embedded" else name or None


def base_model(folder: Path, record: TrainingRecord | None) -> SourceModel | None:
    """The base model of an adapter or of a training run; None if it is not recorded."""
    location = base_location(folder, record)
    if location is None:
        return None
    weights = str(origin(folder).get("sha256", "")) if base_of(str(folder)) else ""
    recorded = record.inputs.get("model", "") if record else ""
    if location == str(EMBEDDED):
        return SourceModel("embedded", sha256=weights or recorded)
    if recorded.startswith(f"{location}@"):
        return SourceModel(location, location, weights, recorded.rpartition("@")[2])
    if is_cached(location, "model"):
        return SourceModel(location, location, weights)
    return SourceModel(Path(location).name, sha256=weights or recorded)


def is_cached(name: str, repo_type: str) -> bool:
    """Whether the hub's cache has files of a model or data set, which shows that the name is one of the hub."""
    if name.count("/") != 1 or Path(name).expanduser().exists():
        return False
    return (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)).is_dir()


def hub_datasets(record: TrainingRecord | None) -> tuple[str, ...]:
    """The hub name of the training data; empty for files and embedded tasks."""
    name = str(record.options.get("dataset", "")).partition(":")[0] if record else ""
    return (name,) if is_cached(name, "dataset") else ()


def license_of(base: str | None, is_online: bool) -> dict[str, str]:
    """The licence fields in the card of a base model, in its folder or on the hub; empty without any."""
    header = read_card_header(base, local_files_only=not is_online) if base else {}
    return {name: str(header[name]) for name in LICENSE if header.get(name)}


def lora_rank(exported: Path) -> int:
    """The rank of an adapter; 0 without one, and for adapters of expert matrices, which are not linear layers."""
    if not (exported / CONFIG).is_file():
        return 0
    config = json.loads((exported / CONFIG).read_text(encoding="utf-8"))
    return 0 if config.get("target_parameters") else int(config.get("r") or 0)


def prompt_of(exported: Path, folder: Path) -> PromptFormat | None:
    """The prompt format of the model: that of its training, else of its tokenizer; None without a tokenizer."""
    if not (exported / "tokenizer_config.json").is_file():
        return None
    tokenizer = AutoTokenizer.from_pretrained(str(exported), trust_remote_code=False)
    try:
        eos_ids = GenerationConfig.from_pretrained(str(exported)).eos_token_id
    except OSError:  # an adapter's folder has none
        eos_ids = None
    state = folder / manifest.STATE
    template = read_object(state, CheckpointError).get("template") if state.is_file() else None
    try:
        if template:
            return prompt_format(Renderer.from_record(tokenizer, template, eos_ids), is_recorded=True)
        return prompt_format(Renderer(tokenizer, eos_ids=eos_ids), is_recorded=False)
    except UserError:  # obverse cannot write prompts with this tokenizer
        return None
