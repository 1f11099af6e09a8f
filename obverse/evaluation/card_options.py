"""The options of evaluation in the model card of an exported model: how its run sampled and wrote prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from pydantic import TypeAdapter, ValidationError
from transformers.utils import cached_file
from typing_extensions import TypedDict
from yaml import YAMLError

from obverse.errors import ConfigError

CARD = "README.md"
KEY = "obverse"  # of the card's YAML header


class SamplingEntry(TypedDict, total=False):
    """The options of the training run that an evaluation uses too. A card cannot name files or verifiers."""

    max_completion_length: int
    temperature: float
    stop_strings: list[str]
    parse_special_tokens: bool


class TemplateEntry(TypedDict, total=False):
    """A renderer's record, for a model without a saved chat template that writes its prompts."""

    name: str
    jinja: str | None
    jinja_tools: str | None
    form: str
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any]
    parse_special_tokens: bool


class CardEntry(TypedDict, total=False):
    """The entry `obverse` of a card's header, as far as it is read; other keys are ignored."""

    eval: SamplingEntry
    template: TemplateEntry


SAMPLING = tuple(SamplingEntry.__annotations__)
_SCHEMA = TypeAdapter(CardEntry)


def read_card_entry(model: str) -> CardEntry:
    """The entry `obverse` of a model card's header; empty for a model without one.

    `model` is a folder, or a hub name: its card is downloaded into the cache. Raises ConfigError for an entry of other
    types.

    Example: {"eval": {"temperature": 1.0, "max_completion_length": 512}}
    """
    header = read_card_header(model)
    if not isinstance(header.get(KEY), dict):
        return {}
    try:
        return _SCHEMA.validate_python(header[KEY])
    except ValidationError as error:
        first_error = error.errors()[0]
        entry = ".".join([KEY, *map(str, first_error["loc"])])
        raise ConfigError(f"{CARD} of {model}: {entry}: {first_error['msg']}: correct or remove the entry") from None


def read_card_header(model: str, local_files_only: bool = False) -> dict[str, Any]:
    """The YAML header of a model card, of any author; empty for a model without a card that can be read.

    `model` is a folder, or a hub name: its card is downloaded into the cache unless `local_files_only`.
    """
    folder = Path(model).expanduser()
    path = str(folder / CARD) if folder.is_dir() else _on_the_hub(model, local_files_only)
    if path is None or not Path(path).is_file():
        return {}
    try:
        header = metadata_load(path)
    except (YAMLError, ValueError, OSError):  # the text of another author
        return {}
    return header if isinstance(header, dict) else {}


def _on_the_hub(name: str, local_files_only: bool) -> str | None:
    """The path of a hub model's card in the cache; None if it cannot be read: loading the model states the reason."""
    try:
        path: str | None = cached_file(
            name,
            CARD,
            local_files_only=local_files_only,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return path
