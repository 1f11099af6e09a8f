"""The options of a training run. No torch here.

The method's own options are added by `obverse.config.method_options`; `obverse.config.resolve` decides which value
holds where an option is given in several places.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from obverse.config.fields import (
    Amount,
    Every,
    Folder,
    ModelOptions,
    Options,
    Place,
    Places,
    Positive,
    SamplingOptions,
    Schedule,
    Text,
    Texts,
    Weights,
    option,
    resume_word,
    steps_or_epochs,
)
from obverse.config.hub import HubOptions
from obverse.config.teacher import TeacherOptions
from obverse.config.trackers import TrackerOptions

# Options of the embedded base: it is tiny, so learning rates are larger and completions short.
# Micro batches of 1,536 tokens stay in a core's cache: twice as fast there as one large batch.
EMBEDDED_PRESET: dict[str, Any] = {
    "learning_rate": 5e-4,
    "critic_learning_rate": 1e-3,
    "imitation_learning_rate": 5e-4,
    "adam_beta2": 0.95,
    "max_completion_length": 96,
    "micro_batch_tokens": 1536,
}

HUB_OPTIONS = ("push_to_hub", "hub_model_id", "hub_private_repo")

CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192  # default of micro_batch_tokens: padded tokens of a micro batch


class DistributedOptions(Options):
    """How the ranks started by torchrun or accelerate launch share a run; without effect on a single process."""

    fsdp: bool = option(
        "distributed",
        "shard weights, gradients and moments over the ranks (FSDP2); false: every rank has all",
        False,
        resume="free",
    )
    fsdp_reshard_after_forward: bool = option(
        "distributed",
        "free a layer's gathered weights between forward and backward: less memory, more communication",
        True,
        resume="free",
    )
    fsdp_offload_params: bool = option(
        "distributed", "keep the shards in the CPU's memory while not used", False, resume="free"
    )
    fsdp_state_dict_type: Literal["full", "sharded"] = option(
        "distributed",
        "checkpoints as one model, or as each rank's shard, which obverse export combines",
        "full",
        resume="free",
    )
    ddp_timeout: Annotated[float, Field(gt=0)] = option(
        "distributed",
        "seconds without a sign of life after which a rank counts as lost and the others stop",
        600.0,
        resume="free",
    )


class EngineOptions(Options):
    """The engine that samples completions."""

    sampler: Literal["hf", "vllm"] = option(
        "sampling",
        "hf: the policy itself; vllm: a vLLM server that receives its weights (obverse serve-vllm)",
        "hf",
        resume="free",
    )
    vllm_url: Text = option("sampling", "address of the vLLM server", "http://127.0.0.1:8000", resume="free")
    vllm_timeout: Annotated[float, Field(gt=0)] = option(
        "sampling", "seconds to wait for a server that does not answer, over all retries", 300.0, resume="free"
    )
    async_sampling: bool = option(
        "sampling", "sample the next step's completions while this one trains, from weights one step older", False
    )


class AdapterOptions(Options):
    """Low-rank adapters in place of the whole policy (LoRA, 2106.09685; QLoRA, 2305.14314), by TRL's names.

    There is no dropout: the policy is in evaluation mode, so that a ratio compares one function of the weights.
    """

    use_peft: bool = option("model", "train low-rank adapters; the initial model is the policy without them", False)
    lora_r: int = option("model", "rank of the adapters", 16, ge=1)
    lora_alpha: int = option("model", "scale of the adapters, before it is divided by the rank", 32, ge=1)
    lora_target_modules: Texts = option(
        "model",
        "layers (or matrices of experts) with adapters, separated by commas; none: all linear layers below the head",
        (),
    )
    use_rslora: bool = option("model", "divide the scale by the rank's root instead of the rank (2312.03732)", False)
    load_in_4bit: bool = option("model", "store the frozen weights in 4 bits, NF4 (QLoRA; CUDA only)", False)

    @model_validator(mode="after")
    def _adapters_only_with_peft(self) -> AdapterOptions:
        fields = AdapterOptions.__annotations__
        unused = [name for name in fields if getattr(self, name) != AdapterOptions.model_fields[name].default]
        if unused and not self.use_peft:
            raise ValueError(f"{unused[0]} is an option of adapters: add use_peft")
        return self


class PositionOptions(Options):
    """Changes of the model's rotary positions and context length."""

    rope_theta: Annotated[float, Field(gt=0)] | None = option(
        "model", "base of the rotary positions, saved with the model; none: the model's", None
    )
    max_position_embeddings: Positive | None = option(
        "model", "context length of the saved model, in tokens; none: the model's", None
    )

    @property
    def positions(self) -> dict[str, float]:
        """The positions options that are given, by name."""
        given = {"rope_theta": self.rope_theta, "max_position_embeddings": self.max_position_embeddings}
        return {name: value for name, value in given.items() if value is not None}


