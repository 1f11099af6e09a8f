"""A run folder and its files, checkpoints, signals and callbacks: what every long command needs."""
