"""The schemas of the commands that read their own words; those of the others are in the table of commands."""

from __future__ import annotations

from obverse.config.commands import DataConfig, MethodsConfig, RunsConfig, ServeConfig
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig
from obverse.config.fields import Options
from obverse.config.train import TrainConfig

SCHEMAS: dict[str, type[Options]] = {
    "compare": CompareConfig,
    "data": DataConfig,
    "eval": EvalConfig,
    "methods": MethodsConfig,
    "runs": RunsConfig,
    "serve-vllm": ServeConfig,
    "train": TrainConfig,
}
