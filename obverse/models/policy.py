"""A policy: the log-probs and entropies of trained tokens, a chunk of the vocabulary's work at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from obverse.distributed.fsdp import fsdp_forward, fsdp_root
from obverse.errors import ConfigError
from obverse.models.batch import Micro
from obverse.models.compile import compile_layers
from obverse.models.conformance import Traits, Ways, conforming
from obverse.models.cpu_threads import best_threads
from obverse.models.fused_logprobs import Scores, chunk_size, reads, wide
from obverse.models.rope_forward import Rows, outputs
from obverse.models.rope_frequencies import spans
from obverse.models.shared_prefix import Reader, can_share


@dataclass(frozen=True)
class Policy:
    """A causal LM with the split of it that training uses."""

    model: Any
    head: (
        Callable[[Tensor], Tensor] | None
    )  # hidden states [T, H] -> logits [T, V]; None: only the whole model knows how
    layer: torch.nn.Linear | None = None  # the whole head, where it is one matrix [V, H] and nothing more
    table: torch.nn.Embedding | None = None  # the whole embedding, where it is a table [V, H] and nothing more
    shares: bool = False  # prompts may be computed once for all their samples
    mixed: bool = False  # matrix products in bfloat16, everything else in float32
    checkpointed: bool = False  # a layer's inner states are computed again for its gradient
    scope: Callable[[], AbstractContextManager[None]] = nullcontext  # inside, the model has this policy's adapter
    adapter: Any = None  # obverse.models.lora.Adapter, where that alone learns
    compiled: Callable[[], AbstractContextManager[None]] = nullcontext  # inside, the layers run their compiled forward
    rows: Rows = field(default_factory=Rows)  # which rows may stand in one batch

    @property
    def device(self) -> torch.device:
        """Where it computes; shares of its weights may wait elsewhere."""
        root = fsdp_root(self.model)
        device: torch.device = self.model.device if root is None else root.options.process_group.device
        return device

    @property
    def matrix(self) -> Tensor | None:
        """The head's matrix as it is now: of a model that is shared out it is whole `inside` only."""
        return None if self.layer is None else self.layer.weight

    @property
    def num_parameters(self) -> int:
        """Of the whole model; weights in 4 bits lie two in a byte, and adapters that a stage began with are no part."""
        packed = {"Params4bit": 2}
        whole = [each for name, each in self.model.named_parameters() if self.adapter is None or ".lora_" not in name]
        own = self.adapter.parameters() if self.adapter is not None else []
        return sum(each.numel() * packed.get(type(each).__name__, 1) for each in (*whole, *own))

    @property
    def kept(self) -> Any:
        """What a checkpoint holds of the policy, which can `save_pretrained`: its adapter, or the whole model."""
        return self.model if self.adapter is None else self.adapter

    @property
    def tokens_at_once(self) -> int:
        """How many tokens' logits are held at once."""
        return chunk_size(self.model.config.get_text_config().vocab_size, self.device, lean=self.checkpointed)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, the model computes as this policy's precision and memory want it."""
        layers = []
        if self.checkpointed and torch.is_grad_enabled():
            layers = [layer for layer in self.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True  # the switch that transformers looks at; `_checkpointed` takes it back
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


def traits_of(model: Any) -> Traits:
    """What a model's architecture allows, where the weights that it has here agree with it.

    Raises ConfigError for a model that cannot be trained as its own plain forward computes it. Of one that consists of
    meta tensors the architecture alone is tried.
    """
    traits = conforming(model, WAYS)
    if any(each.is_meta for each in model.parameters()):
        return traits
    if not traits.has_head or _split_head(model) is None:
        return replace(traits, has_head=False, has_table=False, shares=False)
    has_table = traits.has_table and _plain_table(model) is not None
    return replace(traits, has_table=has_table, shares=traits.shares and can_share(model))


def as_policy(model: Any, mixed: bool = False, traits: Traits | None = None) -> Policy:
    """A model, in evaluation mode: dropout stays off, so that a ratio compares the same function of the weights.

    `traits` are those of a model that was tried already. Raises ConfigError as `traits_of` does.
    """
    model.eval()
    traits = traits or traits_of(model)
    rows = Rows(traits.pads, tuple(traits.switches), traits.limit)
    if not traits.has_head:
        return Policy(model, None, mixed=mixed, rows=rows)
    table = model.get_input_embeddings() if traits.has_table else None
    return Policy(model, _head(model), _plain_layer(model), table, traits.shares, mixed, rows=rows)


def with_checkpoints(policy: Policy) -> Policy:
    """The policy with gradient checkpointing: a layer keeps its input only. Its prompts are not shared then.

    Raises ConfigError for a model whose layers cannot be computed again.
    """
    model = policy.model  # transformers gave the switch another name on the way
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"--gradient_checkpointing: {type(model).__name__} has no layers that could be computed again: leave it out"
        )
    enable({"use_reentrant": False})
    for layer in layers:
        layer._gradient_checkpointing_func = partial(_checkpointed, layer)
    return replace(policy, checkpointed=True, shares=False)


