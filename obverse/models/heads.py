"""The head and the embedding of a model as parts that can be computed apart from its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def plain_layer(model: Any) -> torch.nn.Linear | None:
    """The head, if logits are the product of its matrix with a hidden state; None otherwise."""
    layer = model.get_output_embeddings()
    is_plain = type(layer) is torch.nn.Linear and layer.bias is None
    return layer if is_plain and not _cap(model) else None


def plain_table(model: Any) -> torch.nn.Embedding | None:
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


def narrowed(states: Tensor, weight: Tensor) -> Tensor:
    """States in the type of a head's weight where that is narrower, as models with float32 residuals cast them."""
    return states.to(weight.dtype) if states.dtype.itemsize > weight.dtype.itemsize else states


def _cap(model: Any) -> float | None:
    """The soft cap of the logits, from the text configuration; None without one."""
    cap: float | None = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return cap


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    """The head as known families have it: a matrix, and a soft cap if configured."""
    matrix, cap = model.get_output_embeddings(), _cap(model)

    def head(states: Tensor) -> Tensor:
        logits: Tensor = matrix(narrowed(states, matrix.weight))
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


def split_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The head as a function of hidden states, if it gives the logits of the model's own forward; None otherwise.

    Some families cap or scale logits after the last matrix: the known cap is applied, anything else shows as a
    difference, and the model's own forward is used instead.
    """
    if model.get_output_embeddings() is None:
        return None
    head, probe = head_of(model), _probe(model)
    with torch.no_grad():
        ours = head(model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state)
        logits = model(input_ids=probe, use_cache=False).logits
        same = torch.allclose(ours.float(), logits.float(), rtol=1e-4, atol=1e-4)
    return head if same else None
