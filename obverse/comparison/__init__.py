"""Comparisons of methods at one budget: planned, run as trials, and tabulated."""
