"""The options of a comparison: those of training, and the budget, seeds and tests of its runs. No torch import."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from obverse.config.fields import Amount, Folder, Listed, Place, Positive, Text, Texts, distinct, each_at_home, option
from obverse.config.train import HUB_OPTIONS, TrainConfig


def _words(value: Any) -> Any:
    return tuple(value.split()) if isinstance(value, str) else value


def _at_home(values: tuple[str, ...]) -> tuple[str, ...]:
    return distinct(tuple(map(each_at_home, values)))


class CompareConfig(TrainConfig):
    """A comparison: its methods, budget and tests; every other option holds for each run."""

    # options of training that the comparison sets for its runs
    settled: ClassVar[frozenset[str]] = frozenset(
        {"max_steps", "num_train_epochs", "learning_rate", "eval_dataset", "eval_steps", "num_eval_problems"}
        | {
            "save_steps",
            "save_minutes",
            "save_total_limit",
            "resume_from_checkpoint",
            "logging_steps",
            "num_completions_to_print",
            *HUB_OPTIONS,
            "run_name",
        }
    )
    essential: ClassVar[tuple[str, ...]] = (
        *("model", "dataset", "tests", "validation", "verifier", "prompts_per_step", "seeds", "learning_rates"),
        *("max_completion_length", "num_generations_test", "k", "use_peft", "jobs", "output_dir"),
    )
    method: Text = "compare"
    methods: Annotated[tuple[Text, ...], BeforeValidator(_words), AfterValidator(_at_home), Field(min_length=1)] = (
        option("method", "methods to compare, separated by spaces; options of one follow commas: NAME,option=value")
    )
    baselines: Listed[Text] | None = option(
        "method", "labels of the methods that others are compared with; none: all that train on one source alone", None
    )
    learning_rates: Listed[Annotated[float, Field(gt=0)]] | None = option(
        "optimization", "try these for every method and take the best on validation; none: each method's default", None
    )
    budget: Amount = option("batch", "budget of each run (20M is 20,000,000), in units of budget_in")
    teacher_cost: Amount | None = option(
        "batch",
        "what training the model of teacher_model took, in units of budget_in: methods that read it have so much less "
        "budget; none: it is not counted",
        None,
    )
    seeds: int = option("optimization", "runs of each method, with seeds from --seed on", 3, ge=1, le=1000)
    tests: Annotated[Texts, AfterValidator(_at_home)] = option(
        "data",
        "test sets, separated by commas: name=dataset, name=dataset@split or a benchmark's name; ood... is out "
        "of distribution, seen... is from training; none: three levels of the embedded task and its ood split",
        (),
    )
    benchmark_dir: Folder | None = option(
        "data", "take the benchmarks from files in this folder; none: from the hub", None
    )
    validation: Place | None = option(
        "data", "problems by which rates and steps are chosen; none: the first of each test in distribution", None
    )
    num_validation_problems: int = option("data", "problems of validation", 96, ge=1)
    num_test_problems: int = option("data", "problems of each test", 100, ge=1)
    num_generations_test: int = option("sampling", "completions per test problem", 8, ge=1)
    k: Listed[Positive] = option("sampling", "the k of pass@k, separated by commas", (1, 8))
    num_marks: int = option(
        "data", "times at which a run is validated, its end included; the best of them is reported", 8, ge=1
    )
    jobs: int = option("batch", "runs at the same time, one process each", 1, ge=1, le=1024)
    output_dir: Folder | None = option(
        "logging and saving", "the comparison's folder, continued if it has begun; none: runs/compare-DATASET-N", None
    )

    @model_validator(mode="after")
    def _enough(self) -> CompareConfig:
        if max(self.k) > self.num_generations_test:
            raise ValueError(f"num_generations_test {self.num_generations_test} is too few for k = {max(self.k)}")
        if self.teacher_cost is not None and self.teacher_model is None:
            raise ValueError("teacher_cost is the cost of a teacher: add teacher_model")
        if self.teacher_cost is not None and self.teacher_cost >= self.budget:
            raise ValueError(f"teacher_cost {self.teacher_cost:,} leaves nothing of the budget {self.budget:,}")
        return self

    @classmethod
    def groups(cls) -> dict[str, list[str]]:
        """The groups of every command, without the options that the comparison sets."""
        return {
            group: names
            for group, all_names in super().groups().items()
            if (names := [name for name in all_names if name not in cls.settled])
        }
