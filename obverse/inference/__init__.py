"""Samplers: requests with prompts and seeds in; token ids, their log-probs and the reason of the end out."""

from obverse.inference.types import Completion, Sampler, SamplingParams, SamplingRequest, sampling_params

__all__ = ["Completion", "Sampler", "SamplingParams", "SamplingRequest", "sampling_params"]
