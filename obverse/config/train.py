"""The options of every command. No torch here.

A method's options stand beside the run's: `schema(hpt)` is TrainConfig plus the keyword parameters of `hpt`. What wins
when an option is given in several places is decided in `obverse.config.resolve`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from obverse.config.fields import (
    KWARGS_TEXT,
    PARSE_TEXT,
    Amount,
    Every,
    Folder,
    Listed,
    ModelOptions,
    Options,
    Place,
    Places,
    Positive,
    SamplingOptions,
    Schedule,
    Template,
    Text,
    Texts,
    Variables,
    Weights,
    option,
    resume_word,
    steps_or_epochs,
)
from obverse.config.scale import (
    AdapterOptions,
    CardOptions,
    DistributedOptions,
    EngineOptions,
    MixtureOptions,
    PositionOptions,
)
from obverse.errors import ConfigError
from obverse.methods import option_help

# How the embedded base wants to be trained: it is tiny, so steps are larger and completions short.
# Micro batches of 1,536 tokens stay in a core's cache: twice as fast there as one large batch.
EMBEDDED_PRESET: dict[str, Any] = {
    "learning_rate": 5e-4,
    "critic_learning_rate": 1e-3,
    "imitation_learning_rate": 5e-4,
    "adam_beta2": 0.95,
    "max_completion_length": 96,
    "micro_batch_tokens": 1536,
}


CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192  # padded tokens of a micro batch, where nobody says


class TrainConfig(
    ModelOptions,
    SamplingOptions,
    DistributedOptions,
    EngineOptions,
    AdapterOptions,
    PositionOptions,
    MixtureOptions,
    CardOptions,
):
    """Everything that decides a training run; `method_options` holds the method's own, which are written flat."""

    of_method: ClassVar[tuple[str, ...]] = ()  # the method's parameters, in a class made by schema()

    method: Text = Field(description="a method's name (obverse methods) or file.py:function")
    method_options: dict[str, Any] = Field(
        default_factory=dict, description="what the method's function is called with"
    )

    dataset: Place = option(
        "data", "embedded task with difficulties, a file of rows, a folder or a hub name", "arithmetic:1-6"
    )
    dataset_split: Text = option("data", "split of the dataset to train on", "train")
    num_problems: Positive | None = option(
        "data", "train on so many problems; none: all (or the embedded task's number)", None
    )
    verifier: Places | None = option(
        "data",
        "grade by this name or file.py:function, or by several, separated by commas, instead of the rows' own",
        None,
    )
    verifier_weights: Weights = option(
        "data", "what each of several verifiers counts in the reward, separated by commas; none: 1 each", ()
    )
    verifier_seconds: float = option("data", "longest that file.py:function may take for one completion", 10.0, gt=0)
    max_grader_errors: float = option(
        "data", "stop a run once more than this share of its samples could not be graded", 0.01, ge=0, le=1
    )
    reward_model: Place | None = option(
        "data", "score own samples with this reward model (a folder or hub name) instead of a verifier", None
    )
    max_mismatch_kl: Annotated[float, Field(gt=0)] | None = option(
        "sampling",
        "stop once sampler and trainer differ by more than this on samples just drawn, KL in nats a token; none: never",
        0.01,
    )
    format_reward: float = option("data", "reward of a wrong answer that has the form the verifier reads", 0.0, ge=0)
    anchor_model: Place | None = option(
        "model", "initial model that the policy is compared with; none: the model as the run begins", None
    )
    max_prompt_length: Positive | None = option(
        "data", "leave out problems with longer prompts, in tokens; none: no limit", None
    )
    eval_dataset: Place | None = option("data", "problems to evaluate on while training", None)
    eval_steps: Every = option(
        "data", "evaluate every so many steps, or, below 1, every such share of the run; 0: only at the end", 0
    )
    num_eval_problems: int = option("data", "problems of eval_dataset to evaluate on", 100, ge=1)
    num_generations_eval: int = option("data", "completions per problem in these evaluations", 4, ge=1)

    prompts_per_step: int = option(
        "batch", "problems per update; times the completions per problem is the batch", 32, ge=1
    )
    num_iterations: int = option("batch", "passes over the samples of a step", 1, ge=1)
    num_mini_batches: int = option("batch", "updates that the problems of a step are dealt to, per pass", 1, ge=1)
    gradient_checkpointing: bool = option(
        "batch", "keep each layer's input only and compute it again: less memory, a third more work", False
    )
    micro_batch_tokens: Positive | None = option(
        "batch",
        "tokens per forward pass, padding included; never changes a gradient; none: 1,024 on a CPU, else 8,192",
        None,
    )
    max_steps: Annotated[int, AfterValidator(steps_or_epochs), Field(ge=-1)] = option(
        "batch", "updates to take; -1: by num_train_epochs", -1
    )
    budget: Amount | None = option(
        "batch", "stop once so much is spent (20M is 20,000,000), in units of budget_in; none: by steps alone", None
    )
    budget_in: Literal["tokens", "flops", "seconds", "steps"] = option(
        "batch",
        "what budget counts: tokens generated plus trained; flops, 2 per parameter and generated token, 6 per trained "
        "one; seconds of the steps; steps",
        "tokens",
    )
    rollout_batch_size: int = option("batch", "completions decoded side by side", 256, ge=1)
    num_train_epochs: float = option("batch", "passes over the problems, if max_steps is -1", 3.0, gt=0)

    learning_rate: float | None = option(
        "optimization", "peak step size of AdamW; none: the paper's, or the preset's", None, ge=0
    )
    imitation_learning_rate: float | None = option(
        "optimization",
        "peak step size of steps on demonstrations, in methods that take them apart; none: as others",
        None,
        ge=0,
    )
    critic_learning_rate: float = option("optimization", "peak step size of a critic, for methods with one", 1e-5, ge=0)
    lr_scheduler_type: Schedule = option("optimization", "course of the learning rate over the run", "constant")
    warmup_steps: int = option("optimization", "steps over which the learning rate rises from 0", 0, ge=0)
    weight_decay: float = option("optimization", "AdamW's decoupled decay, on matrices only", 0.0, ge=0)
    adam_beta1: float = option("optimization", "decay of the gradient's running mean", 0.9, ge=0, lt=1)
    adam_beta2: float = option("optimization", "decay of the squared gradient's running mean", 0.999, ge=0, lt=1)
    adam_epsilon: float = option("optimization", "added to AdamW's denominator", 1e-8, gt=0)
    max_grad_norm: float = option("optimization", "clip the gradient's norm to this; 0 is off", 1.0, ge=0)
    skip_grad_norm: Annotated[float, Field(gt=0)] | None = option(
        "optimization", "take no step above this gradient norm; none is off", None
    )
    seed: int = option("optimization", "decides data order, sampling and everything else random", 42, ge=0)

    temperature: float = option("sampling", "of the distribution that is sampled and trained", 1.0, gt=0)

    output_dir: Folder | None = option(
        "logging and saving", "run folder; none: runs/METHOD-DATASET-N, the next free N", None
    )
    logging_steps: int = option("logging and saving", "write a row of metrics every so many steps", 1, ge=1)
    log_completions: bool = option("logging and saving", "write every completion to samples/", True)
    num_completions_to_print: int = option("logging and saving", "completions to print at a logged step", 0, ge=0)
    report: bool = option("logging and saving", "end by writing report.html into the run folder", True)
    save_steps: Every = option(
        "logging and saving",
        "checkpoint every so many steps, or, below 1, every such share of the run; 0: not by steps; always at the end "
        "and when stopped",
        500,
    )
    save_minutes: float = option(
        "logging and saving", "checkpoint so many minutes after the last one, too; 0: not by time", 30.0, ge=0
    )
    save_total_limit: int = option(
        "logging and saving", "checkpoints to keep, the newest; the run's older ones are removed", 2, ge=1
    )
    resume_from_checkpoint: Annotated[Place, BeforeValidator(resume_word)] = option(
        "logging and saving",
        "never, auto (the newest in output_dir; a folder without a run begins one) or a checkpoint's path",
        "never",
    )
    allow_config_change: Texts = option(
        "logging and saving",
        "options that may differ from those that the resumed checkpoint was made with, separated by commas",
        (),
    )

    @model_validator(mode="after")
    def _enough_problems(self) -> TrainConfig:
        if self.num_mini_batches > self.prompts_per_step:
            raise ValueError(
                f"num_mini_batches {self.num_mini_batches} is more than the {self.prompts_per_step} problems of a step"
            )
        return self

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per collection of samples."""
        return self.num_iterations * self.num_mini_batches

    def tokens_at_once(self, device: str) -> int:
        """Tokens of a forward pass on a device of that type: a CPU is no slower with few, and they need less memory."""
        return self.micro_batch_tokens or (CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS)

    def model_post_init(self, context: Any) -> None:
        """What the method's function is called with, run options that it shares included."""
        self.method_options.update({name: getattr(self, name) for name in self.of_method})


