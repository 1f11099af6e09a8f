"""Runs of several processes: their environment, collectives, sharded weights, and the detection of lost ranks."""
