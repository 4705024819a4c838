"""Memory that a job frees: kept for its next array while it runs, and given back when it has ended.

By default glibc returns each large array to the kernel at once, and the next one is paged in anew: a tenth of what
imaging costs a processor. Where the C library is not glibc, nothing is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache

# Read by glibc when a process begins.
ALLOCATOR_ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_MAX_": "0",
    # What is free at the end of the heap and more than this is given back even while a job runs.
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    # One heap for all threads: that of the thread in which a job runs would be too small for images.
    "MALLOC_ARENA_MAX": "1",
}


def give_memory_back() -> None:
    """Give all that is free back to the kernel; takes a tenth of a millisecond."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
