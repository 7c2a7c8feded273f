"""Keep glibc from handing memory back between forwards.

A forward that frees its activations to the system pays page faults to get them again, or doesn't, by the history
of the process's heap: the same model was seen 10 % slower or faster, block by block. A process that runs one model
settles by itself or, surely, with the two variables that are named here.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""The largest that 64-bit glibc takes."""
NEVER = 2**31 - 1

ENVIRONMENT = f"MALLOC_TRIM_THRESHOLD_={NEVER} MALLOC_MMAP_THRESHOLD_={LARGEST_MMAP_THRESHOLD}"
"""What gives a deployed process the same heap."""


_kept = False


def keep_memory() -> None:
    """Let this process keep what it has allocated; where the C library is not glibc nothing changes."""
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    _kept = bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, NEVER))


def describe() -> str:
    """How this process's heap is run, for the record of its environment."""
    return f"kept between forwards, as by {ENVIRONMENT}" if _kept else "the C library's default"
