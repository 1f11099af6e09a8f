"""The policy: a causal language model with log-probs and entropies of trained tokens, computed in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from obverse.distributed.fsdp import fsdp_forward, fsdp_root
from obverse.errors import ConfigError
from obverse.models.batch import Micro
from obverse.models.compile import compile_layers
from obverse.models.conformance import Capabilities, Implementation, check_architecture, refusing_failures
from obverse.models.cpu_threads import best_threads
from obverse.models.decoder_layers import decoder_layers
from obverse.models.fused_divergence import Comparison, LogitDivergence, Target
from obverse.models.fused_logprobs import Scores, chunk_size, decoder_inputs
from obverse.models.heads import head_of, narrowed, plain_layer, plain_table, split_head
from obverse.models.logit_chunks import entropy_of_logits, wide
from obverse.models.rope_forward import RowGrouping, outputs
from obverse.models.rope_frequencies import frequency_switches
from obverse.models.shared_prefix import SharedPrefix, can_share


@dataclass(frozen=True)
class Policy:
    """A causal language model, and the code path that training takes through it."""

    model: Any
    # Hidden states [T, H] -> logits [T, V]; None where only the model's own forward computes logits.
    head: Callable[[Tensor], Tensor] | None
    layer: torch.nn.Linear | None = None  # the head, if it is one matrix [V, H] without bias or cap
    table: torch.nn.Embedding | None = None  # the input embedding, if it is a plain table [V, H]
    shares: bool = False  # samples of a prompt can share its cache
    pads_prompts: bool = True  # shared prompts of unequal lengths can be one left-padded batch
    unshared: str = ""  # why samples of a prompt cannot share its cache; "" where they can, or an option forbids it
    mixed: bool = False  # autocast: matrix products in bfloat16, float32 weights
    checkpointed: bool = False  # gradient checkpointing: activations of a layer are recomputed in the backward pass
    scope: Callable[[], AbstractContextManager[None]] = nullcontext  # inside, this policy's adapter is active
    adapter: Any = None  # obverse.models.lora.Adapter, if only an adapter is trained
    compiled: Callable[[], AbstractContextManager[None]] = nullcontext  # inside, the layers run their compiled forward
    rows: RowGrouping = field(default_factory=RowGrouping)  # which rows can share a batch
    entropy_top_k: int | None = None  # entropies are those of the renormalized most likely tokens, without a gradient
    unused_weights: str | None = None  # a message about weights in the files that the model does not use

    @property
    def device(self) -> torch.device:
        """The device of forward passes; FSDP shards may be stored on another one."""
        root = fsdp_root(self.model)
        device: torch.device = self.model.device if root is None else root.options.process_group.device
        return device

    @property
    def matrix(self) -> Tensor | None:
        """The head's matrix. Under FSDP it is whole only inside `obverse.distributed.fsdp.fsdp_forward`."""
        return None if self.layer is None else self.layer.weight

    @property
    def num_parameters(self) -> int:
        """Parameters of the model and its trained adapter; frozen adapters of earlier stages are not counted."""
        packed = {"Params4bit": 2}  # weights per element
        named = self.model.named_parameters()
        base = [weight for name, weight in named if self.adapter is None or ".lora_" not in name]
        trained = self.adapter.parameters() if self.adapter is not None else []
        return sum(weight.numel() * packed.get(type(weight).__name__, 1) for weight in (*base, *trained))

    @property
    def savable(self) -> Any:
        """The part that a checkpoint stores, which has `save_pretrained`: the adapter, or the whole model."""
        return self.model if self.adapter is None else self.adapter

    @property
    def tokens_at_once(self) -> int:
        """How many tokens' logits are held at once."""
        return chunk_size(self.model.config.get_text_config().vocab_size, self.device, lean=self.checkpointed)

    def tokens_compared_at_once(self, comparison: Comparison) -> int:
        """`tokens_at_once` with a divergence: all its buffers together are as large as those of a pass without one."""
        num_tokens = min(self.tokens_at_once, len(comparison.observed))
        return max(1, -(-num_tokens // comparison.num_buffers(self.device)))

    def prompt_reader(self) -> SharedPrefix:
        """A reader of prompts that consecutive micro batches share; its `finish` completes their gradient."""
        return SharedPrefix(self.model, self.table, has_head=self.head is None)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Activate the policy's adapter, precision, gradient checkpointing and compiled layers."""
        layers = []
        if self.checkpointed and torch.is_grad_enabled():
            layers = decoder_layers(self.model)
        for layer in layers:
            layer.training = True  # transformers checkpoints layers in training mode only; `_checkpointed` resets it
        try:
            with (
                self.scope(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed),
                self.compiled(),
            ):
                yield
        finally:
            for layer in layers:
                layer.training = False


def capabilities_of(model: Any) -> Capabilities:
    """The capabilities of a model: those of its architecture, confirmed on its weights unless these are meta tensors.

    Raises ConfigError for a model that no code path computes as its plain forward pass does.
    """
    capabilities = check_architecture(model, IMPLEMENTATION)
    if any(parameter.is_meta for parameter in model.parameters()):
        return capabilities
    with refusing_failures(model):
        has_head = capabilities.has_head and split_head(model) is not None
        has_table = has_head and capabilities.has_table and plain_table(model) is not None
        capabilities = replace(capabilities, has_head=has_head, has_table=has_table)
        if not capabilities.shares:
            return capabilities
        for pads_prompts in (True, False) if capabilities.pads_prompts else (False,):
            if can_share(model, pads_prompts, not has_head):
                return replace(capabilities, pads_prompts=pads_prompts)
    reason = "continued from the cache of a prompt, this model's hidden states differ"
    return replace(capabilities, shares=False, unshared=reason)


def as_policy(model: Any, mixed: bool = False, capabilities: Capabilities | None = None) -> Policy:
    """The policy of a model, which is put into evaluation mode: without dropout, importance ratios are exact.

    `capabilities` are passed for a model that was tested before. Raises ConfigError as `capabilities_of` does.
    """
    model.eval()
    capabilities = capabilities or capabilities_of(model)
    rows = RowGrouping(capabilities.pads, tuple(capabilities.switches), capabilities.limit)
    return Policy(
        model,
        head_of(model) if capabilities.has_head else None,
        layer=plain_layer(model) if capabilities.has_head else None,
        table=model.get_input_embeddings() if capabilities.has_table else None,
        shares=capabilities.shares,
        pads_prompts=capabilities.pads_prompts,
        unshared=capabilities.unshared,
        mixed=mixed,
        rows=rows,
    )


def with_checkpoints(policy: Policy) -> Policy:
    """The policy with gradient checkpointing of its layers, and without shared prompts.

    Raises ConfigError for a model whose layers do not support it.
    """
    model = policy.model  # the method's name depends on the version of transformers
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    layers = decoder_layers(model)
    if not layers or not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"--gradient_checkpointing: {type(model).__name__} has no layers that could be computed again: leave it out"
        )
    enable({"use_reentrant": False})
    for layer in layers:
        layer._gradient_checkpointing_func = partial(_checkpointed, layer)
    return replace(policy, checkpointed=True, shares=False, unshared="")


def _checkpointed(layer: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Checkpoint a layer in evaluation mode, in the forward pass and its recomputation, so that dropout stays off.

    `Policy.computing` puts the layer into training mode, for transformers to call this function.
    """

    def evaluated(*args: Any, **kwargs: Any) -> Any:
        before, layer.training = layer.training, False
        try:
            return function(*args, **kwargs)
        finally:
            layer.training = before

    return checkpoint(evaluated, *args, use_reentrant=False, **kwargs)


def with_compiled_layers(policy: Policy) -> Policy:
    """The policy with compiled layers for training, and without shared prompts.

    Sampling is not compiled, as its shapes change with every token. Compiled layers sum in another order, so that
    results differ in rounding. Raises ConfigError where nothing can be compiled.
    """
    return replace(policy, compiled=compile_layers(policy.model), shares=False, unshared="")


def set_threads(wanted: int, policy: Policy) -> int:
    """Set torch's number of threads and return it: `wanted`, or for 0 the fastest on this machine.

    A small model on a CPU is fastest with one thread, and on a busy machine two can be many times slower. For a larger
    model a few matrix products are timed.
    """
    threads = wanted or best_threads(policy.model)
    torch.set_num_threads(threads)
    return threads


def logprobs(
    policy: Policy,
    micro: Micro,
    entropy_graph: bool = False,
    embeddings: Tensor | None = None,
    reader: SharedPrefix | None = None,
    known_logp_gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each trained token and entropy of its distribution, at the token's temperature; [T] each,
    float32, or float64 of a float64 policy.

    The log-probs carry the graph; the entropies do with `entropy_graph`, for an entropy bonus. `embeddings` [B, L, H]
    replace those of the token ids. For a micro batch with shared prompts, `reader` computes the prompts and its
    `finish` completes the gradient; without a reader the prompts get no gradient. `known_logp_gradient` [T] is the
    gradient by the log-probs where it does not depend on them: forward and backward then share one pass over logits.
    """
    with policy.computing():
        results: tuple[Tensor, Tensor] = fsdp_forward(
            policy.model,
            lambda: scores(
                policy, hidden_states(policy, micro, embeddings, reader), micro, entropy_graph, known_logp_gradient
            ),
        )
        return results


@torch.no_grad()
def target_of(policy: Policy, micro: Micro, reader: SharedPrefix | None = None) -> Target:
    """The distributions of a frozen policy at the trained tokens of a micro batch, as target of a divergence.

    Under FSDP the head's matrix is whole until the next backward pass through the same model.
    """

    def head(states: Tensor) -> Tensor:
        with policy.computing():
            return states if policy.head is None else policy.head(states)

    def target() -> Target:
        states, matrix = hidden_states(policy, micro, reader=reader), policy.matrix
        return Target(states if matrix is None else narrowed(states, matrix), head, matrix)

    with policy.computing():
        result: Target = fsdp_forward(policy.model, target)
        return result


def compared_logprobs(
    policy: Policy,
    micro: Micro,
    comparison: Comparison,
    entropy_graph: bool = False,
    reader: SharedPrefix | None = None,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """As `logprobs`, and with the same arguments, also each distribution's divergence, with its graph; [T] each.

    `known` has the gradients by log-probs and divergences, where they do not depend on the policy.
    """
    with policy.computing():
        results: tuple[Tensor, ...] = fsdp_forward(
            policy.model,
            lambda: scores(
                policy,
                hidden_states(policy, micro, reader=reader),
                micro,
                entropy_graph,
                known[0] if known else None,
                comparison,
                known[1] if known else None,
            ),
        )
        return results


def hidden_states(
    policy: Policy, micro: Micro, embeddings: Tensor | None = None, reader: SharedPrefix | None = None
) -> Tensor:
    """The state that predicts each trained token, [T, H]; its logits [T, V] where only the model's forward has them.

    Runs inside `Policy.computing` and `fsdp_forward`. `embeddings` and `reader` are those of `logprobs`.
    """
    if micro.prompts is not None:
        policy.rows.check(micro)
        return (reader or policy.prompt_reader()).states(micro)
    read = decoder_inputs(micro.input_ids, policy.table) if embeddings is None else {"inputs_embeds": embeddings}
    if policy.head is None:
        return outputs(policy.rows, micro, read, policy.model, "logits")
    return outputs(policy.rows, micro, read, policy.model.get_decoder(), "last_hidden_state")


def scores(
    policy: Policy,
    states: Tensor,
    micro: Micro,
    entropy_graph: bool,
    known_logp_gradient: Tensor | None = None,
    comparison: Comparison | None = None,
    known_divergence_gradient: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Log-probs and entropies from the states of `hidden_states`, and the divergence of `comparison`; [T] each."""
    size = policy.tokens_at_once if comparison is None else policy.tokens_compared_at_once(comparison)
    matrix = policy.matrix
    if matrix is not None:
        graph = torch.is_grad_enabled() and (states.requires_grad or matrix.requires_grad)
        logp, entropy, *divergence = Scores.apply(  # type: ignore[no-untyped-call]
            narrowed(states, matrix),
            matrix,
            micro.target,
            micro.temperature,
            known_logp_gradient if graph else None,
            size,
            comparison,
            known_divergence_gradient if graph else None,
            policy.entropy_top_k,
        )
        return logp, entropy if entropy_graph else entropy.detach(), *divergence
    head = policy.head

    def chunk(states: Tensor, part: slice) -> tuple[Tensor, ...]:
        return _score(policy, states if head is None else head(states), micro, part, entropy_graph, comparison)

    if len(states) <= size or (head is None and comparison is None):
        return chunk(states, slice(0, len(states)))
    parts = [slice(start, min(start + size, len(states))) for start in range(0, len(states), size)]
    pieces = [checkpoint(chunk, states[part], part, use_reentrant=False) for part in parts]
    return tuple(map(torch.cat, zip(*pieces, strict=True)))


@torch.no_grad()
def mixed_embeddings(
    policy: Policy, micro: Micro, mix: Callable[[Tensor, Tensor], Tensor], table: torch.nn.Module
) -> Tensor:
    """Input embeddings [B, L, H]: the policy's own, with those of trained tokens replaced by `mix` of frozen ones.

    `mix` gets the embeddings of a token and of the policy's greedy prediction at its position, both from `table`. The
    last token of the longest row is not run and is left out.
    """
    inputs: Tensor = fsdp_forward(policy.model, lambda: _mixed_embeddings(policy, micro, mix, table))
    return inputs


def _mixed_embeddings(
    policy: Policy, micro: Micro, mix: Callable[[Tensor, Tensor], Tensor], table: torch.nn.Module
) -> Tensor:
    with policy.computing():
        guesses = [part.argmax(-1) for part in logits(policy, micro)]
    guess, position = torch.cat(guesses), micro.position + 1
    is_read = position < micro.input_ids.shape[1]
    row, position = micro.row[is_read], position[is_read]
    embeddings = policy.model.get_input_embeddings()(micro.input_ids).clone()
    embeddings[row, position] = mix(table(micro.target[is_read]), table(guess[is_read]))
    return embeddings


def logits(policy: Policy, micro: Micro) -> Iterator[Tensor]:
    """The logits of the trained tokens at temperature 1, in chunks of [n, V]."""
    states = hidden_states(policy, micro)
    if policy.head is None:
        yield states
    else:
        yield from map(policy.head, states.split(policy.tokens_at_once))


def scalars(model: Any, micro: Micro, after: bool) -> Tensor:
    """The scalar head at each trained token, float32 (or float64) [T]: of the hidden state before it, or `after` it."""
    numbers: Tensor = fsdp_forward(model, lambda: _scalars(model, micro, after))
    return numbers


def _scalars(model: Any, micro: Micro, after: bool) -> Any:
    rows, read = RowGrouping(True, *frequency_switches(model.config)), {"input_ids": micro.input_ids}
    states = outputs(rows, micro, read, model.base_model, "last_hidden_state", offset=int(after))
    return wide(model.score(narrowed(states, model.score.weight)))[:, 0]


def _score(
    policy: Policy, logits: Tensor, micro: Micro, part: slice, entropy_graph: bool, comparison: Comparison | None
) -> tuple[Tensor, ...]:
    """The scores of the tokens `part` of a micro batch from their logits [n, V]; float32 (or float64) [n] each."""
    logits = wide(logits) / micro.temperature[part, None]
    logp = logits.log_softmax(-1)
    distribution = logp if entropy_graph else logp.detach()
    if policy.entropy_top_k is None:  # a token with probability 0 has p log p = 0, not NaN
        entropy = -(distribution.exp() * distribution.clamp(min=torch.finfo(distribution.dtype).min)).sum(-1)
    else:
        entropy = entropy_of_logits(distribution.topk(min(policy.entropy_top_k, distribution.shape[-1])).values)
    observed = logp.gather(-1, micro.target[part, None])[:, 0]
    if comparison is None:
        return observed, entropy
    return observed, entropy, LogitDivergence.apply(logits, comparison, part)  # type: ignore[no-untyped-call]


IMPLEMENTATION = Implementation(lambda model, capabilities: as_policy(model, capabilities=capabilities), logprobs)
