"""Measures speed and memory: against TRL on the same work, and against what the machine can do. See docs/speed.md."""
