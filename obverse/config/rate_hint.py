"""The hint on a learning rate that was not given. No torch here."""

from __future__ import annotations

from obverse.config.train import TrainConfig
from obverse.methods._learning_rates import rate_hint

NOT_GIVEN = ("default", "paper")  # origins of a value that neither the user nor a preset gave


def learning_rate_hint(config: TrainConfig, num_parameters: int | None) -> str | None:
    """A sentence where the run's default learning rate is far from published ones; None if it was given or is near.

    `num_parameters` is the size of the model, None where it is unknown. No value is changed.
    """
    if config.learning_rate is None or config.origin("learning_rate") not in NOT_GIVEN:
        return None
    return rate_hint(config.method, config.learning_rate, num_parameters, config.use_peft)
