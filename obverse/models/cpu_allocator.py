"""The memory allocator of models on a CPU: freed blocks are kept for the next tensors of their size.

glibc gives a block of more than 128 KB back to the system when it is freed, and raises that limit to the size of blocks
that were freed, but gives back the end of the heap too. Where that happens in every layer, the system clears the pages
of every intermediate tensor again: decoding a Mamba-2 model took five times as long.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Numbers of mallopt in glibc's malloc.h, and their values in bytes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 2**20  # the largest that glibc allows
KEPT_AT_THE_END = 256 * 2**20  # of the heap
# Settings by the user, which are not overridden.
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def keep_freed_memory() -> bool:
    """Make this process's allocator keep freed blocks of up to 32 MB; returns whether it does.

    False without glibc, or if the environment has settings of an allocator.
    """
    if any(name in os.environ for name in SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, KEPT_AT_THE_END))
