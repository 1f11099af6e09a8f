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
from obverse.models.fused_logprobs import Scores, chunk_size, decoder_inputs, wide
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
        has_head = capabilities.has_head and _split_head(model) is not None
        has_table = has_head and capabilities.has_table and _plain_table(model) is not None
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
        _head(model) if capabilities.has_head else None,
        layer=_plain_layer(model) if capabilities.has_head else None,
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


def _plain_layer(model: Any) -> torch.nn.Linear | None:
    """The head, if logits are the product of its matrix with a hidden state; None otherwise."""
    layer = model.get_output_embeddings()
    is_plain = type(layer) is torch.nn.Linear and layer.bias is None
    return layer if is_plain and not _cap(model) else None


def _plain_table(model: Any) -> torch.nn.Embedding | None:
    """The input embedding, if the decoder gives equal outputs for its rows and for token ids; None otherwise."""
    table = model.get_input_embeddings()
    if type(table) is not torch.nn.Embedding or table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return None
    probe = _probe(model)
    decoder = model.get_decoder()
    with torch.no_grad():
        rows = decoder(inputs_embeds=table(probe), use_cache=False).last_hidden_state
        same = torch.equal(rows, decoder(input_ids=probe, use_cache=False).last_hidden_state)
    return table if same else None


def _probe(model: Any) -> Tensor:
    """Token ids for a test forward pass; [1, 4]."""
    return torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size


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
            policy.model, lambda: _logprobs(policy, micro, entropy_graph, embeddings, reader, known_logp_gradient)
        )
        return results


def _logprobs(
    policy: Policy,
    micro: Micro,
    entropy_graph: bool,
    embeddings: Tensor | None,
    reader: SharedPrefix | None,
    known_logp_gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    read = decoder_inputs(micro.input_ids, policy.table) if embeddings is None else {"inputs_embeds": embeddings}
    if micro.prompts is not None:
        policy.rows.check(micro)
        states = (reader or policy.prompt_reader()).states(micro)
    elif policy.head is None:
        states = outputs(policy.rows, micro, read, policy.model, "logits")
    else:
        states = outputs(policy.rows, micro, read, policy.model.get_decoder(), "last_hidden_state")
    if policy.head is None:
        return _score(states, micro.target, micro.temperature, entropy_graph)
    matrix = policy.matrix
    if matrix is not None:
        graph = torch.is_grad_enabled() and (states.requires_grad or matrix.requires_grad)
        logp, entropy = Scores.apply(  # type: ignore[no-untyped-call]
            narrowed(states, matrix),
            matrix,
            micro.target,
            micro.temperature,
            known_logp_gradient if graph else None,
            policy.tokens_at_once,
        )
        return logp, entropy if entropy_graph else entropy.detach()
    head = policy.head

    def chunk(part: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return _score(head(part), target, temperature, entropy_graph)

    size = policy.tokens_at_once
    if len(states) <= size:
        return chunk(states, micro.target, micro.temperature)
    pieces = [
        checkpoint(chunk, *piece, use_reentrant=False)
        for piece in zip(states.split(size), micro.target.split(size), micro.temperature.split(size), strict=True)
    ]
    logp, entropy = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(entropy)


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
    read = {"input_ids": micro.input_ids}
    if micro.prompts is not None:
        policy.rows.check(micro)
        states = policy.prompt_reader().states(micro)
    elif policy.head is None:
        states = outputs(policy.rows, micro, read, policy.model, "logits")
    else:
        states = outputs(policy.rows, micro, read, policy.model.get_decoder(), "last_hidden_state")
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


def _score(logits: Tensor, target: Tensor, temperature: Tensor, entropy_graph: bool) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from logits [T, V]; float32 (or float64) [T]."""
    logp = (wide(logits) / temperature[:, None]).log_softmax(-1)
    distribution = logp if entropy_graph else logp.detach()
    # a token with probability 0 has p log p = 0, not NaN
    entropy = -(distribution.exp() * distribution.clamp(min=torch.finfo(distribution.dtype).min)).sum(-1)
    return logp.gather(-1, target[:, None])[:, 0], entropy


def narrowed(states: Tensor, weight: Tensor) -> Tensor:
    """States in the type of a head's weight where that is narrower, as models with float32 residuals cast them."""
    return states.to(weight.dtype) if states.dtype.itemsize > weight.dtype.itemsize else states


def _cap(model: Any) -> float | None:
    """The soft cap of the logits, from the text configuration; None without one."""
    cap: float | None = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return cap


def _head(model: Any) -> Callable[[Tensor], Tensor]:
    """The head as known families have it: a matrix, and a soft cap if configured."""
    matrix, cap = model.get_output_embeddings(), _cap(model)

    def head(states: Tensor) -> Tensor:
        logits: Tensor = matrix(narrowed(states, matrix.weight))
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


def _split_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The head as a function of hidden states, if it gives the logits of the model's own forward; None otherwise.

    Some families cap or scale logits after the last matrix: the known cap is applied, anything else shows as a
    difference, and the model's own forward is used instead.
    """
    if model.get_output_embeddings() is None:
        return None
    head, probe = _head(model), _probe(model)
    with torch.no_grad():
        ours = head(model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state)
        logits = model(input_ids=probe, use_cache=False).logits
        same = torch.allclose(ours.float(), logits.float(), rtol=1e-4, atol=1e-4)
    return head if same else None


IMPLEMENTATION = Implementation(lambda model, capabilities: as_policy(model, capabilities=capabilities), logprobs)
