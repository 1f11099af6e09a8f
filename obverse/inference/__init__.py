"""Samplers: token ids in; token ids, the log-probs of the law that drew them and the reason they ended out."""

from obverse.inference.types import Completion, Sampler, SamplingParams, SamplingRequest, sampling_params

__all__ = ["Completion", "Sampler", "SamplingParams", "SamplingRequest", "sampling_params"]
