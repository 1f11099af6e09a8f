"""Fingerprints of the inputs of a comparison's runs, stored in its plan, so that all runs read the same inputs."""

from __future__ import annotations

from obverse.comparison.plan import PLAN, Plan, Trial
from obverse.config.train import TrainConfig
from obverse.data import EMBEDDED
from obverse.errors import ConfigError
from obverse.rewards.versions import package_fingerprint
from obverse.runtime import integrity as sealing
from obverse.training import input_fingerprints as inputs

ANY_RATE = 1.0  # any value: the configuration is resolved for its inputs only


def contents(plan: Plan) -> inputs.InputFingerprints:
    """Fingerprints of rows, verifier, methods, templates and models, by option and, where entries differ, by entry.

    The verifiers of obverse are included, because another version may grade differently. Raises ConfigError for an
    input that cannot be read.
    """
    fingerprints = {"dataset": plan.dataset, "the verifiers of obverse": package_fingerprint()}
    for entry in plan.entries:
        config = plan.resolved(Trial(entry, plan.config.seed), ANY_RATE)
        of_entry = {**inputs.of_files(config, ()), **models(config)}
        del of_entry["dataset"]
        for name, value in of_entry.items():
            is_shared = name != "method" and fingerprints.setdefault(name, value) == value
            fingerprints |= {} if is_shared else {f"{name} of {entry.label}": value}
    return fingerprints


def models(config: TrainConfig) -> inputs.InputFingerprints:
    """Fingerprints of the models that the configuration names, by option."""
    names = {name: getattr(config, name) for name in sorted(inputs.MODELS - {"teacher_model"})}
    of_models = {name: inputs.of_model(value) for name, value in names.items() if value is not None}
    return of_models | inputs.of_teachers(config)


def refuse_changed(plan: Plan) -> None:
    """Raise ConfigError, with both fingerprints, if an input changed since the comparison was begun.

    Inputs that an earlier version did not store are not compared. Raises DamageError for a damaged plan.
    """
    path = plan.root / PLAN
    before = sealing.read_sealed(path, required=True).get("inputs", {}) if path.exists() else {}
    changed = inputs.differences(before, contents(plan)) if before else {}
    if changed:
        changes = "; ".join(f"{name}: {old} then, {new} now" for name, (old, new) in sorted(changed.items()))
        raise ConfigError(
            f"--output_dir: {plan.root} has a comparison that was begun with other contents: {changes}: restore "
            "them, or choose another folder"
        )


def expected(plan: Plan) -> inputs.InputFingerprints:
    """The fingerprints that a run must check; the rows of an embedded task depend on the seed and are not checked."""
    is_generated = plan.config.dataset.partition(":")[0] in EMBEDDED
    return {} if is_generated else {"dataset": plan.dataset}
