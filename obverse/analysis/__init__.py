"""Analyses of gradients, coefficients, token probabilities and coverage. Nothing is trained."""