class MixtureOptions(Options):
    """Options of mixtures of experts."""

    router_aux_loss_coef: Annotated[float, Field(ge=0)] = option(
        "optimization",
        "weight of the routers' balancing loss, over a whole update, for mixtures of experts; 0: none",
        0.0,
    )


class CardOptions(Options):
    """Compilation and memory records for GPUs."""

    torch_compile: bool = option(
        "batch", "compile the layers for training: minutes at the start, faster steps; same numbers but for rounding",
        False, resume="free",
    )  # fmt: skip
    memory_snapshot: Annotated[int, Field(ge=0)] = option(
        "logging and saving",
        "write memory-snapshot.json, torch's record of CUDA memory, at this step; 0: never",
        0,
        resume="free",
    )


class TrainConfig(
    HubOptions,
    ModelOptions,
    SamplingOptions,
    DistributedOptions,
    EngineOptions,
    AdapterOptions,
    PositionOptions,
    MixtureOptions,
    TeacherOptions,
    CardOptions,
    TrackerOptions,
):
    """All options of a training run; `method_options` has the method's own, which users give beside the others."""

    of_method: ClassVar[tuple[str, ...]] = ()  # the method's parameters, in a class made by train_schema()
    of_teachers: ClassVar[tuple[str, ...]] = ("teacher_model", "teacher_url")
    to_sample: ClassVar[tuple[str, ...]] = ("verifier", "max_completion_length", "temperature")
    to_train: ClassVar[tuple[str, ...]] = (
        *("model", "use_peft", "dataset", "eval_dataset", "eval_steps", "prompts_per_step", "micro_batch_tokens"),
        *("max_steps", "num_train_epochs", "learning_rate", "output_dir", "report_to"),
    )
    essential: ClassVar[tuple[str, ...]] = (*to_train, *to_sample)  # of a method that samples completions

    method: Text = Field(description="a method's name (obverse methods) or file.py:function")
    method_options: dict[str, Any] = Field(
        default_factory=dict, description="what the method's function is called with"
    )

    dataset: Place = option(
        "data", "embedded task with difficulties, a file of rows, a folder or a hub name", "arithmetic:1-6"
    )
    dataset_split: Text = option("data", "split of the dataset to train on", "train")
    num_problems: Positive | None = option(
        "data", "train on this many problems; none: all (or the embedded task's number)", None
    )
    verifier: Places | None = option(
        "data",
        "grade by this name or file.py:function, or by several, separated by commas, instead of the rows' own",
        None,
    )
    verifier_weights: Weights = option(
        "data", "weight of each verifier in the reward, separated by commas; none: 1 each", ()
    )
    verifier_seconds: float = option(
        "data", "time limit of file.py:function for one completion, in seconds", 10.0, gt=0, resume="free"
    )
    max_grader_errors: float = option(
        "data",
        "stop a run once more than this fraction of its samples could not be graded",
        0.01,
        ge=0,
        le=1,
        resume="free",
    )
    reward_model: Place | None = option(
        "data", "score completions with this reward model (a folder or hub name) instead of a verifier", None
    )
    max_mismatch_kl: Annotated[float, Field(gt=0)] | None = option(
        "sampling",
        "stop once sampler and trainer differ by more than this on samples just drawn, KL in nats a token; none: never",
        0.01,
        resume="free",
    )
    format_reward: float = option("data", "reward of a wrong answer that has the form the verifier reads", 0.0, ge=0)
    anchor_model: Place | None = option(
        "model",
        "reference model (TRL's ref_model, also accepted as this name); none: the model as the run begins",
        None,
    )
    max_prompt_length: Positive | None = option(
        "data", "leave out problems with longer prompts, in tokens; none: no limit", None
    )
    eval_dataset: Place | None = option("data", "problems to evaluate on while training", None, resume="evaluation")
    eval_steps: Every = option(
        "data",
        "steps between evaluations, or, below 1, the fraction of the run between them; 0: only at the end",
        0,
        resume="free",
    )
    num_eval_problems: int = option("data", "problems of eval_dataset to evaluate on", 100, ge=1, resume="evaluation")
    num_generations_eval: int = option(
        "data", "completions per problem in these evaluations", 4, ge=1, resume="evaluation"
    )

    prompts_per_step: int = option(
        "batch", "problems per update; times the completions per problem is the batch", 32, ge=1
    )
    num_iterations: int = option("batch", "passes over the samples of a step", 1, ge=1)
    num_mini_batches: int = option("batch", "updates per pass, over which the problems of a step are divided", 1, ge=1)
    gradient_checkpointing: bool = option(
        "batch",
        "store each layer's input only and recompute the rest: less memory, a third more work",
        False,
        resume="free",
    )
    micro_batch_tokens: Positive | None = option(
        "batch",
        "tokens per forward pass, padding included; never changes a gradient; none: 1,024 on a CPU, else 8,192",
        None,
        resume="free",
    )
    max_steps: Annotated[int, AfterValidator(steps_or_epochs), Field(ge=-1)] = option(
        "batch", "updates to take; -1: by num_train_epochs", -1, resume="free"
    )
    budget: Amount | None = option(
        "batch",
        "stop once this much is spent (20M is 20,000,000), in units of budget_in; none: by steps alone",
        None,
        resume="free",
    )
    budget_in: Literal["tokens", "flops", "seconds", "steps"] = option(
        "batch",
        "unit of budget: tokens generated plus trained, and those that a teacher scored; flops, 2 per parameter and "
        "generated or scored token, 6 per trained one; seconds of the steps; steps",
        "tokens",
    )
    rollout_batch_size: int = option("batch", "completions decoded side by side", 256, ge=1, resume="free")
    num_train_epochs: float = option("batch", "passes over the problems, if max_steps is -1", 3.0, gt=0, resume="free")

    learning_rate: float | None = option(
        "optimization", "peak learning rate of AdamW; none: the paper's, or the preset's", None, ge=0
    )
    imitation_learning_rate: float | None = option(
        "optimization",
        "peak learning rate of steps on demonstrations, in methods with separate ones; none: learning_rate",
        None,
        ge=0,
    )
    critic_learning_rate: float = option(
        "optimization", "peak learning rate of a critic, for methods with one", 1e-5, ge=0
    )
    lr_scheduler_type: Schedule = option("optimization", "schedule of the learning rate over the run", "constant")
    warmup_steps: Every = option(
        "optimization", "updates over which the learning rate rises from 0, or, below 1, the fraction of the run's", 0
    )
    weight_decay: float = option("optimization", "AdamW's decoupled decay, on matrices only", 0.0, ge=0)
    adam_beta1: float = option("optimization", "decay of the gradient's running mean", 0.9, ge=0, lt=1)
    adam_beta2: float = option("optimization", "decay of the squared gradient's running mean", 0.999, ge=0, lt=1)
    adam_epsilon: float = option("optimization", "added to AdamW's denominator", 1e-8, gt=0)
    max_grad_norm: float = option("optimization", "clip the gradient's norm to this; 0 is off", 1.0, ge=0)
    skip_grad_norm: Annotated[float, Field(gt=0)] | None = option(
        "optimization", "skip the optimizer step above this gradient norm; none is off", None
    )
    seed: int = option("optimization", "seed of data order, sampling and everything else random", 42, ge=0)

    temperature: float = option("sampling", "of the distribution that is sampled and trained", 1.0, gt=0)

    output_dir: Folder | None = option(
        "logging and saving", "run folder; none: runs/METHOD-DATASET-N, the next free N", None, resume="unrecorded"
    )
    logging_steps: int = option("logging and saving", "steps between rows of metrics", 1, ge=1, resume="free")
    log_completions: bool = option("logging and saving", "write every completion to samples/", True, resume="free")
    num_completions_to_print: int = option(
        "logging and saving", "completions to print at a logged step", 0, ge=0, resume="free"
    )
    report: bool = option("logging and saving", "end by writing report.html into the run folder", True, resume="free")
    save_steps: Every = option(
        "logging and saving",
        "steps between checkpoints, or, below 1, the fraction of the run between them; 0: not by steps; always at the "
        "end and when stopped",
        500,
        resume="free",
    )
    save_minutes: float = option(
        "logging and saving",
        "also checkpoint this many minutes after the last checkpoint; 0: not by time",
        30.0,
        ge=0,
        resume="free",
    )
    save_total_limit: int = option(
        "logging and saving",
        "newest checkpoints to keep; older ones of the run are removed",
        2,
        ge=1,
        resume="free",
    )
    resume_from_checkpoint: Annotated[Place, BeforeValidator(resume_word)] = option(
        "logging and saving",
        "never, auto (the newest in output_dir; a folder without a run begins one) or a checkpoint's path",
        "never",
        resume="unrecorded",
    )
    allow_config_change: Texts = option(
        "logging and saving",
        "options that may differ from those that the resumed checkpoint was made with, separated by commas",
        (),
        resume="unrecorded",
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
        """Tokens per forward pass on a device type. On a CPU fewer tokens are as fast, and need less memory."""
        return self.micro_batch_tokens or (CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS)

    def model_post_init(self, context: Any) -> None:
        """Fill `method_options` with what the method's function is called with, run options that it shares included."""
        super().model_post_init(context)
        self.method_options.update({name: getattr(self, name) for name in self.of_method})
