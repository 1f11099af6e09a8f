"""Adapter folders in PEFT's layout: which base they belong on, and both as one model for who only reads it."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer
from transformers.utils import cached_file

from obverse.errors import CheckpointError, ConfigError
from obverse.models.checkpoint_weights import check_vocabulary, listed
from obverse.models.load import EMBEDDED, load, locate
from obverse.models.policy import Policy, as_policy

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ORIGIN = "base.json"  # our own word on the base, beside what PEFT writes


@dataclass(frozen=True)
class Origin:
    """The base that adapters were trained on."""

    name: str  # as --model called it
    place: str  # where it lies: a folder's full path, or a hub name
    sha256: str  # of its weights

    @classmethod
    def of(cls, name: str) -> Origin:
        """Of a model that was loaded just now: a hub's files then lie in its cache."""
        place = locate(name)
        folder = Path(place)
        if not folder.is_dir():
            folder = Path(str(cached_file(place, "config.json", local_files_only=True))).parent
            return cls(name, place, digest(folder))
        return cls(name, str(folder.resolve()), digest(folder))

    def write(self, folder: Path) -> None:
        (folder / ORIGIN).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def refuse_other(self, folder: Path) -> None:
        """Raise CheckpointError where an adapter's folder says that it was trained on other weights than these."""
        then = origin(folder)
        if then.get("sha256", self.sha256) != self.sha256:
            raise CheckpointError(
                f"adapter {folder}: it was trained on {then.get('name')!r:.200}, whose weights have the sha256 "
                f"{then['sha256']!s:.12}, and those of {self.name!r:.200} have {self.sha256:.12}: give it its own base"
            )


def digest(folder: Path) -> str:
    """sha256 of a model's weight files, by their names and in that order."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def origin(folder: Path) -> dict[str, Any]:
    """What a folder says of its base in our own words; empty where another program wrote it."""
    return _read(folder, ORIGIN) if (folder / ORIGIN).is_file() else {}


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"adapter {folder}: {name} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"adapter {folder}: {name} is not an object")
    return found


def is_adapter(place: str | Path) -> bool:
    """Whether this is the folder of an adapter."""
    return (Path(place).expanduser() / CONFIG).is_file()


def base_of(place: str) -> str | None:
    """The base model that an adapter's folder names, None for a folder or name that is no adapter.

    A relative path is that from here, or from the adapter's folder. Raises ConfigError where none is named.
    """
    folder = Path(place).expanduser()
    if not is_adapter(folder):
        return None
    if origin(folder).get("name") == "embedded":  # wherever it was installed then
        return str(EMBEDDED)
    base = _read(folder, CONFIG).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"adapter {place}: {CONFIG} names no base_model_name_or_path to put it on")
    beside = folder / str(base)
    return str(beside) if not Path(base).is_dir() and beside.is_dir() else str(base)


def peft_library() -> Any:
    """The library PEFT, imported now; ConfigError, which says how to get it, where it is not installed."""
    try:
        import peft.utils.transformers_weight_conversion  # a second that only adapters should cost, and an extra
    except ImportError:
        raise ConfigError("adapters: install the library peft, pip install 'obverse[peft]'") from None
    return peft


def refuse_unlike(folder: Path, wrapped: Any) -> None:
    """Raise ConfigError where an adapter's file has other weights than PEFT has made places for.

    What is missing would be random or zero, and what is left over is no part of the sum.
    """
    own = peft_library().get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    whole = {f"base_model.model.{name}" for name in wrapped.get_base_model().state_dict()}  # embeddings, heads
    missing, left = sorted(own - saved), sorted(saved - own - whole)
    if missing or left:
        parts = [f"it lacks {listed(missing)}"] * bool(missing)
        parts += [f"nothing has a place for {listed(left)}"] * bool(left)
        raise ConfigError(
            f"adapter {folder}: {CONFIG} and {WEIGHTS} do not fit the base: {', and '.join(parts)}: give the files of "
            "one adapter, and its own base"
        )


def load_any(place: str, dtype: str = "auto", device: str = "auto", trains: bool = False) -> tuple[Policy, Any]:
    """The policy and its tokenizer: of a model as `obverse.models.load.load`, of an adapter merged into its base model.

    The tokenizer (and with it the chat template) is the adapter's own where its folder has one. Raises ConfigError when
    there is no such model, when peft is not installed, or when the adapter does not fit its base; CheckpointError when
    it was trained on another one.
    """
    base = base_of(place)
    if base is None:
        return load(place, dtype, device, trains)
    peft, folder = peft_library(), Path(place).expanduser()
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"adapter {place}: it has no {WEIGHTS}, and weights in another format are not read")
    policy, tokenizer = load(base, dtype, device, trains)
    if origin(folder):
        Origin.of(base).refuse_other(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what PEFT asks of transformers, which is no news for a reader
            wrapped = peft.PeftModel.from_pretrained(policy.model, str(folder))
            refuse_unlike(folder, wrapped)
            merge = getattr(wrapped.base_model, "merge_and_unload", None)
            if merge is None:
                raise ValueError(f"{wrapped.peft_type.value} adapters cannot be merged into weights")
            merged = merge()
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"adapter {place} cannot be put on {base}: {reason}") from None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        check_vocabulary(place, merged, tokenizer)
    return as_policy(merged, mixed=policy.mixed), tokenizer
