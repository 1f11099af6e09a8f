"""Adapter folders in PEFT's layout: identification of their base model, and loading merged into it."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer
from transformers.utils import cached_file

from obverse.errors import CheckpointError, ConfigError
from obverse.models.checkpoint_weights import check_vocabulary, listed
from obverse.models.load import EMBEDDED, load, locate
from obverse.models.policy import Policy, as_policy

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ORIGIN = "base.json"  # obverse's file that identifies the base, beside those of PEFT


@dataclass(frozen=True)
class Origin:
    """The base model of an adapter."""

    name: str  # as --model called it
    place: str  # the absolute path of a folder, or a hub name
    sha256: str  # of its weights

    @classmethod
    def of(cls, name: str) -> Origin:
        """The origin of a model that has been loaded, so that the files of a hub name are in the cache."""
        source = locate(name)
        folder = Path(source)
        if not folder.is_dir():
            folder = Path(str(cached_file(source, "config.json", local_files_only=True))).parent
            return cls(name, source, digest(folder))
        return cls(name, str(folder.resolve()), digest(folder))

    def write(self, folder: Path) -> None:
        (folder / ORIGIN).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def refuse_other(self, folder: Path) -> None:
        """Raise CheckpointError for an adapter's folder that records another base."""
        recorded = origin(folder)
        if recorded.get("sha256", self.sha256) != self.sha256:
            raise CheckpointError(
                f"adapter {folder}: it was trained on {recorded.get('name')!r:.200}, whose weights have the sha256 "
                f"{recorded['sha256']!s:.12}, and {self.name!r:.200} has {self.sha256:.12}: give its original base"
            )


def digest(folder: Path) -> str:
    """sha256 of a model's weight files and their names, in order of names."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def origin(folder: Path) -> dict[str, Any]:
    """obverse's record of an adapter's base; empty for a folder of another program."""
    return _read(folder, ORIGIN) if (folder / ORIGIN).is_file() else {}


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"adapter {folder}: {name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"adapter {folder}: {name} is not an object")
    return content


def is_adapter(path: str | Path) -> bool:
    """Whether this is the folder of an adapter."""
    return (Path(path).expanduser() / CONFIG).is_file()


def local_adapter(name: str) -> str:
    """The folder of an adapter on the hub, which is downloaded into the cache; any other name unchanged."""
    if name == "embedded" or name.count("/") != 1 or Path(name).expanduser().exists():
        return name
    silent = [f"_raise_exceptions_for_{kind}" for kind in ("gated_repo", "missing_entries", "connection_errors")]
    try:
        config = cached_file(name, CONFIG, **dict.fromkeys(silent, False))
        return name if config is None else snapshot_download(name, allow_patterns=["*.json", "*.jinja", WEIGHTS])
    except (OSError, ValueError, HTTPError):  # loading the model states the reason
        return name


def base_of(name: str) -> str | None:
    """The base model of an adapter, from its folder; None for anything that is not an adapter's folder.

    Relative paths start at the working directory, or else at the adapter's folder. Raises ConfigError if the folder
    names no base.
    """
    folder = Path(name).expanduser()
    if not is_adapter(folder):
        return None
    if origin(folder).get("name") == "embedded":  # the recorded path may be of another installation
        return str(EMBEDDED)
    base = _read(folder, CONFIG).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"adapter {name}: {CONFIG} has no base_model_name_or_path")
    beside = folder / str(base)
    return str(beside) if not Path(base).is_dir() and beside.is_dir() else str(base)


def peft_library() -> Any:
    """The library PEFT, imported on first use. Raises ConfigError if it is not installed."""
    try:
        import peft.utils.transformers_weight_conversion  # an optional dependency that takes a second to import
    except ImportError:
        raise ConfigError("adapters: install the library peft, pip install 'obverse[peft]'") from None
    return peft


def refuse_unlike(folder: Path, wrapped: Any) -> None:
    """Raise ConfigError if the weights in an adapter's file are not those of the layers that PEFT created.

    Missing weights would be random or zero, and surplus ones would be ignored.
    """
    expected = peft_library().get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    whole = {f"base_model.model.{name}" for name in wrapped.get_base_model().state_dict()}  # embeddings, heads
    missing, surplus = sorted(expected - saved), sorted(saved - expected - whole)
    if missing or surplus:
        parts = [f"it lacks {listed(missing)}"] * bool(missing)
        parts += [f"it has {listed(surplus)}, which fits no layer"] * bool(surplus)
        raise ConfigError(
            f"adapter {folder}: {CONFIG} and {WEIGHTS} do not fit the base: {', and '.join(parts)}: give the files of "
            "one adapter, and its original base"
        )


def load_any(name: str, dtype: str = "auto", device: str = "auto", trains: bool = False) -> tuple[Policy, Any]:
    """The policy and its tokenizer: of a model, as `obverse.models.load.load`, or of an adapter merged into its base.

    The tokenizer, with its chat template, is that of the adapter's folder if it has one. Raises ConfigError for a
    missing model or library and for an adapter that does not fit its base, CheckpointError for one of another base.
    """
    base = base_of(name)
    if base is None:
        return load(name, dtype, device, trains)
    peft, folder = peft_library(), Path(name).expanduser()
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"adapter {name}: it has no {WEIGHTS}, and weights in another format are not read")
    policy, tokenizer = load(base, dtype, device, trains)
    if origin(folder):
        Origin.of(base).refuse_other(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's warnings about transformers
            wrapped = peft.PeftModel.from_pretrained(policy.model, str(folder))
            refuse_unlike(folder, wrapped)
            merge = getattr(wrapped.base_model, "merge_and_unload", None)
            if merge is None:
                raise ValueError(f"{wrapped.peft_type.value} adapters cannot be merged into weights")
            merged = merge()
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"adapter {name} cannot be applied to {base}: {reason}") from None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        check_vocabulary(name, merged, tokenizer)
    return replace(as_policy(merged, policy.mixed), unused_weights=policy.unused_weights), tokenizer
