"""Samplers: token ids in; token ids, the log-probs of the law that drew them and the reason they ended out."""

from obverse.sampling.protocol import Completion, Law, Order, Sampler, law_of

__all__ = ["Completion", "Law", "Order", "Sampler", "law_of"]
