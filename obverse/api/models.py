"""The model and the tokenizer of a checkpoint. Imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from obverse.models import load as pretrained
from obverse.models.adapter_io import base_of, load_any
from obverse.models.load import is_scorer, load_scalar, read_pretrained
from obverse.runtime import checkpoint


def load_model(path: Path, dtype: str, device: str) -> Any:
    """The transformers model of a checkpoint, in evaluation mode; of an adapter, its base with the adapter merged in.

    Raises CheckpointError for a damaged checkpoint, ConfigError for one that cannot be loaded.
    """
    checkpoint.verify(path)
    name = str(path)
    if base_of(name) is None and is_scorer(read_pretrained(name, AutoConfig.from_pretrained)):
        return load_scalar(name, dtype, device, trained=True)[0]
    return load_any(name, dtype, device)[0].model


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint, with the chat template of its training."""
    if base_of(str(path)) is None:
        return pretrained.load_tokenizer(str(path))
    return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