class GradeConfig(Options):
    """What `obverse grade` grades, and by what."""

    verifier: Places = option("data", "a verifier's name, file.py:function, or several, separated by commas")
    file: Folder = option("data", "rows of prediction and answer: a .jsonl, .json, .csv, .parquet or .arrow file")
    verifier_weights: Weights = option("data", "what each of several verifiers counts; none: 1 each", ())
    verifier_seconds: float = option("data", "longest that file.py:function may take for one row", 10.0, gt=0)


class DemoConfig(Options):
    """The demonstration: methods on the embedded base and task, the same budget for each."""

    methods: Listed[Place] = option("method", "methods to run one after another, separated by commas", ("hpt",))
    seed: int = option("data", "decides data order, sampling and everything else random", 42, ge=0)
    max_steps: Positive | None = option("data", "updates per method; none: what fits in about a minute", None)
    output_dir: Folder | None = option("data", "where the run folders go; none: runs/demo-N, the next free N", None)
    report: bool = option("data", "end by writing report.html there", True)


class MethodsConfig(Options):
    """What `obverse methods` makes of its list."""

    pages: Folder | None = option("output", "write a page per method and an index into this folder", None)


class DataConfig(Options):
    """What `obverse data` looks at."""

    dataset: Place = option("data", "embedded task with difficulties, a file of rows, a folder or a hub name")
    dataset_split: Text = option("data", "split of the dataset", "train")
    num_problems: Positive | None = option("data", "read at most so many problems; none: all", None)
    num: int = option("data", "problems to show", 2, ge=1)
    seed: int = option("data", "seed of the embedded tasks and of what is drawn from larger data", 42, ge=0)
    model: Place | None = option("model", "also show the tokens of this model's tokenizer; none: text only", None)
    chat_template: Template = option(
        "model", "auto, none, a text holding {prompt}, or the path of a .jinja file", "auto"
    )
    system_prompt: str | None = option("model", "system message for problems that have none", None)
    chat_template_kwargs: Variables = option("model", KWARGS_TEXT, {})
    parse_special_tokens: bool = option("model", PARSE_TEXT, False)


