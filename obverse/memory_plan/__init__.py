"""The memory plan: the peak memory of a run, from its configuration alone, before anything is loaded.

The run's own code is executed with fake tensors, which have shapes and no numbers (`meta_models`), while a tracker
(`memory_tracker`) counts the bytes of live storages. So the plan covers every model family that a run supports, and
follows the code when it changes.
"""
