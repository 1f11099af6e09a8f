"""The record of a training run in one of its checkpoints: options, fingerprints of the data, versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from obverse.config.resolve import resolve
from obverse.config.train import HUB_OPTIONS, TrainConfig
from obverse.methods import find
from obverse.runtime import manifest
from obverse.runtime.run_dir import RunFolder

# Options that do not describe the model: where the run is written, how it was started, where its model is pushed.
NOT_SHOWN = TrainConfig.with_resume("unrecorded") | {*HUB_OPTIONS, "method", "method_options"}
GIVEN = ("model", "dataset", "learning_rate")  # shown even where they are the defaults
PATHS = {
    "model",
    "anchor_model",
    "reward_model",
    "teacher_model",
    "teacher_template",
    "dataset",
    "eval_dataset",
    "verifier",
    "chat_template",
    "method",
}
_FOLDERS = re.compile(r"(?:^|(?<=[,=]))~?/(?:[^/,]+/)+")  # the folders of an absolute path


@dataclass(frozen=True)
class TrainingRecord:
    """The facts about a training run that the manifest of a checkpoint contains.

    Attributes:
        step: The checkpoint's step.
        run: The run's id; "" if it is not recorded.
        options: Every option of the run by name, `method` and `method_options` included.
        inputs: Fingerprints by option (`dataset`, `eval_dataset`, `verifier`, `model`, ...), those that are recorded.
        versions: Versions of packages and Python, and the system.
    """

    step: int
    run: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method's name, or `file.py:function`."""
        return str(self.options["method"])

    @property
    def is_from_file(self) -> bool:
        """Whether the method is a function in a file of the user, which is not read again here."""
        return ":" in self.method

    def text(self, name: str) -> str:
        """An option's value as the command line reads it; absolute paths without their folders."""
        text = option_text(self.options.get(name))
        return _FOLDERS.sub("", text) if name in PATHS else text

    def verifier(self) -> str:
        """The verifier of completions, with the sha256 of its code if it is a function of the user."""
        if self.options.get("verifier") is None:
            return "that of each row"
        identity = self.inputs.get("verifier", "")
        return f"`{self.text('verifier')}`" + (f" (`{identity}`)" if "@" in identity else "")

    def command(self) -> str:
        """The `obverse train` command with every option that differs from its default, one per line.

        A method in a file of the user has defaults that are not recorded: its command has every option.
        """
        recorded = {**self.options.get("method_options", {}), **self.options}
        defaults = [] if self.is_from_file else self._defaults()
        changed = [
            name
            for name, value in sorted(recorded.items())
            if name not in NOT_SHOWN
            and (name in GIVEN or not defaults or any(value != values.get(name) for values in defaults))
        ]
        lines = [f"obverse train {quote(self.text('method'))}"]
        return " \\\n    ".join([*lines, *(f"--{name} {quote(self.text(name))}" for name in changed)])

    def _defaults(self) -> list[dict[str, Any]]:
        """The options without those of the method's paper and the model's preset, and with them, as JSON values."""
        make = find(self.method)
        resolved = resolve(self.method, make, {name: self.options[name] for name in GIVEN if name in self.options})
        plain = type(resolved).model_construct()  # unlike a resolved configuration, it has no other source of values
        return [plain.model_dump(mode="json"), resolved.model_dump(mode="json")]


def read_training_record(folder: Path) -> TrainingRecord | None:
    """The record of the run that wrote a checkpoint; None for any other folder, and for a manifest without options.

    Raises CheckpointError for an invalid manifest.
    """
    if not (folder / manifest.MANIFEST).is_file():
        return None
    info = manifest.run_info(folder)
    if "method" not in info.config:  # manifests of schema 1 have no options
        return None
    environment = RunFolder(folder.parent).environment()
    if environment.get("run") != info.run:
        environment = {}
    versions = {**info.packages, **{name: environment.get(name) for name in ("python", "system")}}
    step = int(manifest.read_manifest(folder)["step"])
    recorded = {name: str(version) for name, version in versions.items() if version}
    return TrainingRecord(step, info.run, info.config, info.inputs, recorded)


def option_text(value: Any) -> str:
    """A value as the command line reads it.

    Example: option_text([1, 8]) == "1,8", option_text(None) == "none", option_text(True) == "true"
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={option_text(item)}" for name, item in value.items())
    return ",".join(map(option_text, value)) if isinstance(value, list | tuple) else str(value)
