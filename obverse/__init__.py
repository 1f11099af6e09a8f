"""Post-training of language models: SFT and RL as one estimator. Importing the package costs nothing (no torch)."""

__version__ = "0.1.0"
