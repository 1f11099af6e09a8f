"""The options of trackers. No torch here."""

from __future__ import annotations

from typing import Literal

from obverse.config.fields import Listed, Options, Text, option


class TrackerOptions(Options):
    """The trackers that receive the figures of a run beside its own files, by TRL's names."""

    report_to: Listed[Literal["all", "jsonl", "tensorboard", "trackio", "wandb"]] | None = option(
        "logging and saving",
        "trackers that also receive figures, evaluations and completions, separated by commas; all: every installed "
        "one; none or jsonl: the run folder's files, which are always written",
        None,
        resume="free",
    )
    project: Text | None = option(
        "logging and saving", "the trackers' project; none: obverse (or WANDB_PROJECT)", None, resume="free"
    )
    run_name: Text | None = option(
        "logging and saving", "the run's name in the trackers; none: its folder's", None, resume="free"
    )
    run_group: Text | None = option(
        "logging and saving",
        "group of runs in the trackers; none: a comparison's folder, else none",
        None,
        resume="free",
    )
