"""Finds out, on a small random copy of a model, how the embedded sampler can sample as plain forward passes would.

The log-prob of every token that a decoding path samples, for prompts and completions of unequal lengths, is compared
with that of a plain forward pass of the row (`obverse.models.conformance` does the same for training).
"""

from __future__ import annotations

from typing import Any

import torch

from obverse.errors import ConfigError
from obverse.inference.decode_paths import PATHS, DecodePath
from obverse.inference.partial import PartialCompletion, SamplingCall
from obverse.inference.types import SamplingParams, SamplingRequest
from obverse.models.conformance import (
    architecture_key,
    first_line,
    model_type,
    plain_logits,
    random_rows,
)
from obverse.models.float64 import in_float64
from obverse.models.reduced_model import quiet, reduced
from obverse.models.rope_frequencies import longest_sampled
from obverse.types import ModelInput

MAX_ERROR = 1e-5  # nats, in float32
MAX_ERROR_FLOAT64 = 1e-8  # nats, where float32 differs more: the difference was rounding
MAX_ROUNDING = 1e-2  # nats; more is not rounding of float32
NUM_SEEDS = 3  # completions per prompt
MAX_ROWS = 4  # fewer than all completions: rows are added, copied and removed
STOP_PERIOD = 16  # one token in this many ends a completion: completions have unequal lengths

_paths: dict[tuple[type, str], DecodePath | str] = {}


def decode_path(model: Any) -> DecodePath:
    """The fastest path that decodes a model as plain forward passes would; tested once per architecture and process.

    Raises ConfigError if no path does.
    """
    key = architecture_key(model)
    if key not in _paths:
        _paths[key] = _fastest_path(model)
    path = _paths[key]
    if isinstance(path, str):
        raise ConfigError(f"models of type {model_type(model)!r} cannot be sampled here: {path}")
    return path


def _fastest_path(model: Any) -> DecodePath | str:
    """The first path of PATHS that is correct on a small copy, or why none is; the last one without a small copy."""
    with quiet(), torch.inference_mode():
        copy = reduced(model)
        if copy is None:
            return PATHS[-1]  # plain forward passes, which nothing has to be compared with
        requests, params = _test_requests(copy)
        fault: str | None = None
        for path in PATHS:
            if path.fits(copy):
                fault = _fault(copy, path, requests, params)
                if fault is None:
                    return path
    return str(fault)  # of the last path, which fits every model


def _test_requests(copy: Any) -> tuple[list[SamplingRequest], SamplingParams]:
    """Prompts of unequal lengths, and completions that end early or are longer than windows."""
    end = longest_sampled(copy.config)
    prompts = {row.prompt: None for row in random_rows(copy.config, None).rows}
    if end is not None:
        prompts = {prompt: None for prompt in prompts if len(prompt) < end - 2}
    max_tokens = 14 if end is None else end - max(map(len, prompts))
    vocabulary = copy.config.get_text_config(decoder=True).vocab_size
    requests = [
        SamplingRequest(prompt, range(10 * index, 10 * index + NUM_SEEDS)) for index, prompt in enumerate(prompts)
    ]
    return requests, SamplingParams(tuple(range(0, vocabulary, STOP_PERIOD)), max_tokens)


def _fault(copy: Any, path: DecodePath, requests: list[SamplingRequest], params: SamplingParams) -> str | None:
    """How completions by a path differ from plain forward passes; None where they do not."""
    try:
        worst = _largest_gap(copy, path, requests, params)
        if MAX_ERROR < worst <= MAX_ROUNDING:
            with in_float64(copy):
                exact = _largest_gap(copy, path, requests, params)
            worst = worst if exact > MAX_ERROR_FLOAT64 else 0.0
    except Exception as error:  # noqa: BLE001  a path that the model's code does not allow fails with any error
        return f"its forward pass cannot be decoded token by token ({first_line(error)})"
    if worst <= MAX_ERROR:
        return None
    return f"the log-prob of a sampled token differs by {worst:.1g} from that of a plain forward pass"


def _largest_gap(copy: Any, path: DecodePath, requests: list[SamplingRequest], params: SamplingParams) -> float:
    completions = path.generate(SamplingCall(copy, MAX_ROWS, requests, params))
    return max(_sampled_gap(copy, requests[item.request].prompt, item) for item in completions)


def _sampled_gap(copy: Any, prompt: ModelInput, completion: PartialCompletion) -> float:
    logits = plain_logits(copy, prompt.extended(completion.ids).token_ids)[len(prompt) - 1 : -1]
    logp = logits.log_softmax(-1).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
    gap = float((logp - torch.tensor(completion.behavior, dtype=logp.dtype)).abs().max())
    return gap if gap == gap else float("inf")
