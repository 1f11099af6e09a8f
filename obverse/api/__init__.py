"""The Python API: train, evaluate and compare with data, rewards and callbacks of the calling program."""
