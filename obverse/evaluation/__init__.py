"""Evaluation: sampling, grading, stored samples and the figures that are made of them."""
