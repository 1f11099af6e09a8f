"""Models to evaluate: a whole one, or a PEFT adapter with the base model that it names, merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer

from obverse.errors import ConfigError
from obverse.loading import load
from obverse.model import Policy, as_policy

CONFIG = "adapter_config.json"


def base_of(place: str) -> str | None:
    """The base model that an adapter's folder names, None for a folder or name that is no adapter.

    A relative path is that from here, or from the adapter's folder. Raises ConfigError where none is named.
    """
    file = Path(place).expanduser() / CONFIG
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise ConfigError(f"adapter {place}: {CONFIG} is not JSON ({error})") from None
    if not base:
        raise ConfigError(f"adapter {place}: {CONFIG} names no base_model_name_or_path to put it on")
    beside = file.parent / base
    return str(beside) if not Path(base).is_dir() and beside.is_dir() else str(base)


def load_any(place: str, dtype: str = "auto", device: str = "auto") -> tuple[Policy, Any]:
    """The policy and its tokenizer: of a model as `obverse.loading.load`, of an adapter merged into its base model.

    The tokenizer (and with it the chat template) is the adapter's own where its folder has one. Raises ConfigError when
    there is no such model, when peft is not installed, or when the adapter does not fit its base.
    """
    base = base_of(place)
    if base is None:
        return load(place, dtype, device)
    try:
        import peft  # a second that only adapters should cost, and an extra of the installation

    except ImportError:
        raise ConfigError(f"adapter {place}: install the library peft, pip install 'obverse[peft]'") from None
    policy, tokenizer = load(base, dtype, device)
    folder = Path(place).expanduser()
    try:
        merged = peft.PeftModel.from_pretrained(policy.model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"adapter {place} cannot be put on {base}: {reason}") from None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return as_policy(merged, mixed=policy.mixed), tokenizer
