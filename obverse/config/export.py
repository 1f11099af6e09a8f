"""The options of `obverse export`. No torch here."""

from __future__ import annotations

from typing import Literal

from obverse.config.fields import Folder, Options, Place, option


class ExportConfig(Options):
    """What is made into a plain model, and where it goes."""

    model: Place = option("model", "a run folder (its newest checkpoint), a checkpoint or an adapter's folder")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "model", "of the weights written; auto: those of the checkpoint, or of an adapter's base", "auto"
    )
    output: Folder = option("output", "the new model's folder, which must not be there or be empty")