def _checkpointed(layer: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A layer's checkpoint, with the layer in evaluation mode both times: some drop out in functions of their own.

    `Policy.computing` sets the layer's switch to have transformers come here; what is computed again comes without it.
    """

    def evaluated(*args: Any, **kwargs: Any) -> Any:
        before, layer.training = layer.training, False
        try:
            return function(*args, **kwargs)
        finally:
            layer.training = before

    return checkpoint(evaluated, *args, use_reentrant=False, **kwargs)


def with_compiled_layers(policy: Policy) -> Policy:
    """The policy with compiled layers for training; ConfigError where nothing can compile. Prompts are not shared then.

    Sampling goes on as it was: its shapes change with every token. A compiled layer adds in another order, so that
    numbers differ in their rounding.
    """
    return replace(policy, compiled=compile_layers(policy.model), shares=False)


def _plain_layer(model: Any) -> torch.nn.Linear | None:
    """The head, where logits are its matrix's product with a state and nothing else."""
    layer = model.get_output_embeddings()
    is_plain = type(layer) is torch.nn.Linear and layer.bias is None
    return layer if is_plain and not _cap(model) else None


def _plain_table(model: Any) -> torch.nn.Embedding | None:
    """The embedding, where the decoder takes its rows in place of the ids; found out by trying."""
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
    """A few tokens to try a model with; [1, 4]."""
    return torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size


def set_threads(wanted: int, policy: Policy) -> int:
    """Set torch's threads and return their number: `wanted`, or for 0 as many as this machine is faster with.

    On a CPU a small model's matrices are over before a second thread has started: one thread is the fastest, and on a
    busy machine two can be many times slower. For a larger model a few of its products are timed.
    """
    threads = wanted or best_threads(policy.model)
    torch.set_num_threads(threads)
    return threads


def logprobs(
    policy: Policy,
    micro: Micro,
    entropy_graph: bool = False,
    embeddings: Tensor | None = None,
    reader: Reader | None = None,
    known_logp_gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each trained token and entropy of its distribution, at the token's temperature; [T] each,
    float32, or float64 of a float64 policy.

    The log-probs carry the graph; the entropies do if `entropy_graph` (an entropy bonus reads them). `embeddings`
    [B, L, H] are read in place of the tokens. A micro batch with shared prompts is read by `reader`, whose `finish`
    completes the gradient; without one it is read alone, and carries no gradient to its prompts. `foreseen` [T] is the
    gradient by the log-probs where it is known before they are.
    """
    with policy.computing():
        found: tuple[Tensor, Tensor] = fsdp_forward(
            policy.model, lambda: _logprobs(policy, micro, entropy_graph, embeddings, reader, known_logp_gradient)
        )
        return found


def _logprobs(
    policy: Policy,
    micro: Micro,
    entropy_graph: bool,
    embeddings: Tensor | None,
    reader: Reader | None,
    known_logp_gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    read = reads(micro.input_ids, policy.table) if embeddings is None else {"inputs_embeds": embeddings}
    if policy.head is None:
        logits = outputs(policy.rows, micro, read, policy.model, "logits")
        return _score(logits, micro.target, micro.temperature, entropy_graph)
    if micro.prompts is not None:
        policy.rows.check(micro)
        states = (reader or Reader(policy.model, policy.table)).states(micro)
    else:
        states = outputs(policy.rows, micro, read, policy.model.get_decoder(), "last_hidden_state")
    matrix = policy.matrix
    if matrix is not None:
        graph = torch.is_grad_enabled() and (states.requires_grad or matrix.requires_grad)
        logp, entropy = Scores.apply(  # type: ignore[no-untyped-call]
            states,
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
def mixed(policy: Policy, micro: Micro, mix: Callable[[Tensor, Tensor], Tensor], table: torch.nn.Module) -> Tensor:
    """What the policy is to read [B, L, H]: its own embeddings, but `mix` of frozen ones for the trained tokens.

    `mix` gets the embeddings of a token and of the policy's greedy guess at its place, both from `table`. A token that
    is not read, the last of the longest row, is left out.
    """
    found: Tensor = fsdp_forward(policy.model, lambda: _mixed(policy, micro, mix, table))
    return found


def _mixed(policy: Policy, micro: Micro, mix: Callable[[Tensor, Tensor], Tensor], table: torch.nn.Module) -> Tensor:
    with policy.computing():
        guesses = [part.argmax(-1) for part in logits(policy, micro)]
    guess, place = torch.cat(guesses), micro.position + 1
    read = place < micro.input_ids.shape[1]
    row, place = micro.row[read], place[read]
    embeddings = policy.model.get_input_embeddings()(micro.input_ids).clone()
    embeddings[row, place] = mix(table(micro.target[read]), table(guess[read]))
    return embeddings


def logits(policy: Policy, micro: Micro) -> Iterator[Tensor]:
    """The logits of the trained tokens, at temperature 1, some at a time; [n, V] each."""
    read = {"input_ids": micro.input_ids}
    if policy.head is None:
        yield outputs(policy.rows, micro, read, policy.model, "logits")
        return
    if micro.prompts is not None:
        policy.rows.check(micro)
        states = Reader(policy.model, policy.table).states(micro)
    else:
        states = outputs(policy.rows, micro, read, policy.model.get_decoder(), "last_hidden_state")
    yield from map(policy.head, states.split(policy.tokens_at_once))


def scalars(model: Any, micro: Micro, after: bool) -> Tensor:
    """The scalar head's number at each trained token, float32 (or float64) [T]: of the state before, or `after` it."""
    numbers: Tensor = fsdp_forward(model, lambda: _scalars(model, micro, after))
    return numbers


def _scalars(model: Any, micro: Micro, after: bool) -> Any:
    rows, read = Rows(True, *spans(model.config)), {"input_ids": micro.input_ids}
    states = outputs(rows, micro, read, model.base_model, "last_hidden_state", offset=int(after))
    return wide(model.score(states))[:, 0]


def _score(logits: Tensor, target: Tensor, temperature: Tensor, entropy_graph: bool) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from logits [T, V]; float32 (or float64) [T]."""
    logp = (wide(logits) / temperature[:, None]).log_softmax(-1)
    spread = logp if entropy_graph else logp.detach()
    # a token with probability 0 has p log p = 0, not NaN
    entropy = -(spread.exp() * spread.clamp(min=torch.finfo(spread.dtype).min)).sum(-1)
    return logp.gather(-1, target[:, None])[:, 0], entropy


def _cap(model: Any) -> float | None:
    """Where logits are cut off smoothly; a model of several parts has it in its text part."""
    cap: float | None = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return cap


def _head(model: Any) -> Callable[[Tensor], Tensor]:
    """The map from hidden states to logits that the known families have: a matrix, and perhaps a cap."""
    matrix, cap = model.get_output_embeddings(), _cap(model)

    def head(states: Tensor) -> Tensor:
        logits: Tensor = matrix(states)
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


def _split_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The model's map from hidden states to logits, checked against the model itself; None where they differ.

    Some families cap or scale their logits after the last matrix: the known cap is applied, anything else is found out
    by comparing, and such a model takes the plain way over its own logits.
    """
    if model.get_output_embeddings() is None:
        return None
    head, probe = _head(model), _probe(model)
    with torch.no_grad():
        ours = head(model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state)
        same = torch.allclose(ours, model(input_ids=probe, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    return head if same else None


WAYS = Ways(lambda model, traits: as_policy(model, traits=traits), logprobs)
