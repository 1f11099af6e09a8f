"""Checks, on a small random copy of a model, that the embedded sampler samples as plain forward passes would.

The sampler reads left-padded rows from a key-value cache; the log-prob of every token that it samples is compared with
that of a plain forward pass of the row (`obverse.models.conformance` does the same for training).
"""

from __future__ import annotations

from typing import Any

import torch

from obverse.errors import ConfigError
from obverse.inference.decode_loop import PartialCompletion, generate
from obverse.inference.kv_cache import num_layers
from obverse.inference.types import SamplingParams, SamplingRequest
from obverse.models.conformance import (
    MAX_ERROR,
    architecture_key,
    class_name,
    first_line,
    model_type,
    plain_logits,
    random_rows,
)
from obverse.models.reduced_model import quiet, reduced
from obverse.models.rope_frequencies import longest_sampled
from obverse.types import ModelInput

_sampled: dict[tuple[type, str], str | None] = {}


def check_sampling(model: Any) -> None:
    """Raise ConfigError unless the embedded sampler samples a model as plain forward passes would; cached per class."""
    layers, key = num_layers(model), architecture_key(model)
    if key not in _sampled:
        _sampled[key] = _sampling_fault(model, layers)
    fault = _sampled[key]
    if fault is not None:
        raise ConfigError(f"models of type {model_type(model)!r} cannot be sampled here: {fault}")


def _sampling_fault(model: Any, layers: int) -> str | None:
    """How completions of a small copy differ from plain forward passes; None where they do not."""
    with quiet(), torch.inference_mode():
        copy = reduced(model)
        if copy is None:
            return f"no small copy of {class_name(model)} can be made from its configuration to try it on"
        end = longest_sampled(copy.config)
        rows = random_rows(copy.config, None).rows
        prompts = {row.prompt: None for row in rows}
        if end is not None:
            prompts = {prompt: None for prompt in prompts if len(prompt) < end - 2}
        budget = 14 if end is None else end - max(map(len, prompts))
        requests = [SamplingRequest(prompt, range(10 * index, 10 * index + 3)) for index, prompt in enumerate(prompts)]
        for kind in (torch.float32, torch.float64):
            try:
                completions = generate(copy.to(kind), num_layers(copy), 4, requests, SamplingParams((), budget))
            except Exception as error:  # noqa: BLE001  as above
                return f"its forward does not read a padded cache of keys and values ({first_line(error)})"
            worst = max(_sampled_gap(copy, requests[item.request].prompt, item) for item in completions)
            if worst <= MAX_ERROR:
                return None
    return f"read from a padded cache, a token's log-prob differs by {worst:.1g} from that of a plain forward"


def _sampled_gap(copy: Any, prompt: ModelInput, completion: PartialCompletion) -> float:
    logits = plain_logits(copy, prompt.extended(completion.ids).token_ids)[len(prompt) - 1 : -1]
    logp = logits.log_softmax(-1).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
    gap = float((logp - torch.tensor(completion.behavior)).abs().max())
    return gap if gap == gap else float("inf")
