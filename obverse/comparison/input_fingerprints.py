"""What the runs of a comparison read, as fingerprints in its plan: all of them read the same, whenever they begin."""

from __future__ import annotations

from obverse.comparison.plan import PLAN, Plan, Trial
from obverse.config.train import TrainConfig
from obverse.data import EMBEDDED
from obverse.errors import ConfigError
from obverse.rewards.versions import package_fingerprint
from obverse.runtime import integrity as sealing
from obverse.training import input_fingerprints as inputs

ANY_RATE = 1.0  # a configuration without a learning rate is none


def contents(plan: Plan) -> inputs.InputFingerprints:
    """Rows, verifier, methods, templates and models, by the name of the option and, where entries differ, the entry.

    Verifiers that ship with obverse are among them: an update in mid-way would grade the rest differently. Errors:
    ConfigError for what cannot be read.
    """
    found = {"dataset": plan.dataset, "the verifiers of obverse": package_fingerprint()}
    for entry in plan.entries:
        config = plan.resolved(Trial(entry, plan.config.seed), ANY_RATE)
        read = {**inputs.of_files(config, ()), **models(config)}
        del read["dataset"]
        for name, value in read.items():
            alike = name != "method" and found.setdefault(name, value) == value
            found |= {} if alike else {f"{name} of {entry.label}": value}
    return found


def models(config: TrainConfig) -> inputs.InputFingerprints:
    """Every model that an option names."""
    names = {name: getattr(config, name) for name in sorted(inputs.MODELS)}
    return {name: inputs.of_model(value) for name, value in names.items() if value is not None}


def refuse_changed(plan: Plan) -> None:
    """Raise ConfigError, with both values of each, where the comparison was begun with other contents than now.

    What an earlier version did not write down is not compared. DamageError where the plan is not what was written.
    """
    path = plan.root / PLAN
    then = sealing.read_sealed(path, required=True).get("inputs", {}) if path.exists() else {}
    changed = inputs.differences(then, contents(plan)) if then else {}
    if changed:
        told = "; ".join(f"{name}: {before} then, {now} now" for name, (before, now) in sorted(changed.items()))
        raise ConfigError(
            f"--output_dir: {plan.root} holds a comparison that was begun with other contents: {told}: put them back "
            "as they were, or choose another folder"
        )


def expected(plan: Plan) -> inputs.InputFingerprints:
    """What a run must read; the rows of an embedded task differ from seed to seed."""
    is_made_here = plan.config.dataset.partition(":")[0] in EMBEDDED
    return {} if is_made_here else {"dataset": plan.dataset}