def method_fields(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The keyword parameters of a method's function as pydantic fields: (type, field). Defaults are the function's.

    A parameter without an annotation has its default's type; counts (`num_*`, `max_*`) are at least 1. The help text of
    a parameter that is also an option of the run is the run's, that of others is in the method's docstring.
    """
    texts = option_help(make)
    fields: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(make, eval_str=True).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        run_option = TrainConfig.model_fields.get(name)
        if run_option is None and hasattr(TrainConfig, name):
            raise ConfigError(f"{make.__name__}: a parameter called {name} cannot be an option: give it another name")
        default = ... if parameter.default is parameter.empty else parameter.default
        kind = parameter.annotation
        if kind is parameter.empty:
            kind = Any if default in (..., None) else type(default)
        bounds = {"ge": 1} if kind is int and name.startswith(("num_", "max_")) else {}
        text = run_option.description if run_option else texts.get(name)
        fields[name] = (kind, option("method", text or f"option of {make.__name__}", default, **bounds))
    return fields


def schema(make: Callable[..., Any]) -> type[TrainConfig]:
    """TrainConfig with the options of a method beside the run's; a name that both have is the run's option."""
    fields = method_fields(make)
    own: dict[str, Any] = {name: field for name, field in fields.items() if name not in TrainConfig.model_fields}
    made = create_model(f"{make.__name__}_config", __base__=TrainConfig, __doc__=TrainConfig.__doc__, **own)
    made.of_method = tuple(fields)
    return made


def method_schema(make: Callable[..., Any]) -> type[Options]:
    """The options of a method alone, for commands that train nothing."""
    fields: dict[str, Any] = dict(method_fields(make))
    return create_model(f"{make.__name__}_options", __base__=Options, **fields)
