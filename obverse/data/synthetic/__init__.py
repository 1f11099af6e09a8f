"""Synthetic tasks: problems made by a seeded generator, with answers that can be checked."""
