"""Models: loading, the forward pass and its log-probs, shared prefixes, adapters, reward models."""
