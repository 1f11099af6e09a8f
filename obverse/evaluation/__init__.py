"""Evaluation: sampling, grading, stored samples and metrics with confidence intervals."""
