"""Data sets, prompts and chat templates; `load_dataset` turns a name or a path into problems."""

from obverse.data.load import EMBEDDED, NUM_PROBLEMS, difficulties, load_dataset

__all__ = ["EMBEDDED", "NUM_PROBLEMS", "difficulties", "load_dataset"]
