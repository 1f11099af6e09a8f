"""The options of `obverse analyze`, a class per question. No torch import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from obverse.config.fields import (
    Folder,
    Listed,
    ModelOptions,
    Options,
    Place,
    Places,
    Positive,
    SamplingOptions,
    Text,
    option,
)


def _rising(rates: tuple[float, ...]) -> tuple[float, ...]:
    if list(rates) != sorted(rates) or not 0 < rates[0] <= rates[-1] < 1:
        raise ValueError("success rates must rise, and be between 0 and 1")
    return rates


def output_option() -> Any:
    return option("output", "write the figures as JSON into this folder; none: a run's analysis/, else nowhere", None)


class VarianceConfig(Options):
    """Bias and variance of gradients, exactly, where all completions can be listed."""

    methods: Listed[Place] | None = option(
        "method", "methods, separated by commas; none: all that can be enumerated", None
    )
    num_generations: int = option("batch", "completions per problem, for methods that sample", 4, ge=1)
    rates: Annotated[Listed[float], AfterValidator(_rising)] = option(
        "batch", "success rates of the policies that are measured", (0.01, 0.1, 0.5, 0.9)
    )
    seed: int = option("sampling", "seed of the initial random policy", 0, ge=0)
    output: Folder | None = output_option()


class AnalysisOptions(ModelOptions, SamplingOptions):
    """A model at one or several points of its training, and problems for it."""

    essential: ClassVar[tuple[str, ...]] = (
        *("dataset", "verifier", "max_completion_length", "num_problems", "num_generations", "output", "methods"),
        *("initial", "num_batches", "step", "num_completions", "before", "num_tokens", "seed"),
    )

    model: Place = option("model", "a run folder, a transformers directory, a hub name or embedded")
    dataset: Place | None = option("data", "problems; none: the run's, or the embedded task", None)
    dataset_split: Text = option("data", "split of the dataset", "train")
    verifier: Places | None = option("data", "grade by this name or file.py:function instead of the rows' own", None)
    temperature: float = option("sampling", "of the distribution that is sampled and trained", 1.0, gt=0)
    micro_batch_tokens: int = option("batch", "tokens per forward pass, padding included", 16384, ge=1)
    seed: int = option("sampling", "decides which problems and completions are drawn", 42, ge=0)
    output: Folder | None = output_option()


class BatchOptions(AnalysisOptions):
    """Fresh batches of a model, as a run would take them."""

    methods: Listed[Place] | None = option("method", "methods, separated by commas; none: the run's", None)
    num_generations: Positive | None = option("batch", "completions per problem; none: each method's number", None)
    initial: Place | None = option("model", "the initial model; none: the run's, or the model itself", None)
    num_problems: int = option("data", "problems per batch", 8, ge=1)
    progress: Annotated[float, Field(ge=0, le=1)] | None = option(
        "batch", "share of a run that is done, for schedules; none: the run's, or 0", None
    )


class GradientsConfig(BatchOptions):
    """Signal and noise of gradients on real batches, and the angles between."""

    num_batches: int = option("batch", "batches to take the gradient of", 16, ge=2)
    sketch: int = option("batch", "length of the random sketch of a gradient; 0: the whole gradient", 65536, ge=0)


class CoefficientsConfig(BatchOptions):
    """The share of the gradient by kind of token, and completions token by token."""

    step: Positive | None = option(
        "data", "take the samples that the run stored at this step; none: a fresh batch", None
    )
    sampler: Place | None = option("model", "the model that sampled a fresh batch; none: the model itself", None)
    num_completions: int = option(
        "output", "completions to show token by token, those with the largest coefficients", 4, ge=0
    )


class ShiftConfig(AnalysisOptions):
    """Token probabilities of the same texts before and after training."""

    before: Place | None = option("model", "the model before training; none: the run's initial model", None)
    num_problems: int = option("data", "problems whose completions are compared", 64, ge=1)
    num_generations: int = option("sampling", "completions of the model before, per problem", 2, ge=0)
    num_tokens: int = option("output", "most raised and most lowered tokens to list", 10, ge=1)


class CoverageConfig(AnalysisOptions):
    """pass@k of a base model against what was trained from it."""

    model: Place = option("model", "the base: a stored evaluation (its folder or result.json), a run or a model")
    against: Listed[Place] = option("model", "the same for what was trained from it; several with commas")
    dataset_split: Text = option("data", "split of the dataset", "heldout")
    num_problems: int = option("data", "problems to sample models on", 100, ge=1)
    num_generations: int = option("sampling", "completions per problem of a model without stored samples", 64, ge=1)
    temperature: float = option("sampling", "of the sampled distribution; 0 is greedy", 1.0, ge=0)


def default_output(config: Options) -> Path | None:
    """The default folder of the figures: analysis/ in the first run that the question is about, None without a run."""
    models = (getattr(config, "model", ""), *getattr(config, "against", ()))
    runs = (Path(model) for model in models if model and (Path(model) / "config.yaml").is_file())
    return next((run / "analysis" for run in runs), None)


QUESTIONS: dict[str, type[Options]] = {
    "variance": VarianceConfig,
    "gradients": GradientsConfig,
    "coefficients": CoefficientsConfig,
    "shift": ShiftConfig,
    "coverage": CoverageConfig,
}
