"""Options for what outgrows one process: several ranks, a server that samples, adapters in place of weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from obverse.config.fields import Options, Place, Positive, Text, Texts, option


class DistributedOptions(Options):
    """How the ranks that torchrun or accelerate launch started share a run; without effect on a single process."""

    fsdp: bool = option(
        "distributed", "share weights, gradients and moments out over the ranks (FSDP2); false: each has all", False
    )
    fsdp_reshard_after_forward: bool = option(
        "distributed", "give a layer's weights back between forward and backward: less memory, more traffic", True
    )
    fsdp_offload_params: bool = option("distributed", "keep the shares in the CPU's memory while not used", False)
    fsdp_state_dict_type: Literal["full", "sharded"] = option(
        "distributed", "checkpoints as one model, or as each rank's share, which obverse export puts together", "full"
    )
    ddp_timeout: Annotated[float, Field(gt=0)] = option(
        "distributed", "seconds without a sign of life after which a rank counts as lost and the others stop", 600.0
    )


class EngineOptions(Options):
    """Who draws the completions."""

    sampler: Literal["hf", "vllm"] = option(
        "sampling", "hf: the policy itself; vllm: a vLLM server that gets its weights (obverse serve-vllm)", "hf"
    )
    vllm_url: Text = option("sampling", "address of that server", "http://127.0.0.1:8000")
    vllm_timeout: Annotated[float, Field(gt=0)] = option(
        "sampling", "seconds to wait for a server that does not answer, over all retries", 300.0
    )
    async_sampling: bool = option(
        "sampling", "draw the next step's completions while this one trains, from weights one step older", False
    )


class ServeConfig(Options):
    """How `obverse serve-vllm` starts a server."""

    model: Place = option("model", "embedded, a transformers directory or a hub name")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "model", "of the server's weights; auto: vLLM's choice, mostly bfloat16", "auto"
    )
    max_model_len: Annotated[int, Field(ge=2)] | None = option(
        "model", "longest prompt plus completion, in tokens; none: the model's", None
    )
    host: Text = option("output", "address to listen at; whoever reaches it can change the weights", "127.0.0.1")
    port: Annotated[int, Field(ge=1, le=65535)] = option("output", "port to listen at", 8000)
    program: Place = option("output", "the vllm program, by name or path; it has an environment of its own", "vllm")
    vllm_args: str = option("output", "more options of vllm serve, as one text", "")


class AdapterOptions(Options):
    """Low-rank adapters in place of the whole policy (LoRA, 2106.09685; QLoRA, 2305.14314), by TRL's names.

    There is no dropout: the policy is in evaluation mode, so that a ratio compares one function of the weights.
    """

    use_peft: bool = option("model", "train low-rank adapters; the initial model is the policy without them", False)
    lora_r: int = option("model", "rank of the adapters", 16, ge=1)
    lora_alpha: int = option("model", "scale of the adapters, before it is divided by the rank", 32, ge=1)
    lora_target_modules: Texts = option(
        "model",
        "layers (or matrices of experts) that get adapters, separated by commas; none: all linear ones below the head",
        (),
    )
    use_rslora: bool = option("model", "divide the scale by the rank's root instead of the rank (2312.03732)", False)
    load_in_4bit: bool = option("model", "hold the frozen weights in 4 bits, NF4 (QLoRA; CUDA only)", False)

    @model_validator(mode="after")
    def _nothing_idle(self) -> AdapterOptions:
        fields = AdapterOptions.__annotations__
        idle = [name for name in fields if getattr(self, name) != AdapterOptions.model_fields[name].default]
        if idle and not self.use_peft:
            raise ValueError(f"{idle[0]} is an option of adapters: add use_peft")
        return self


class PositionOptions(Options):
    """How far and how finely the policy counts positions, where that is not as the model was made."""

    rope_theta: Annotated[float, Field(gt=0)] | None = option(
        "model", "base of the rotary positions, written into what is saved; none: the model's own", None
    )
    max_position_embeddings: Positive | None = option(
        "model", "longest text that what is saved says it reads, in tokens; none: the model's own", None
    )

    @property
    def positions(self) -> dict[str, float]:
        """Those that are given."""
        given = {"rope_theta": self.rope_theta, "max_position_embeddings": self.max_position_embeddings}
        return {name: value for name, value in given.items() if value is not None}


class MixtureOptions(Options):
    """How a mixture of experts trains."""

    router_aux_loss_coef: Annotated[float, Field(ge=0)] = option(
        "optimization",
        "weight of the routers' balancing loss, over a whole update, for mixtures of experts; 0: none",
        0.0,
    )


class CardOptions(Options):
    """What a GPU gains from, and what shows where its memory went."""

    torch_compile: bool = option(
        "batch", "compile the layers for training: minutes at the start, faster steps; same numbers but for rounding",
        False,
    )  # fmt: skip
    memory_snapshot: Annotated[int, Field(ge=0)] = option(
        "logging and saving", "write memory-snapshot.json, torch's record of CUDA memory, at this step; 0: never", 0
    )
