"""Fingerprints (sha256) of a run's inputs, by the name of the option that names each input.

Checkpoints store them, ranks compare them, and a run that resumes with other content is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers.utils import cached_file

from obverse import methods
from obverse.config.train import TrainConfig
from obverse.data.chat_template import read_template
from obverse.data.teacher_prompts import read_teacher_template
from obverse.errors import ConfigError
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import TrainingSchedule
from obverse.models.load import locate
from obverse.rewards import with_weights
from obverse.rewards.versions import identity
from obverse.runtime import fingerprint
from obverse.types import Problem

InputFingerprints = dict[str, str]
ALIKE = {"dataset": ("dataset_split", "num_problems")}  # further options that determine the same content
MODELS = frozenset({"model", "anchor_model", "reward_model", "teacher_model"})  # hashed after they are loaded
SERVED = frozenset({"teacher_name"})  # the name of the model behind --teacher_url


def of_files(config: TrainConfig, problems: Sequence[Problem], held_out: Sequence[Problem] = ()) -> InputFingerprints:
    """Fingerprints of rows, verifier, method file and chat template: all inputs but the models. Raises ConfigError."""
    spec = with_weights(config.verifier, config.verifier_weights)
    inputs = {"dataset": fingerprint.rows(problems, row_verifiers=spec is None)}
    if held_out:
        inputs["eval_dataset"] = fingerprint.rows(held_out, row_verifiers=spec is None)
    if spec is not None:
        inputs["verifier"] = identity(spec)
    if ":" in config.method:
        inputs["method"] = methods.identity(config.method)
    if (template := read_template(config.chat_template)) is not None:
        inputs["chat_template"] = fingerprint.text(template)
    if (text := read_teacher_template(config.teacher_template)) is not None:
        inputs["teacher_template"] = fingerprint.text(text)
    return inputs


def of_models(config: TrainConfig, schedule: TrainingSchedule) -> InputFingerprints:
    """Fingerprints of the models that a resumed run loads again because no checkpoint contains them.

    A model folder is hashed just after it was loaded. An adapter's base is checked by `adapter_io.Origin`.
    """
    reads_anchor = any(method.reads_anchor or samples_initial(method) for method in schedule.methods)
    reads_initial = (reads_anchor and config.anchor_model is None) or any(
        method.inputs is not None for method in schedule.methods
    )
    inputs = {}
    if reads_initial and not config.use_peft:
        inputs["model"] = of_model(config.model, weights_only=True)
    if reads_anchor and config.anchor_model is not None:
        inputs["anchor_model"] = of_model(config.anchor_model, weights_only=True)
    if config.reward_model is not None:
        inputs["reward_model"] = of_model(config.reward_model)
    return inputs | of_teachers(config)


def of_teachers(config: TrainConfig) -> InputFingerprints:
    """The fingerprint of the models of --teacher_model, with their values of --teacher_field; {} without it."""
    if not config.teacher_models:
        return {}
    digests = [f"{value}={of_model(name, weights_only=True)}" for value, name in config.teacher_models.items()]
    is_one = config.teacher_field is None
    return {"teacher_model": digests[0][1:] if is_one else fingerprint.text(",".join(sorted(digests)))}


def of_model(name: str, weights_only: bool = False) -> str:
    """The fingerprint of a model folder's files, or a hub name with its commit. Raises ConfigError."""
    source = locate(name)
    try:
        if Path(source).is_dir():
            return fingerprint.model(Path(source), weights_only)
        return f"{source}@{Path(str(cached_file(source, 'config.json'))).parent.name}"
    except OSError as error:
        raise ConfigError(f"model {name!r}: its files cannot be read: {error}") from None


def refuse_unexpected(expected: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    """Raise ConfigError if an input differs from the expected one."""
    for name, (before, after) in differences(expected, inputs).items():
        raise ConfigError(
            f"--{name}: the comparison was started with {before}, and now has {after}: all of its runs use the same: "
            "restore it, or start another comparison"
        )


def fingerprint_facts(inputs: Mapping[str, str]) -> dict[str, str]:
    """Short fingerprints as facts for ranks to compare, with readable names."""
    return {f"{name} with sha256": fingerprint.short(value) for name, value in inputs.items()}


def differences(saved: Mapping[str, str], current: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The inputs with different fingerprints, each with two phrases of shortened digests: saved and current."""
    kind = {"dataset": "rows with sha256", "teacher_name": "the served model"}
    return {
        name: (
            f"{kind.get(name, 'content with sha256')} {fingerprint.short(saved[name])}",
            f"{kind.get(name, 'content with sha256')} {fingerprint.short(value)}",
        )
        for name, value in current.items()
        if name in saved and saved[name] != value
    }
