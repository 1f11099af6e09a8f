"""The options of `obverse eval`: problems, sampling, and how results are combined. No torch import."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

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


class EvalConfig(ModelOptions, SamplingOptions):
    """How a model is evaluated. The run may set an option that is not given (see `model_fields_set`)."""

    essential: ClassVar[tuple[str, ...]] = (
        *("dataset", "benchmarks", "num_problems", "verifier", "k", "num_generations", "temperature"),
        *("max_completion_length", "seed", "output", "paired", "over_seeds"),
    )

    model: Place = option("model", "a run folder, a transformers directory, a hub name or embedded")
    dataset: Place | None = option(
        "data", "what to evaluate on; none: the run's eval_dataset or held-out problems", None
    )
    dataset_split: Text | None = option("data", "split of the dataset; none: held-out or test", None)
    benchmarks: Listed[Text] | None = option(
        "data", "instead of a dataset: names, or names with a protocol such as aime24@avg32, separated by commas", None
    )
    benchmark_dir: Folder | None = option(
        "data", "take the benchmarks from files in this folder; none: from the hub", None
    )
    num_problems: int = option("data", "problems to evaluate on; of a benchmark all, unless given", 100, ge=1)
    verifier: Places | None = option("data", "grade by this name or file.py:function instead of the rows' own", None)
    k: Listed[Positive] = option("sampling", "the k of pass@k and maj@k, separated by commas", (1, 8))
    num_generations: Positive | None = option("sampling", "completions per problem; none: the largest k", None)
    temperature: float = option("sampling", "of the sampled distribution; 0 is greedy", 1.0, ge=0)
    seed: int = option("sampling", "decides which problems and completions are drawn", 42, ge=0)
    num_seeds: int = option("sampling", "repeat the sampling with this many seeds, from seed on", 1, ge=1)
    batch_size: int = option("batch", "completions sampled side by side", 256, ge=1)
    output: Folder | None = option(
        "logging and saving", "folder of the results; none: the run folder's eval/, else ./evals", None
    )
    show_tokens: bool = option("logging and saving", "print the token ids and the text of the first prompt", False)
    paired: bool = option(
        "logging and saving", "of two models: the second minus the first, problems gained and lost", False
    )
    over_seeds: bool = option(
        "logging and saving", "the models are one method's runs: also their mean, with an interval over seeds", False
    )

    @model_validator(mode="after")
    def _enough(self) -> EvalConfig:
        if self.num_generations is not None and self.num_generations < max(self.k):
            raise ValueError(f"num_generations {self.num_generations} is too few for k = {max(self.k)}")
        if self.benchmarks is not None and self.dataset is not None:
            raise ValueError("benchmarks and dataset: give one of them")
        if self.benchmark_dir is not None and self.benchmarks is None:
            raise ValueError("benchmark_dir is a folder of benchmarks: name them with --benchmarks")
        if self.paired and self.over_seeds:
            raise ValueError("paired and over_seeds: give one of them")
        return self

    @property
    def reached_k(self) -> tuple[int, ...]:
        """The k that there are enough samples for: all of them if num_generations was given."""
        return tuple(k for k in self.k if k <= self.num_samples)

    @property
    def num_samples(self) -> int:
        """Completions per problem."""
        if self.num_generations is None and self.temperature == 0 and "k" not in self.model_fields_set:
            return 1  # greedy decoding gives the same completion again
        return self.num_generations or max(self.k)


class RegradeConfig(Options):
    """How stored samples are graded again."""

    regrade: Folder = option("data", "a folder of stored samples, or one that holds several")
    verifier: Places | None = option(
        "data", "grade by this name or file.py:function instead of the problems' own", None
    )
    k: Listed[Positive] | None = option("sampling", "the k of pass@k and maj@k; none: those of the result", None)
